"""Threads that do not hold up the end of the process, and a mailbox into the hub's thread."""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

logger = logging.getLogger(__name__)

#: What a user's function may raise that would stop the event loop or Celery's main loop: none may do that.
NOT_OURS = (SystemExit, KeyboardInterrupt, MemoryError)

_Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def call_plainly(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Calls a function in a thread: out of its future, these would end the event loop, and StopIteration never comes."""
    try:
        return func(*args, **kwargs)
    except (StopIteration, *NOT_OURS) as exc:
        raise RuntimeError(f"{type(exc).__name__}: {exc}") from exc


class DaemonThreads(ThreadPoolExecutor):
    """An executor whose threads are daemons: the standard one joins its threads at exit, however long they run."""

    def __init__(self, max_workers: int, name: str) -> None:
        super().__init__(max_workers, name)
        self._size = max_workers
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._workers = 0
        self._waiting = 0  # threads waiting for a call, less the calls that wait for a thread
        self._closed = False

    @property
    def size(self) -> int:
        """Threads started so far."""
        return self._workers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new calls after shutdown")
            self._calls.put((future, fn, args, kwargs))
            self._waiting -= 1
            if self._waiting < 0 and self._workers < self._size:
                self._workers += 1
                self._waiting += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._workers}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no new calls. Never waits for running ones: whoever needs that waits for their futures."""
        with self._lock:
            self._closed = True
            while cancel_futures and not self._calls.empty():
                call = self._calls.get_nowait()
                if call is not None:
                    call[0].cancel()
            for _ in range(self._workers):
                self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, fn, args, kwargs = call
            if future.set_running_or_notify_cancel():
                try:
                    result = fn(*args, **kwargs)
                except BaseException as exc:
                    future.set_exception(exc)
                else:
                    future.set_result(result)
            del call, future, fn, args, kwargs
            with self._lock:
                self._waiting += 1


class Mailbox:
    """Calls handed from any thread to the one that runs Celery's hub.

    A socket rather than `Hub.call_soon`: what a call queues there in turn (an acknowledgement) would otherwise wait until
    the hub's next poll returns, up to a second.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def post(self, call: Callable[..., Any], *args: Any) -> None:
        self._calls.append((call, args))
        try:
            self._writer.send(b"\0")
        except BlockingIOError:
            pass  # the socket is full of wake-ups: one of them will do
        except OSError:
            logger.debug("the mailbox is closed; %r is not called", call)

    def attach(self, hub: Any) -> None:
        hub.add_reader(self._reader.fileno(), self.run)

    def detach(self, hub: Any) -> None:
        hub.remove(self._reader.fileno())

    def run(self) -> None:
        """Makes the calls that wait. No exception gets out: one in the hub would restart the consumer."""
        with suppress(BlockingIOError):
            self._reader.recv(65536)
        while self._calls:
            call, args = self._calls.popleft()
            try:
                call(*args)
            except Exception:
                logger.exception("a callback of the pool failed: %r", call, extra={"action": "pool_callback_failed"})

    def wait(self, timeout: float) -> None:
        """Runs the calls that come within the timeout, where no hub does."""
        select.select([self._reader], [], [], timeout)
        self.run()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
