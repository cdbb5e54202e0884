"""The funnel of a pick: how many workers each of its steps left, in numbers and in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from avtomatika.engine.requirements import described, fits
from avtomatika.jobs import JSON, Limit, TaskInfo
from avtomatika.state.base import Candidate, Order

DEFAULT_LOAD_SECONDS = 5.0


@dataclass
class Funnel:
    """
    Attributes:
        known: live workers that declare the task.
        idle: of those, the ones with a free slot.
        looked_at: how many were asked for what the task wants.
        resources: of those looked at, the ones that have what it asks for.
        cost: of those, the ones within max_cost.
        chosen: the worker's id.
        reason: a sentence.
    """

    strategy: str
    known: int = 0
    idle: int = 0
    looked_at: int = 0
    resources: int = 0
    cost: int = 0
    chosen: str | None = None
    reason: str = ""

    def narrow(self, info: TaskInfo, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that suit the task; the others are counted out."""
        able = [candidate for candidate in candidates if fits(candidate.worker, info.resource_requirements)]
        cheap = [candidate for candidate in able if within_cost(info, candidate)]
        self.looked_at += len(candidates)
        self.resources += len(able)
        self.cost += len(cheap)
        return cheap

    def to_dict(self) -> JSON:
        return asdict(self)


def within_cost(info: TaskInfo, candidate: Candidate) -> bool:
    return info.max_cost is None or candidate.worker.cost_of(info.type) <= info.max_cost


def suits(info: TaskInfo, candidate: Candidate) -> bool:
    return fits(candidate.worker, info.resource_requirements) and within_cost(info, candidate)


def is_idle(candidate: Candidate, task_type: str) -> bool:
    """Whether it could start the task now, as far as the store and its own word go."""
    worker = candidate.worker
    return candidate.idle and candidate.free > 0 and worker.status == "idle" and task_type in worker.supported_tasks


def is_busy(candidate: Candidate, task_type: str) -> bool:
    """By its own word, although the store knows of no task that takes its slots."""
    worker = candidate.worker
    return candidate.free > 0 and (worker.status != "idle" or task_type not in worker.supported_tasks)


def slots_of(candidate: Candidate) -> int:
    worker = candidate.worker
    return max(1, worker.max_concurrent_tasks or sum(worker.capabilities.values()))


def load_seconds(task_type: str, fleet: Sequence[Candidate]) -> float:
    """How long loading the models of a task's skill takes, as the fleet has learned; DEFAULT_LOAD_SECONDS where nobody knows."""
    models = {model for candidate in fleet for model in candidate.worker.skill_dependencies.get(task_type, ())}
    total = 0.0
    for model in models:
        times = [candidate.worker.load_times[model] for candidate in fleet if model in candidate.worker.load_times]
        total += sum(times) / len(times) if times else 0.0
    return total or DEFAULT_LOAD_SECONDS


def why_chosen(info: TaskInfo, order: Order, chosen: Candidate, among: int) -> str:
    """Why a worker got a task, as a sentence."""
    cost = chosen.worker.cost_of(info.type)
    number = f"the {among} that suit" if among > 1 else "all that suit"
    match info.dispatch_strategy:
        case "default" if chosen.warm:
            return f"it holds the models already, at a cost of {cost:g} per second"
        case "default" | "cheapest":
            return f"of {number} none costs less than {cost:g} per second"
        case "round_robin":
            return f"of {number} none was picked longer ago"
        case "least_connections":
            return f"of {number} none has fewer tasks in its hands than {chosen.taken}"
        case "best_value":
            return f"of {number} none is better value than {cost:g} per second with a reputation of {chosen.reputation:g}"
        case name:
            return f"strategy {name!r} chose it from {among}, looking in the order of {order.value}"


def narrowed(info: TaskInfo, funnel: Funnel) -> str:
    """The steps over a whole fleet as a sentence, up to the one that left nobody."""
    if not funnel.known:
        return f"no live worker knows {info.type}; start one that declares it"
    parts = [f"{funnel.known} {'worker knows' if funnel.known == 1 else 'workers know'} {info.type}"]
    wanted = described(info.resource_requirements)
    if wanted:
        parts.append(f"{funnel.resources} {'has' if funnel.resources == 1 else 'have'} {wanted}")
    if funnel.resources and info.max_cost is not None:
        parts.append(f"{funnel.cost} {'is' if funnel.cost == 1 else 'are'} within max_cost {info.max_cost:g}")
    return ", ".join(parts)


def used_up(info: TaskInfo, key: str) -> str:
    """That a limit keeps a task waiting, as a sentence."""
    limit = next((limit for limit in info.limits if limit.key == key), None)
    if limit is None:
        return f"limit {key} is used up"
    if key.startswith("fanout:"):
        return f"max_concurrency {limit.count} of its fan-out is used up"
    return f"limit {key} ({amount(limit)}) is used up"


def amount(limit: Limit) -> str:
    return f"{limit.count} at once" if limit.seconds is None else f"{limit.count} in {limit.seconds:g} s"
