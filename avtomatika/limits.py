"""Limits as users write them: ``{"openai": "60/min", "tenant:{client}": 5}``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from avtomatika.errors import HandlerError
from avtomatika.records import Limit

PLACEHOLDERS = ("client", "blueprint", "task", "job_id")

#: Keys of ours begin with it: those of the fan-outs' own limits.
FANOUT = "fanout:"
#: Tasks under which workers have died too often run one at a time: should one more die, it is known which of them did it.
SUSPECTS = "suspects:"

_UNITS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "day": 86400}
_RATE = re.compile(r"\s*(\d+)\s*/\s*(\d+(?:\.\d+)?)?\s*([a-z]+)\s*", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_HOW = f'write 5 for five at once, or a rate such as "60/min" or "10/30s" (units: {", ".join(_UNITS)})'


def parse_limits(what: str, value: Any) -> tuple[Limit, ...]:
    """The limits of a dispatch, by key; their placeholders are filled by `fill_limits`.

    Args:
        what: the name of the option, for the message.

    Raises:
        HandlerError: a key or a limit does not fit; the message names the fix.
    """
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise HandlerError(f"{what} must be a dict of keys and limits, not {type(value).__name__}; {_HOW}")
    return tuple(_limit(what, key, limit) for key, limit in value.items())


def check_key(what: str, key: Any) -> str:
    """A key with placeholders that are known; HandlerError for any other."""
    if not isinstance(key, str) or not key.strip() or not key.isprintable():
        raise HandlerError(
            f"{what}: a key must be a text that is not empty, such as 'openai' or 'tenant:{{client}}', not {key!r}"
        )
    unknown = [name for name in _PLACEHOLDER.findall(key) if name not in PLACEHOLDERS]
    if unknown:
        raise HandlerError(f"{what}: unknown placeholder {{{unknown[0]}}} in key {key!r}; there are {_listed()}")
    if set("{}") & set(_PLACEHOLDER.sub("", key)):
        raise HandlerError(f"{what}: a brace in key {key!r} is not closed or not opened; placeholders are {_listed()}")
    return key


def fill_key(key: str, names: Mapping[str, str]) -> str:
    """A key with its placeholders filled; `names` has one value for each of `PLACEHOLDERS`."""
    return _PLACEHOLDER.sub(lambda match: names[match[1]], key)


def fill_limits(limits: Iterable[Limit], names: Mapping[str, str]) -> tuple[Limit, ...]:
    """The limits with their keys filled; HandlerError where two keys become the same."""
    filled: dict[str, Limit] = {}
    for limit in limits:
        key = fill_key(limit.key, names)
        if key in filled:
            raise HandlerError(f"limits: two keys become {key!r} once their placeholders are filled; give one of them a prefix")
        filled[key] = Limit(key, limit.count, limit.seconds)
    return tuple(filled.values())


def _limit(what: str, key: Any, value: Any) -> Limit:
    check_key(what, key)
    for own in (FANOUT, SUSPECTS):
        if key.startswith(own):
            raise HandlerError(f"{what}: keys that begin with {own!r} are the engine's own; give {key!r} another name")
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return Limit(key, value)
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[3] not in _UNITS:
        raise HandlerError(f"{what}: {value!r} is no limit for key {key!r}; {_HOW}")
    count, seconds = int(match[1]), float(match[2] or 1) * _UNITS[match[3]]
    if not count or not seconds:
        raise HandlerError(f"{what}: {value!r} for key {key!r} would let nothing start; {_HOW}")
    return Limit(key, count, seconds)


def _listed() -> str:
    return ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
