"""The records beside jobs and tasks: prepared messages, timers, registered processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avtomatika.results import JSON


@dataclass(frozen=True, slots=True)
class Message:
    """A prepared broker message: all that a publisher needs, on any broker; JSON, so it can lie in the outbox.

    Attributes:
        queue: the physical queue's name; the routing key where an exchange is named.
        body: the serialised (JSON) body.
        priority: 0..10, highest first, which the publisher maps onto the broker's own; None sends none.
        exchange: "" (the default one) for every queue of ours; a plain Celery task's route may name another.
        declare: what the publisher makes sure of: a ``capability`` queue, a ``direct`` one (of one worker), a ``default`` one, or
            ``nothing``.
        key: names what this message continues (`step:<job>`, `resume:<task>`, `aggregate:<fan-out>`, `child:<job>`). The store
            keeps the message under it until a commit settles the key, so that one lost on the way is published again.
    """

    queue: str
    body: str
    headers: JSON
    properties: JSON
    priority: int | None = None
    exchange: str = ""
    declare: str = "capability"
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    key: str | None = None

    def to_dict(self) -> JSON:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Message:
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Timer:
    """Something due at a time. `kind` and `key` name it: setting it again moves it."""

    kind: str
    key: str
    due: float

    @property
    def member(self) -> str:
        return f"{self.kind}|{self.key}"

    @classmethod
    def from_member(cls, member: str, due: float) -> Timer:
        kind, _, key = member.partition("|")
        return cls(kind, key, due)


@dataclass(frozen=True, slots=True)
class Limit:
    """How many tasks may share a key: `count` at once, or, with `seconds`, `count` starts in any that many seconds."""

    key: str
    count: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One registered process: a Celery worker (its nodename is the id), an HTTP worker, or an orchestrator.

    Attributes:
        status: ``idle``, or ``busy`` at the global limit or with no free capability.
        tasks: every task that it can run, busy or not.
        supported_tasks: of those, the ones it could start now: a capability without a free slot takes its tasks out.
        capabilities: capability -> how many of its tasks run at once.
        max_concurrent_tasks: over all capabilities; 0 means no such limit.
        load: capability -> running.
        hot_cache: the models that are loaded.
        skill_dependencies: task -> the models that must be loaded for it to start warm.
        installed_models: names of the models on its disk.
        load_times: model -> seconds that loading it took lately.
        cost_per_second: in whatever currency the fleet counts in; `cost_per_skill` overrides it for single tasks.
        http: it pulls over HTTP, from a facade, and not from the broker.
        heartbeat_interval: seconds between two of its heartbeats, by its own word.
        extra: whatever else it says of itself.
        resources: ``{"cpu_cores", "memory_gb", "gpu_info": {"model", "vram_gb"}, …}``; numbers are amounts, the rest are names.
    """

    id: str
    boot_id: str
    type: str = "celery"
    status: str = "idle"
    tasks: tuple[str, ...] = ()
    supported_tasks: tuple[str, ...] = ()
    capabilities: dict[str, int] = field(default_factory=dict)
    max_concurrent_tasks: int = 0
    load: dict[str, int] = field(default_factory=dict)
    hot_cache: tuple[str, ...] = ()
    skill_dependencies: dict[str, list[str]] = field(default_factory=dict)
    installed_models: tuple[str, ...] = ()
    load_times: dict[str, float] = field(default_factory=dict)
    cost_per_second: float = 0.0
    cost_per_skill: dict[str, float] = field(default_factory=dict)
    resources: JSON = field(default_factory=dict)
    software: JSON = field(default_factory=dict)
    http: bool = False
    heartbeat_interval: float = 15.0
    extra: JSON = field(default_factory=dict)
    registered_at: float = 0.0
    seen_at: float = 0.0

    @property
    def hot_skills(self) -> tuple[str, ...]:
        """The tasks whose models are all loaded."""
        hot = set(self.hot_cache)
        return tuple(sorted(task for task, models in self.skill_dependencies.items() if models and hot.issuperset(models)))

    def cost_of(self, task: str) -> float:
        """What a second of this task costs here."""
        return self.cost_per_skill.get(task, self.cost_per_second)

    def to_dict(self) -> JSON:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> WorkerRecord:
        fields = dict(value)
        for name in ("tasks", "supported_tasks", "hot_cache", "installed_models"):
            fields[name] = tuple(fields.get(name) or ())
        return cls(**fields)
