"""One synchronisation at a time into a directory, whichever worker of the fleet runs it.

A file in the destination holds the task's key and a number that its holder counts up. Who finds it watches the number: one that
stands still belongs to nobody any more. No clock is compared with another one's. Under this file's name no scan sees it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.places import Parts, Place, cleaning

NAME: Parts = (".sync.part-0000000000000000",)
#: Seconds between two counts, and for how long a number has to stand still.
COUNT_SECONDS = 3.0
STILL_SECONDS = 12.0
_MOST_BYTES = 1024


@contextmanager
def locked(op: OperationContext, place: Place) -> Iterator[None]:
    """Raises OperationError (QUEUE_TASK_ALREADY_RUNNING, to be tried again) where another one holds it."""
    _take(op, place)
    over = threading.Event()
    counter = None
    try:
        counter = threading.Thread(target=_count, args=(op, place.clone(), over), name="scp-sync-lock", daemon=True)
        counter.start()
    except OperationError as exc:
        op.log(f"the lock of {place.shown()} is not kept up: {exc}")  # the host opens one channel only
    try:
        yield
    finally:
        over.set()
        if counter is not None:
            counter.join()
        with suppress(Exception), cleaning(place, op) as cleaner:
            cleaner.remove(NAME, missing_ok=True)


def _take(op: OperationContext, place: Place) -> None:
    held = _read(place)
    if held is not None and held.get("key") != op.key:
        waited = 0.0
        while (now := _read(place)) == held:
            if waited >= STILL_SECONDS:
                op.log(f"the lock of {place.shown()} was left by a task that is no more")
                break
            op.wait(COUNT_SECONDS / 3)
            waited += COUNT_SECONDS / 3
        else:
            if now is not None:
                raise _busy(place)
    _write(place, op.key, 0)
    op.wait(0.05)
    found = _read(place)
    if found is None or found.get("key") != op.key:  # two have come at the same time, and the other one was later
        raise _busy(place)


def _count(op: OperationContext, place: Place, over: threading.Event) -> None:
    number = 0
    try:
        while not over.wait(COUNT_SECONDS):
            number += 1
            with suppress(OperationError):
                _write(place, op.key, number)
    except Exception:  # stopped, or the connection is gone: what the lock guards has ended, too
        return
    finally:
        place.close()


def _read(place: Place) -> dict[str, object] | None:
    found = place.stat(NAME)
    if found is None or not 0 < found.size <= _MOST_BYTES:
        return None
    try:
        reader = place.reader(NAME)
    except OperationError:
        return None  # gone since
    try:
        data = b"".join(reader.blocks(0))
    finally:
        reader.close()
    with suppress(ValueError):
        said = json.loads(data)
        return said if isinstance(said, dict) else None
    return None


def _write(place: Place, key: str, number: int) -> None:
    """At once: who reads it meanwhile sees the one before."""
    own: Parts = (f".sync.part-{key}",)
    writer = place.writer(own, 0)
    try:
        writer.write(json.dumps({"key": key, "number": number}).encode())
        writer.finish(0o644, None)
    finally:
        writer.close()
    place.replace(own, NAME)


def _busy(place: Place) -> OperationError:
    return OperationError(
        TaskErrorCode.QUEUE_TASK_ALREADY_RUNNING,
        f"another task synchronises {place.shown()} right now",
        kind=ErrorCode.TRANSIENT,
    )
