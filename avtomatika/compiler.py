"""An action becomes a Celery canvas: one step ahead, ids instead of payloads, so that a canvas never grows with its process.

Pure on the app: nothing here talks to a broker or a store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from celery import Celery, chain, chord
from celery.canvas import Signature
from kombu import Queue

from avtomatika.broker.messages import prepare, prepare_control
from avtomatika.broker.queues import (
    ORCHESTRATOR,
    capability_queue,
    default_queue,
    direct_queue_name,
    queue_name,
)
from avtomatika.jobs import JSON, Message, TaskInfo

STEP = "avtomatika.step"
RESUME = "avtomatika.resume"
RESUME_ERROR = "avtomatika.resume_error"
AGGREGATE = "avtomatika.aggregate"
CHILD_ENDED = "avtomatika.child_ended"
CANCEL = "avtomatika.cancel"


def step_key(job_id: str, version: int) -> str:
    return f"step:{job_id}:{version}"


def resume_key(task_id: str) -> str:
    return f"resume:{task_id}"


def aggregate_key(fanout_id: str) -> str:
    return f"aggregate:{fanout_id}"


def child_key(child_id: str) -> str:
    return f"child:{child_id}"


def cancel_key(job_id: str) -> str:
    return f"cancel:{job_id}"


class Compiler:
    def __init__(self, app: Celery) -> None:
        self.app = app

    def _queue(self, name: str, make: Callable[[str], Queue]) -> str:
        """Makes the app know a queue as it is declared here, so that Celery, publishing a canvas itself, declares it likewise."""
        known = self.app.amqp.queues
        if name not in known:
            dict.__setitem__(known, name, make(name))  # its own `add` would bind the queue to an exchange
        return name

    def _control(self, name: str, root_id: str, **kwargs: object) -> Signature:
        # kwargsrepr: what events and Flower show; nothing of a user's data.
        return self.app.signature(
            name,
            kwargs=kwargs,
            options={
                "queue": self._queue(queue_name(ORCHESTRATOR), default_queue),
                "root_id": root_id,
                "argsrepr": "()",
                "kwargsrepr": repr(kwargs),
            },
        )

    def step(self, job_id: str, version: int) -> Signature:
        return self._control(STEP, job_id, job_id=job_id, version=version)

    def resume(self, job_id: str, task_id: str, fanout_id: str | None = None) -> Signature:
        """Takes the result envelope as its first argument, as the second link of a chain does."""
        branch = {"fanout_id": fanout_id} if fanout_id is not None else {}
        return self._control(RESUME, job_id, job_id=job_id, task_id=task_id, **branch)

    def aggregate(self, job_id: str, fanout_id: str) -> Signature:
        signature = self._control(AGGREGATE, job_id, job_id=job_id, fanout_id=fanout_id)
        signature.set_immutable(True)
        return signature

    def child_ended(self, parent_id: str, child_id: str) -> Signature:
        return self._control(CHILD_ENDED, parent_id, job_id=parent_id, child_id=child_id)

    def task(self, info: TaskInfo, capability: str | None) -> Signature:
        """The signature of one attempt: routing key, headers, ids, attempt and priority are all in it."""
        if info.is_plain:
            return self._plain_task(info)
        assert capability is not None, "a task without a capability waits in the store; it is not compiled"
        return self.app.signature(
            info.type,
            kwargs=task_payload(info),
            options={
                "queue": self._queue(queue_name(capability, info.type), capability_queue),
                "task_id": info.id,
                "root_id": info.job_id,
                "priority": to_priority(info.priority),
                "headers": {"avtomatika_job": info.job_id, "avtomatika_attempt": info.attempt},
                "argsrepr": "()",
                "kwargsrepr": f"{{'job_id': {info.job_id!r}, 'attempt': {info.attempt}}}",
            },
        )

    def is_routed(self, task: str) -> bool:
        """Whether `task_routes` matches the name: then it is a plain Celery task."""
        return bool(self.app.amqp.router.lookup_route(task))

    def _plain_task(self, info: TaskInfo) -> Signature:
        branch = {"fanout_id": info.fanout_id} if info.fanout_id is not None else {}
        failed = self._control(RESUME_ERROR, info.job_id, job_id=info.job_id, **branch)
        options: JSON = {"task_id": info.id, "root_id": info.job_id, "link_error": [failed]}
        if info.queue:
            options["queue"] = info.queue
        if info.timeout_seconds is not None:
            options["time_limit"] = info.timeout_seconds
        return self.app.signature(info.type, kwargs=dict(info.params), options=options)

    def dispatch(self, info: TaskInfo, capability: str | None) -> chain:
        """`dispatch_task`: the task, then the resume that carries its result."""
        return chain(self.task(info, capability), self.resume(info.job_id, info.id, info.fanout_id))

    def parallel(self, job_id: str, fanout_id: str, branches: Sequence[tuple[TaskInfo, str | None]]) -> chord:
        """`dispatch_parallel`: a chord of such chains. Our result backend leaves the join to the store (`apply_chord`)."""
        header = [self.dispatch(info, capability) for info, capability in branches]
        return chord(header, self.aggregate(job_id, fanout_id))

    def message(self, signature: Signature, now: float, *, key: str | None = None) -> Message:
        """The prepared message of a control signature."""
        return prepare(self.app, signature, now, declare="default", key=key)

    def step_message(self, job_id: str, version: int, now: float) -> Message:
        key, kwargs = step_key(job_id, version), {"job_id": job_id, "version": version}
        quick = prepare_control(self.app, STEP, queue_name(ORCHESTRATOR), job_id, kwargs, now, key)
        return quick or self.message(self.step(job_id, version), now, key=key)

    def aggregate_message(self, job_id: str, fanout_id: str, now: float) -> Message:
        return self.message(self.aggregate(job_id, fanout_id), now, key=aggregate_key(fanout_id))

    def resume_message(self, info: TaskInfo, envelope: JSON, now: float) -> Message:
        """A resume with a result that no worker reports: the engine's own, when an attempt has timed out."""
        signature = self.resume(info.job_id, info.id, info.fanout_id).clone(args=(envelope,))
        return self.message(signature, now, key=resume_key(info.id))

    def child_message(self, parent_id: str, child_id: str, now: float) -> Message:
        return self.message(self.child_ended(parent_id, child_id), now, key=child_key(child_id))

    def cancel_message(self, job_id: str, who: str, now: float, *, force: bool = False) -> Message:
        """The order to cancel a child job."""
        return self.message(self._control(CANCEL, job_id, job_id=job_id, who=who, force=force), now, key=cancel_key(job_id))

    def task_message(self, info: TaskInfo, capability: str | None, now: float, worker_id: str | None = None) -> Message:
        """The prepared message of one attempt, with its resume behind it.

        Args:
            worker_id: the worker that it was picked for: the same message goes to that one's direct queue. Celery knows nothing
                of these queues, so that nothing here grows with the workers that come and go.
        """
        first, then = self.task(info, capability), self.resume(info.job_id, info.id, info.fanout_id)
        if info.is_plain:
            return prepare(self.app, first, now, then=then, declare="nothing")
        message = prepare(self.app, first, now, then=then, priority=to_priority(info.priority), declare="capability")
        if worker_id is None or capability is None:
            return message
        return replace(message, queue=direct_queue_name(worker_id, capability), declare="direct")


def task_payload(info: TaskInfo) -> JSON:
    """What a worker needs to know of an attempt: the keyword arguments of its message."""
    payload: JSON = {
        "job_id": info.job_id,
        "task_id": info.id,
        "attempt": info.attempt,
        "type": info.type,
        "params": info.params,
        "priority": info.priority,
    }
    if info.timeout_seconds is not None:
        payload["timeout_seconds"] = info.timeout_seconds
    if info.tracing_context:
        payload["tracing_context"] = info.tracing_context
    return payload


def to_priority(priority: float) -> int:
    return min(10, max(0, round(priority)))
