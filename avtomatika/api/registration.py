"""What HTTP workers say of themselves, in every documented variant, and the record that it makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from avtomatika.api.middleware import RequestError
from avtomatika.broker.queues import ORCHESTRATOR
from avtomatika.errors import RegistrationError
from avtomatika.jobs import JSON, WorkerRecord
from avtomatika.worker.resources import check_resources

#: Each of them is looked at whenever the worker says something new.
MAX_TASKS = 500
MAX_MODELS = 2_000
MAX_EXTRA_BYTES = 64 * 1024


def _is_id(value: str) -> str:
    if not value.isprintable() or any(char.isspace() or char in "/\\" for char in value):
        raise ValueError("must be printable, without spaces and slashes")
    return value


def _name(value: Any) -> Any:
    """A name, or an object that holds one."""
    if isinstance(value, Mapping):
        return next((value[key] for key in ("name", "id", "model") if isinstance(value.get(key), str)), value)
    return value


def _names(value: Any) -> Any:
    if isinstance(value, Mapping):  # {name: whatever}
        return list(value)
    return [_name(item) for item in value] if isinstance(value, list) else value


WorkerId = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_is_id)]
Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_is_id)]
Names = Annotated[list[Name], BeforeValidator(_names), Field(max_length=MAX_TASKS)]
ModelName = Annotated[str, Field(min_length=1, max_length=500)]
ModelNames = Annotated[list[ModelName], BeforeValidator(_names), Field(max_length=MAX_MODELS)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]


class CapabilityOf(BaseModel):
    """Of one capability: how many of its tasks run at once, and which tasks they are."""

    limit: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    tasks: Names = Field(default_factory=list)


def _capability(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"limit": value}
    return {"tasks": value} if isinstance(value, list) else value


Capabilities = dict[Name, Annotated[CapabilityOf, BeforeValidator(_capability)]]


class State(BaseModel):
    """What a worker may say at any time; whatever it leaves out stays as it was. Unknown fields are kept."""

    model_config = ConfigDict(extra="allow")

    load: Count | Amount | dict[str, Count | Amount] | None = None
    status: Annotated[str, Field(max_length=100)] | None = None
    supported_tasks: Names | None = None
    hot_cache: ModelNames | None = None
    hot_skills: Names | None = None
    skill_dependencies: dict[Name, ModelNames] | None = None
    installed_models: ModelNames | None = None
    max_concurrent_tasks: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    resources: dict[str, Any] | None = None
    cost_per_second: Amount | None = None
    cost: Amount | None = None
    cost_per_skill: dict[Name, Amount] | None = None
    capabilities: Capabilities | None = None
    heartbeat_interval: Annotated[float, Field(gt=0, le=3600)] | None = None
    worker_type: Annotated[str, Field(max_length=200)] | None = None


class Registration(State):
    """The body of ``POST /_worker/workers/register``. Without `max_concurrent_tasks` a worker runs one task at a time."""

    worker_id: WorkerId


def new_record(body: Registration) -> tuple[WorkerRecord, dict[str, str | None]]:
    """The record of a start, and task -> capability (None: the pinned one) as the worker says it.

    Raises:
        RequestError: its resources or capabilities do not fit.
    """
    record = WorkerRecord(body.worker_id, "", type="http", max_concurrent_tasks=1)
    record = changed(record, body)
    capabilities = _capability_of(body, record.tasks)
    tasks = tuple(dict.fromkeys((*record.tasks, *capabilities)))
    if len(tasks) > MAX_TASKS:
        raise RequestError(422, f"a worker names at most {MAX_TASKS} tasks, not {len(tasks)}")
    supported = tasks if body.supported_tasks is None else record.supported_tasks
    return replace(record, tasks=tasks, supported_tasks=supported), capabilities


def changed(record: WorkerRecord, said: State) -> WorkerRecord:
    """The record with what a worker says now. Raises RequestError."""
    changes: JSON = {name: getattr(said, name) for name in _PLAIN if getattr(said, name) is not None}
    if said.worker_type:
        changes["type"] = said.worker_type
    cost = said.cost_per_second if said.cost_per_second is not None else said.cost
    if cost is not None:
        changes["cost_per_second"] = cost
    for name in ("hot_cache", "installed_models"):
        names = getattr(said, name)
        if names is not None:
            changes[name] = tuple(dict.fromkeys(names))
    if said.supported_tasks is not None:
        changes["supported_tasks"] = tuple(dict.fromkeys(said.supported_tasks))
        changes["tasks"] = tuple(dict.fromkeys((*record.tasks, *said.supported_tasks)))
        if len(changes["tasks"]) > MAX_TASKS:
            raise RequestError(422, f"a worker names at most {MAX_TASKS} tasks over its life; register it anew")
    if said.hot_skills is not None and said.skill_dependencies is None:
        changes["skill_dependencies"], changes["hot_cache"] = _hot(record, said.hot_skills, changes.get("hot_cache"))
    if said.load is not None:
        changes["load"] = dict(said.load) if isinstance(said.load, dict) else {"all": said.load}
    if said.resources is not None:
        changes["resources"] = _resources(said.resources)
    most = said.max_concurrent_tasks
    if most is not None and most != record.max_concurrent_tasks:  # whoever had no limit of its own had this one
        old = record.max_concurrent_tasks
        changes["capabilities"] = {name: most if limit == old else limit for name, limit in record.capabilities.items()}
    if said.capabilities:
        limits = {name: item.limit for name, item in said.capabilities.items() if item.limit is not None}
        changes["capabilities"] = {**changes.get("capabilities", record.capabilities), **limits}
    if said.model_extra:
        changes["extra"] = {**record.extra, **said.model_extra}
        if len(json.dumps(changes["extra"])) > MAX_EXTRA_BYTES:
            raise RequestError(422, f"unknown fields are kept up to {MAX_EXTRA_BYTES} bytes in all; send less of them")
    return replace(record, **changes)


_PLAIN = ("status", "max_concurrent_tasks", "cost_per_skill", "skill_dependencies", "heartbeat_interval")


def _hot(record: WorkerRecord, skills: list[str], cache: tuple[str, ...] | None) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """A worker that names its hot skills without their models: each counts as a model of its own."""
    hot = record.hot_cache if cache is None else cache
    unknown = [skill for skill in skills if skill not in record.skill_dependencies]
    own = {skill for skill, models in record.skill_dependencies.items() if models == [f"skill:{skill}"]}
    kept = [model for model in hot if not model.startswith("skill:")]
    named = [f"skill:{skill}" for skill in skills if skill in unknown or skill in own]
    dependencies = {**record.skill_dependencies, **{skill: [f"skill:{skill}"] for skill in unknown}}
    return dependencies, tuple(dict.fromkeys((*kept, *named)))


def _resources(value: JSON) -> JSON:
    gpu = value.get("gpu_info")
    if isinstance(gpu, Mapping):
        gpu = {name: item for name, item in gpu.items() if item is not None}
    kept = {name: item for name, item in value.items() if name != "gpu_info" and item is not None}
    try:
        return check_resources({**kept, "gpu_info": gpu} if gpu else kept, "resources")
    except RegistrationError as exc:
        raise RequestError(422, str(exc)) from None


def _capability_of(body: State, tasks: tuple[str, ...]) -> dict[str, str | None]:
    out: dict[str, str | None] = dict.fromkeys(tasks)
    for name, item in (body.capabilities or {}).items():
        if name in (ORCHESTRATOR, "worker") or "." in name:
            raise RequestError(422, f"capabilities: {name!r} cannot be one: it has no dot, and is none of the engine's own")
        for task in item.tasks:
            if out.get(task) not in (None, name):
                raise RequestError(422, f"capabilities: task {task!r} is in {out[task]!r} and in {name!r}; it has one capability")
            out[task] = name
    for task, capability in out.items():
        if capability is None and task in (ORCHESTRATOR, "worker"):
            raise RequestError(422, f"supported_tasks: {task!r} belongs to the engine; name another task")
    return out


def new_capabilities(record: WorkerRecord, said: State) -> dict[str, str | None]:
    """Of the tasks that a worker names for the first time."""
    return {
        task: name for task, name in _capability_of(said, tuple(said.supported_tasks or ())).items() if task not in record.tasks
    }
