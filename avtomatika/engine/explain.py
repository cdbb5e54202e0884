"""Why a task waits, as things are now: for people who ask."""

from __future__ import annotations

from avtomatika.engine import strategies
from avtomatika.engine.funnel import Funnel, is_idle, load_seconds, narrowed, used_up
from avtomatika.jobs import JSON, TaskState
from avtomatika.state.base import Candidate, Store, TaskRecord


async def explain(store: Store, record: TaskRecord, now: float, warm_grace: float) -> JSON:
    """``{"funnel", "reason"}`` of a task that waits in the store or in its queue.

    Args:
        warm_grace: WARM_GRACE_SECONDS.
    """
    info = record.info
    fleet = list(await store.knowing(info.type, now))
    funnel = Funnel(info.dispatch_strategy, known=len(fleet), idle=sum(is_idle(candidate, info.type) for candidate in fleet))
    suitable = funnel.narrow(info, fleet)
    idle = [candidate for candidate in suitable if is_idle(candidate, info.type)]
    said = narrowed(info, funnel)
    ahead = await store.lane_position(info.id) if record.state is TaskState.WAITING else None
    before = f"{ahead} of your tasks {'is' if ahead == 1 else 'are'} ahead of it" if ahead else ""
    if record.parked_on is not None:
        funnel.reason = "; ".join(filter(None, [used_up(info, record.parked_on), before]))
    elif not suitable:
        funnel.reason = said
    elif not info.needs_pick:
        funnel.reason = _of_a_plain_pick(record, fleet, idle, said, before, now, warm_grace)
    elif not idle:
        funnel.reason = "; ".join(filter(None, [f"{said}, {_all_busy(suitable)}", before]))
    else:
        funnel.reason = before or _next(record, idle)
    return {"funnel": funnel.to_dict(), "reason": funnel.reason}


def _all_busy(suitable: list[Candidate]) -> str:
    return "it is busy" if len(suitable) == 1 else "all are busy"


def _of_a_plain_pick(
    record: TaskRecord, fleet: list[Candidate], idle: list[Candidate], said: str, before: str, now: float, warm_grace: float
) -> str:
    """Of a task that anybody may run who knows it."""
    info = record.info
    warm = [candidate for candidate in fleet if candidate.warm]
    grace = min(load_seconds(info.type, fleet), warm_grace)
    if record.state is TaskState.WAITING and warm and now - (record.waiting_since or now) < grace:
        holds = "1 holds its models and is" if len(warm) == 1 else f"{len(warm)} hold its models and are"
        return "; ".join(filter(None, [f"{said}, {holds} waited for, {grace:g} s at most", before]))
    if idle:
        return before or "it is about to start"
    if before:
        return f"{before}; no slot is free"
    return f"{said}, {_all_busy(fleet)}"


def _next(record: TaskRecord, idle: list[Candidate]) -> str:
    """It is the first of its lane, and there are workers for it: only its strategy can keep it waiting for long."""
    name = record.info.dispatch_strategy
    strategy = strategies.find(name)
    if strategy is None:
        return f"no strategy {name!r} is loaded here (known: {', '.join(strategies.known())})"
    chosen, problem = strategies.ask(strategy, record.info, idle)
    if problem is not None:
        return problem
    return f"strategy {name!r} chooses none of the {len(idle)} workers that suit" if chosen is None else "it is about to start"
