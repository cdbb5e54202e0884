"""Virtual time on asyncio's event loop: it stands still while anything runs, and jumps to the next timer when nothing does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from avtomatika.errors import HarnessError

#: Shorter than whatever anybody waits for, and longer than what a clock of seconds since the epoch cannot tell apart.
MOMENT = 1e-6


class VirtualTime:
    """While it is installed, `asyncio.sleep`, timeouts and `loop.call_later` of the running loop take no real time.

    What runs in a thread by `asyncio.to_thread` is waited for, and time stands still meanwhile. Answers from outside (a network,
    a database's own thread) it cannot see coming: for each jump it waits `patience` real seconds for one.

    Attributes:
        passed: virtual seconds so far.
        on_stuck: called where nothing runs and no timer is set, so that the loop would wait for ever.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float = 0.0) -> None:
        self._loop: Any = loop
        self._patience = patience
        self._began = self._now = 0.0
        self._in_threads = 0
        self.on_stuck: Callable[[], bool] = lambda: False

    @property
    def passed(self) -> float:
        return self._now - self._began

    def install(self) -> None:
        loop = self._loop
        selector = getattr(loop, "_selector", None)
        if selector is None:
            raise HarnessError(
                f"virtual time needs asyncio's own event loop, not {type(loop).__module__}.{type(loop).__qualname__}; "
                "run this test with asyncio.run, or give pytest-asyncio asyncio's default loop"
            )
        if isinstance(selector, _Selector):
            raise HarnessError("two harnesses are open on one event loop; give one of them all blueprints instead")
        self._began = self._now = loop.time()
        self._selector, self._run_in_executor = selector, loop.run_in_executor
        loop._selector = _Selector(selector, self)
        loop.time = lambda: self._now
        loop.run_in_executor = self._in_thread

    def uninstall(self) -> None:
        self._loop._selector = self._selector
        del self._loop.time, self._loop.run_in_executor

    async def idle(self) -> None:
        """Returns once all that can run at this moment has run."""
        await asyncio.sleep(MOMENT)

    def _in_thread(self, executor: Any, func: Any, *args: Any) -> Any:
        self._in_threads += 1
        future = self._run_in_executor(executor, func, *args)
        future.add_done_callback(self._out_of_thread)
        return future

    def _out_of_thread(self, _: Any) -> None:
        self._in_threads -= 1

    def select(self, timeout: float | None) -> Any:
        """What the loop calls when nothing is ready (then `timeout` is not 0), and once a turn."""
        events = self._selector.select(0 if timeout is None or timeout > 0 else timeout)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._in_threads:
            return self._selector.select(None)
        if self._patience and (events := self._selector.select(self._patience)):
            return events
        if timeout is not None:
            self._now += timeout
            return events
        return events if self.on_stuck() else self._selector.select(None)


class _Selector:
    """The loop's selector, but for `select`."""

    def __init__(self, selector: Any, time: VirtualTime) -> None:
        self._real = selector
        self._time = time

    def select(self, timeout: float | None = None) -> Any:
        return self._time.select(timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
