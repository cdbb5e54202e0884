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
        declare: what the publisher makes sure of: a ``capability`` queue, a ``default`` one, or ``nothing``.
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
class WorkerRecord:
    """One registered process: a Celery worker (its nodename is the id), an HTTP worker, or an orchestrator."""

    id: str
    boot_id: str
    type: str = "celery"
    status: str = "idle"
    supported_tasks: tuple[str, ...] = ()
    capabilities: dict[str, int] = field(default_factory=dict)  # capability -> limit
    max_concurrent_tasks: int = 0
    load: dict[str, int] = field(default_factory=dict)  # capability -> running
    hot_cache: tuple[str, ...] = ()
    skill_dependencies: dict[str, list[str]] = field(default_factory=dict)
    resources: JSON = field(default_factory=dict)
    software: JSON = field(default_factory=dict)
    registered_at: float = 0.0
    seen_at: float = 0.0

    def to_dict(self) -> JSON:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> WorkerRecord:
        fields = dict(value)
        fields["supported_tasks"] = tuple(fields.get("supported_tasks") or ())
        fields["hot_cache"] = tuple(fields.get("hot_cache") or ())
        return cls(**fields)
