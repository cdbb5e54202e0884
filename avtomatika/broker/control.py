"""The control command by which running attempts are stopped, and the side that sends it.

Not Celery's `revoke`: that one acknowledges at once and remembers the id for ever. Here the coroutine is cancelled, and its
slot is free when it has cleaned up. What is lost on the way is found by the worker's next heartbeat (`take_stops`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from celery import Celery
from celery.worker.control import control_command

from avtomatika.worker.pool import AsyncPool, CancelReason

logger = logging.getLogger(__name__)

STOP = "avtomatika_stop"
SEND_SECONDS = 2.0


def stop_tasks(task_ids: Iterable[str]) -> list[str]:
    """Cancels what runs here under these ids; returns the ids found. Under Celery's own pools nothing can be cancelled so."""
    pool = AsyncPool.current
    found = [task_id for task_id in task_ids if pool is not None and pool.cancel(task_id, CancelReason.CANCELLED)]
    for task_id in found:
        logger.info("attempt %s is stopped", task_id, extra={"action": "stop", "task_id": task_id})
    return found


@control_command(name=STOP, variadic="task_ids", signature="[id1 [id2 [... [idN]]]]")
def _stop(state: Any, task_ids: Sequence[str] | str = (), **_: Any) -> dict[str, Any]:
    """Cancel running attempts by their task ids."""
    return {"ok": stop_tasks([task_ids] if isinstance(task_ids, str) else task_ids)}


async def tell_stops(app: Celery, stops: Iterable[tuple[str, str]]) -> None:
    """Tells workers, (worker id, task id) each, that what they run is over. Never fails: what is not told is found later."""
    stops = list(stops)
    if not stops:
        return
    workers = sorted({worker_id for worker_id, _ in stops})
    task_ids = [task_id for _, task_id in stops]
    try:
        await asyncio.wait_for(asyncio.to_thread(_broadcast, app, workers, task_ids), SEND_SECONDS)
    except Exception as exc:
        logger.warning(
            "%s attempts are stopped at their workers' next heartbeats only: %r", len(task_ids), exc,
            extra={"action": "tell_stops"},
        )  # fmt: skip


async def revoke(app: Celery, task_ids: Sequence[str]) -> None:
    """Has plain Celery workers throw these tasks away if they have not begun them. Never fails: it is only a hint."""
    try:
        await asyncio.wait_for(asyncio.to_thread(app.control.revoke, list(task_ids)), SEND_SECONDS)
    except Exception as exc:
        logger.warning("%s plain tasks are not revoked: %r", len(task_ids), exc, extra={"action": "revoke"})


_sending = threading.Lock()


def _broadcast(app: Celery, workers: list[str], task_ids: list[str]) -> None:
    """One broadcast for all: each goes to every worker of the broker anyway, and an attempt's id fits one of them only."""
    # One at a time: while the broker is away, each try takes seconds, and holds a thread and a connection that others need.
    if not _sending.acquire(timeout=SEND_SECONDS):
        raise TimeoutError("another broadcast has not come through yet")
    try:
        app.control.broadcast(STOP, arguments={"task_ids": task_ids}, destination=workers)
    finally:
        _sending.release()
