"""Invariants of a whole run, judged from what it left behind: effects, store, queues, events. Pure: `evidence.py` collects it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from avtomatika.jobs import Event, Job
from tests.support.effects import Run

_ENDS = frozenset({"job_finished", "job_failed", "job_cancelled", "job_quarantined"})
#: Events that say why there is another attempt. Those of branches name the new attempt, `task_lost` the one that is over.
_NEXT_OF_BRANCH = frozenset({"branch_retry", "branch_lost"})


@dataclass(frozen=True)
class Evidence:
    """What a run has left behind.

    Attributes:
        accepted: ids of the jobs whose creation was answered; their children are in `jobs`, too.
        jobs: all jobs of the store, by id.
        events: the events of each job, oldest first.
        stream: the global stream, oldest first.
        runs: the log of effects.
        leftovers: what must be empty at the end, by name, with how much is in it.
        uncovered: unfinished jobs that nothing leads on, each with a sentence.
        slots: how many runs of a capability one process may have at once.
        limits: how many runs may hold a limit at once, over all workers.
        died: when processes were killed, by pid; a run that was not ended by then ended so.
        lossy: the store may have forgotten its latest moments: jobs are gone, and steps that it forgot ran again.
    """

    accepted: Collection[str]
    jobs: Mapping[str, Job]
    events: Mapping[str, Sequence[Event]]
    stream: Sequence[Event] = ()
    runs: Sequence[Run] = ()
    leftovers: Mapping[str, int] = field(default_factory=dict)
    uncovered: Sequence[str] = ()
    slots: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    died: Mapping[int, float] = field(default_factory=dict)
    lossy: bool = False


def violations(evidence: Evidence) -> list[str]:
    """Sentences about what is wrong; none where everything held."""
    return [
        *_ends(evidence),
        *_effects(evidence),
        *_at_once(evidence),
        *evidence.uncovered,
        *(f"{count} left in {name}" for name, count in sorted(evidence.leftovers.items()) if count),
        *_versions(evidence),
    ]


def _ends(evidence: Evidence) -> Iterable[str]:
    """Every accepted job, and every child, ends; once, unless somebody had it tried again."""
    for job_id in sorted(set(evidence.accepted) - set(evidence.jobs)):
        if not evidence.lossy:
            yield f"job {job_id} was accepted and is gone"
    for job_id, job in evidence.jobs.items():
        if not job.status.is_terminal:
            yield f"job {job_id} has not ended: it is {job.status.value}"
        alive = True
        for event in evidence.events.get(job_id, ()):
            if event.event_type == "job_retried":
                alive = True
            elif not alive:
                yield f"job {job_id}: {event.event_type} after its end"
            if event.event_type in _ENDS:
                alive = False
        if job.status.is_terminal and alive:
            yield f"job {job_id} is {job.status.value}, and no event says so"


def _effects(evidence: Evidence) -> Iterable[str]:
    """One effect a step: an attempt runs to its end once, and another attempt has its reason among the events."""
    by_token: dict[str, list[Run]] = defaultdict(list)
    for run in evidence.runs:
        by_token[run.token].append(run)
    explained = {job_id: _explained(events) for job_id, events in evidence.events.items()}
    retried = {job_id for job_id, events in evidence.events.items() if any(event.event_type == "job_retried" for event in events)}
    for token, runs in by_token.items():
        job_id = runs[0].job_id
        if job_id in retried:
            continue
        ids: dict[int, set[str]] = defaultdict(set)
        for run in runs:
            ids[run.attempt].add(run.task_id)
        for attempt, task_ids in sorted(ids.items()):
            if len(task_ids) > 1 and not evidence.lossy:
                yield f"{token}: attempt {attempt} ran under {len(task_ids)} ids"
            if attempt > 1 and not explained.get(job_id, Counter())[attempt] and not evidence.lossy:
                yield f"{token}: attempt {attempt} ran, and no event says why there is one"
        yield from _twice(token, runs, evidence)
    for job_id, events in evidence.events.items():
        for task_id, count in Counter(e.task_id for e in events if e.event_type in ("task_finished", "branch_finished")).items():
            if count > 1:
                yield f"job {job_id}: the result of attempt {task_id} counted {count} times"


def _explained(events: Sequence[Event]) -> Counter[int]:
    """Numbers of later attempts that events give a reason for."""
    found: Counter[int] = Counter()
    for event in events:
        if event.event_type == "task_lost":
            found[(event.attempt or 0) + 1] += 1
        elif event.event_type == "task_retry" or event.event_type in _NEXT_OF_BRANCH:
            found[event.attempt or 0] += 1
    return found


def _twice(token: str, runs: Sequence[Run], evidence: Evidence) -> Iterable[str]:
    """An attempt runs again under its own id only where it was handed back (cancelled), or a lossy store forgot the run."""
    for task_id, count in Counter(run.task_id for run in runs if run.outcome != "cancelled").items():
        if count > 1 and not evidence.lossy:
            yield f"{token}: attempt {task_id} ran {count} times"


def _at_once(evidence: Evidence) -> Iterable[str]:
    """No capability of a process, and no limit, had more runs at once than it may."""
    last = max((run.ended or run.began for run in evidence.runs), default=0.0)
    over = _given_up(evidence)
    spans: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for run in evidence.runs:
        ended = run.ended if run.ended is not None else evidence.died.get(run.pid, last)
        if run.slot:
            spans[run.slot, f"{run.slot} of process {run.pid}"].append((run.began, ended))
        for name in run.limits:  # a lost attempt holds no lease, whatever its worker still does
            until = min(ended, over.get((run.token, run.attempt), ended))
            spans[name, f"limit {name}"].append((run.began, max(run.began, until)))
    for (name, what), times in spans.items():
        most, allowed = _most(times), {**evidence.slots, **evidence.limits}.get(name)
        if allowed is not None and most > allowed:
            yield f"{what}: {most} runs at once, where {allowed} may be"


def _given_up(evidence: Evidence) -> dict[tuple[str, int], float]:
    """When attempts, by step and number, were given to others, as their workers were dead or seemed so."""
    token_of = {run.task_id: run.token for run in evidence.runs}
    out: dict[tuple[str, int], float] = {}
    for event in (event for events in evidence.events.values() for event in events):
        token, attempt = token_of.get(event.task_id or "", ""), event.attempt or 0
        if event.event_type == "task_lost":
            out[token, attempt] = event.timestamp
        elif event.event_type == "branch_lost":  # names the attempt that comes next
            out[token, attempt - 1] = event.timestamp
    return out


def _most(spans: Sequence[tuple[float, float]]) -> int:
    running = most = 0
    for _, change in sorted([*((began, 1) for began, _ in spans), *((ended, -1) for _, ended in spans)]):
        running += change
        most = max(most, running)
    return most


def _versions(evidence: Evidence) -> Iterable[str]:
    """Versions only grow, no event is there twice, and the stream tells the same as the jobs' own lists."""
    for where, events in [
        *((f"job {job_id}", events) for job_id, events in evidence.events.items()),
        ("stream", evidence.stream),
    ]:
        latest: dict[str, int] = {}
        for event in events:
            version = _version(event)
            if version is None:
                continue
            if version < latest.get(event.job_id, 0):
                yield f"{where}: {event.event_type} of version {version} after version {latest[event.job_id]} of {event.job_id}"
            latest[event.job_id] = max(version, latest.get(event.job_id, 0))
        for event_id, count in Counter(event.id for event in events).items():
            if count > 1:
                yield f"{where}: event {event_id} is there {count} times"
    for job_id, job in evidence.jobs.items():
        versions = [v for e in evidence.events.get(job_id, ()) if (v := _version(e)) is not None]
        if versions and max(versions) > job.version:
            yield f"job {job_id} is at version {job.version}, and an event tells of {max(versions)}"
    if evidence.stream:
        listed = {event.id for events in evidence.events.values() for event in events}
        missing = {event.id for event in evidence.stream} ^ listed
        if missing:
            yield f"{len(missing)} events are in the stream or in a job's list alone, such as {min(missing)}"


def _version(event: Event) -> int | None:
    """The version that an event belongs to; None for those of branches, which have none."""
    parts = event.id.split(":")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else None
