"""A schedule from what a user wrote, in Python or in TOML: all that can be wrong with it is found here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from avtomatika.errors import AvtomatikaError
from avtomatika.jobs import Client
from avtomatika.results import JSON
from avtomatika.schedules.records import KEY, TAG, CatchUp, Schedule
from avtomatika.schedules.timing import NICKNAMES, Cron, Every, seconds_of, zone_of

T = TypeVar("T")

OPTIONS = ("cron", "every", "timezone", "catch_up", "initial_data", "tags", "priority", "client")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_CLIENT = {"name": str, "plan": str, "role": str, "params": dict}
_MAX_TAGS = 50
_MAX_TAG = 200


class MisfitError(AvtomatikaError):
    """A schedule does not fit. The message is ``what is wrong; the fix``.

    Attributes:
        key: the option that is wrong; None for the schedule as a whole.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def make_schedule(name: str, blueprint: str, options: Mapping[str, Any], origin: str) -> Schedule:
    """A schedule; an option of None counts as left out. Raises MisfitError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise MisfitError(f"the schedule's name {name!r} does not fit; use letters, digits, _ . and -, 128 at most", "name")
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        _refuse_unknown(key)
    cron, every, timezone = _timing(given)
    return Schedule(
        name=name,
        blueprint=blueprint,
        cron=cron,
        every=every,
        timezone=timezone,
        catch_up=_catch_up(given.get("catch_up", CatchUp.LAST)),
        initial_data=_initial_data(given.get("initial_data", {})),
        tags=_tags(given.get("tags", ())),
        priority=_priority(given.get("priority", 0.0)),
        client=_client(given.get("client", "")),
        origin=origin,
    )


def _refuse_unknown(key: str) -> None:
    if key not in OPTIONS:
        near = get_close_matches(key, OPTIONS, 1)
        fix = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(OPTIONS)}"
        raise MisfitError(f"a schedule has no {key!r}; {fix}", key)


def _timing(given: Mapping[str, Any]) -> tuple[str | None, float | None, str]:
    if ("cron" in given) == ("every" in given):
        both = "cron" in given
        raise MisfitError(
            f"a schedule has {'both cron and every' if both else 'neither cron nor every'}; give it one of the two",
            "every" if both else None,
        )
    timezone = given.get("timezone", "UTC")
    if "every" in given:
        if "timezone" in given:
            raise MisfitError("an interval has no time zone; take timezone out, or write a cron expression", "timezone")
        return None, _checked("every", lambda: Every(seconds_of(given["every"])).seconds), "UTC"
    cron = given["cron"]
    if not isinstance(cron, str):
        raise MisfitError(f'cron must be a text, not {_kind(cron)}; write it like "30 2 * * *"', "cron")
    if not isinstance(timezone, str):
        raise MisfitError(f'timezone must be a text, not {_kind(timezone)}; write it like "Europe/Berlin"', "timezone")
    _checked("timezone", lambda: zone_of(timezone))
    cron = " ".join(cron.split())
    cron = NICKNAMES.get(cron.lower(), cron)
    return _checked("cron", lambda: Cron(cron, timezone).expression), None, timezone


def _checked(key: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as exc:
        raise MisfitError(str(exc), key) from None


def _catch_up(value: Any) -> CatchUp:
    try:
        return CatchUp(value)
    except ValueError:
        known = ", ".join(f'"{choice}"' for choice in CatchUp)
        raise MisfitError(f"catch_up {value!r} is unknown; write one of {known}", "catch_up") from None


def _initial_data(value: Any) -> JSON:
    if not isinstance(value, Mapping):
        raise MisfitError(f"initial_data must be an object (a table), not {_kind(value)}; give names and values", "initial_data")
    if KEY in value:
        raise MisfitError(
            f"initial_data has {KEY!r}, under which a job finds its schedule and due time; give it another name", "initial_data"
        )
    try:
        plain: JSON = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as exc:
        raise MisfitError(f"initial_data is not JSON: {exc}; write what JSON does not know as a text", "initial_data") from None
    return plain


def _tags(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise MisfitError(f'tags must be an array of texts, not {_kind(value)}; write them like ["reports"]', "tags")
    tags = tuple(value)
    if len(tags) > _MAX_TAGS:
        raise MisfitError(f"there are {len(tags)} tags; give {_MAX_TAGS} at most", "tags")
    for tag in tags:
        if not isinstance(tag, str) or not 0 < len(tag) <= _MAX_TAG:
            raise MisfitError(f"the tag {tag!r} does not fit; a tag is a text of 1 to {_MAX_TAG} characters", "tags")
        if tag.startswith(TAG):
            raise MisfitError(f"the tag {tag!r} begins as those that name schedules; give it another name", "tags")
    return tags


def _priority(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10:
        raise MisfitError(f"priority {value!r} does not fit; write a number from 0 to 10, highest first", "priority")
    return float(value)


def _client(value: Any) -> Client:
    fields = {"name": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
        raise MisfitError(f"client {value!r} does not fit; write its name, or a table with name, plan, role and params", "client")
    for key, inner in fields.items():
        if key not in _CLIENT or not isinstance(inner, _CLIENT[key]):
            raise MisfitError(f"{key!r} of client does not fit; it has name, plan and role, texts, and params, a table", "client")
    try:
        params = json.loads(json.dumps(fields.get("params", {}), allow_nan=False))
    except (TypeError, ValueError) as exc:
        raise MisfitError(f"params of client are not JSON: {exc}; write what JSON does not know as a text", "client") from None
    if {"webhook_url", "webhook_secret"} & set(params):
        raise MisfitError("params of client name a webhook, which the jobs of schedules do not have; take it out", "client")
    return Client(fields["name"], fields.get("plan", ""), fields.get("role", "default"), params=params)


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "no number"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "an array", dict: "a table"}
    return names.get(type(value), type(value).__name__)
