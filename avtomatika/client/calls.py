"""The calls of the client API: what each one sends, and what its answer is. Both clients are made of these."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from inspect import Parameter, Signature, signature
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter

from avtomatika.client.answers import (
    Analytics,
    BlueprintView,
    Dashboard,
    EventView,
    JobPage,
    JobView,
    ManyView,
    QuarantinedView,
    ScheduleView,
    WorkerView,
)
from avtomatika.jobs import JSON, new_id

T = TypeVar("T")

_QUARANTINED = "/api/v1/jobs/quarantined"
GraphFormat = Literal["dot", "svg", "mermaid", "json"]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request.

    Attributes:
        parse: makes the answer of its body: of the decoded JSON, or of the text where it is none.
        repeatable: sent twice, it does no more than sent once.
    """

    method: str
    path: str
    parse: Callable[[Any], T]
    query: Mapping[str, str] = field(default_factory=dict)
    body: JSON | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True

    def raw(self) -> Call[Any]:
        """The same call, for its answer as it came."""
        return replace(self, parse=lambda answer: answer)


def signature_of(build: Callable[..., Call[Any]]) -> Signature:
    """The signature of a client's method that sends what `build` makes, for help() and editors."""
    found = signature(build)
    itself = Parameter("self", Parameter.POSITIONAL_ONLY)
    answer = str(found.return_annotation).removeprefix("Call[").removesuffix("]")
    return found.replace(parameters=[itself, *found.parameters.values()], return_annotation=answer)


def submit(
    blueprint: str,
    initial_data: Mapping[str, Any] | None = None,
    *,
    priority: float = 0.0,
    tags: Collection[str] = (),
    webhook_url: str | None = None,
    idempotency_key: str | None = None,
) -> Call[str]:
    """Creates a job of a blueprint and returns its id. The same key again gives the same job; without one, one is made."""
    body: JSON = {"blueprint": blueprint, "initial_data": dict(initial_data or {})}
    if priority:
        body["priority"] = priority
    if tags:
        body["tags"] = list(tags)
    if webhook_url is not None:
        body["webhook_url"] = webhook_url
    headers = {"Idempotency-Key": idempotency_key or new_id()}
    return Call("POST", "/api/v1/jobs", _the("job_id"), body=body, headers=headers)


def get(job_id: str) -> Call[JobView]:
    """A job as it stands."""
    return Call("GET", _job(job_id), JobView.model_validate)


def page(
    *,
    status: str | None = None,
    blueprint: str | None = None,
    tag: str | None = None,
    since: datetime | float | str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Call[JobPage]:
    """One page of jobs, newest first."""
    wanted = {
        "status": status,
        "blueprint": blueprint,
        "tag": tag,
        "since": _moment(since),
        "limit": limit,
        "cursor": cursor,
    }
    query = {name: str(value) for name, value in wanted.items() if value is not None}
    return Call("GET", "/api/v1/jobs", JobPage.model_validate, query=query)


def history(job_id: str) -> Call[list[EventView]]:
    """What happened to a job, oldest first."""
    return Call("GET", _job(job_id, "history"), TypeAdapter(list[EventView]).validate_python)


def analytics(
    by: Literal["blueprint", "task", "worker"] | str = "blueprint",
    *,
    since: datetime | float | str | None = None,
    until: datetime | float | str | None = None,
) -> Call[Analytics]:
    """What ended in a time, counted by blueprint, task or worker; the last seven days by default."""
    wanted = {"by": by, "since": _moment(since), "until": _moment(until)}
    query = {name: str(value) for name, value in wanted.items() if value is not None}
    return Call("GET", "/api/v1/analytics", Analytics.model_validate, query=query)


def _moment(at: datetime | float | str | None) -> float | str | None:
    return at.isoformat() if isinstance(at, datetime) else at


def cancel(job_id: str, *, force: bool = False) -> Call[str]:
    """Cancels a job; the answer says whether its worker was told at once. Forced, it ends now, whatever its clean-up does."""
    return _order(job_id, "cancel", {"force": True} if force else None)


def retry(
    job_id: str,
    *,
    initial_data: Mapping[str, Any] | None = None,
    state_history: Mapping[str, Any] | None = None,
    state: str | None = None,
) -> Call[str]:
    """Lets a failed or quarantined job try again.

    Args:
        initial_data, state_history: merge patches (RFC 7386) laid over the job's own first.
        state: the state to go on with; else the one in which it went wrong.
    """
    return _order(job_id, "retry", _given(initial_data=initial_data, state_history=state_history, state=state))


def discard(job_id: str, *, reason: str = "") -> Call[str]:
    """Gives a quarantined job up for good."""
    return _order(job_id, "discard", {"reason": reason} if reason else None)


def quarantine(job_id: str, *, reason: str = "") -> Call[str]:
    """Puts a live job into quarantine; what runs for it is stopped."""
    return _order(job_id, "quarantine", {"reason": reason} if reason else None)


def pause(job_id: str) -> Call[str]:
    """Pauses a job before its next step."""
    return _order(job_id, "pause")


def resume(job_id: str) -> Call[str]:
    """Lets a paused job go on."""
    return _order(job_id, "resume")


def decide(job_id: str, decision: str, comment: str | None = None) -> Call[str]:
    """Answers the question that a job waits for a person with."""
    body = {"decision": decision, **({"comment": comment} if comment is not None else {})}
    return _order(job_id, "decide", body)


def quarantined(
    *,
    blueprint: str | None = None,
    code: str | None = None,
    reason: str | None = None,
    older_than: float | None = None,
    newer_than: float | None = None,
    limit: int = 1000,
    offset: int = 0,
) -> Call[list[QuarantinedView]]:
    """Quarantined jobs, with why, those that came last first.

    Args:
        code: of the failure.
        reason: a part of the error message.
        older_than, newer_than: seconds that they have been there.
    """
    wanted = _given(blueprint=blueprint, code=code, reason=reason, older_than=older_than, newer_than=newer_than)
    query = {name: str(value) for name, value in {**(wanted or {}), "limit": limit, "offset": offset}.items()}
    return Call("GET", _QUARANTINED, TypeAdapter(list[QuarantinedView]).validate_python, query=query)


def quarantined_job(job_id: str) -> Call[QuarantinedView]:
    """One of them with the attempt over which it happened, its params and the job's data."""
    return Call("GET", f"{_QUARANTINED}/{quote(job_id, safe='')}", QuarantinedView.model_validate)


def retry_quarantined(
    filter: Mapping[str, Any],
    *,
    initial_data: Mapping[str, Any] | None = None,
    state_history: Mapping[str, Any] | None = None,
    state: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
    dry_run: bool = False,
) -> Call[ManyView]:
    """Lets quarantined jobs try again, at most `limit` at once.

    Args:
        filter: blueprint, code, reason, older_than, newer_than, as `quarantined` takes them; {} for all.
        cursor: the `next_cursor` of the answer before.
        dry_run: only says which they would be.
    """
    edit = _given(initial_data=initial_data, state_history=state_history, state=state)
    return _many("retry", filter, limit, cursor, dry_run, edit or {})


def discard_quarantined(
    filter: Mapping[str, Any],
    *,
    reason: str = "",
    limit: int = 100,
    cursor: str | None = None,
    dry_run: bool = False,
) -> Call[ManyView]:
    """Gives quarantined jobs up for good, at most `limit` at once; the rest as for `retry_quarantined`."""
    return _many("discard", filter, limit, cursor, dry_run, {"reason": reason} if reason else {})


def blueprints() -> Call[list[BlueprintView]]:
    """The blueprints that the facade knows."""
    return Call("GET", "/api/v1/blueprints", TypeAdapter(list[BlueprintView]).validate_python)


def graph(blueprint: str, format: GraphFormat = "dot") -> Call[str]:
    """A blueprint's states and transitions, as text."""
    return Call("GET", f"/api/v1/blueprints/{quote(blueprint, safe='')}/graph", _text, query={"format": format})


def schedules(*, limit: int = 1000, offset: int = 0) -> Call[list[ScheduleView]]:
    """Schedules by name; for admins."""
    query = {"limit": str(limit), "offset": str(offset)}
    return Call("GET", "/api/v1/schedules", TypeAdapter(list[ScheduleView]).validate_python, query=query)


def schedule(name: str, count: int = 5) -> Call[ScheduleView]:
    """A schedule and its next due times."""
    return Call("GET", _schedule(name), ScheduleView.model_validate, query={"count": str(count)})


def pause_schedule(name: str) -> Call[ScheduleView]:
    """Pauses a schedule; one that is paused stays so."""
    return Call("POST", _schedule(name, "pause"), ScheduleView.model_validate)


def resume_schedule(name: str) -> Call[ScheduleView]:
    """Lets a paused schedule go on with its next due time."""
    return Call("POST", _schedule(name, "resume"), ScheduleView.model_validate)


def trigger_schedule(name: str) -> Call[str]:
    """Makes a job of a schedule now, and returns its id."""
    return Call("POST", _schedule(name, "trigger"), _the("job_id"), repeatable=False)


def queue(command: str, params: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None) -> Call[JSON]:
    """Carries out a command of the queue, such as ``queue_push``; its answer as a dict. See docs/queue.md.

    A command that adds a task and is given no key gets one, so that it may be repeated.
    """
    adds = command in ("queue_push", "scp_client", "ssh_client")
    headers = {"Idempotency-Key": idempotency_key or new_id()} if adds else {}
    repeatable = adds or command in ("queue_status", "queue_task_status")
    path = f"/api/v1/queue/{quote(command, safe='')}"
    return Call("POST", path, dict, body=dict(params or {}), headers=headers, repeatable=repeatable)


def workers() -> Call[list[WorkerView]]:
    """Workers that are alive."""
    return Call("GET", "/api/v1/workers", TypeAdapter(list[WorkerView]).validate_python)


def dashboard() -> Call[Dashboard]:
    """How many workers, jobs and waiting messages there are."""
    return Call("GET", "/api/v1/dashboard", Dashboard.model_validate)


def events_path(job_id: str) -> str:
    return _job(job_id, "events")


def _job(job_id: str, *parts: str) -> str:
    return "/".join(("/api/v1/jobs", quote(job_id, safe=""), *parts))


def _schedule(name: str, *parts: str) -> str:
    return "/".join(("/api/v1/schedules", quote(name, safe=""), *parts))


def _order(job_id: str, name: str, body: JSON | None = None) -> Call[str]:
    return Call("POST", _job(job_id, name), _the("status"), body=body, repeatable=False)


def _many(order: str, filter: Mapping[str, Any], limit: int, cursor: str | None, dry_run: bool, more: JSON) -> Call[ManyView]:
    body = {"filter": dict(filter), "limit": limit, "dry_run": dry_run, **({"cursor": cursor} if cursor else {}), **more}
    return Call("POST", f"{_QUARANTINED}/{order}", ManyView.model_validate, body=body, repeatable=False)


def _given(**values: Any) -> JSON | None:
    """Those that are not None; None where none is left."""
    return {name: value for name, value in values.items() if value is not None} or None


def _the(name: str) -> Callable[[Any], str]:
    return lambda answer: str(answer[name])


def _text(answer: Any) -> str:
    return str(answer)
