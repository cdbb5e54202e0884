"""What a fake worker does with the attempts that it gets, one after the other."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avtomatika.errors import ErrorCode
from avtomatika.jobs import JSON, Result
from avtomatika.testing.machine import Killed
from avtomatika.worker.sdk import TaskDeclaration

#: A function of the task's params (or of what a task of `avtomatika.Worker` may ask for), or the value that it would return.
Answer = Callable[..., Any] | Result | Mapping[str, Any] | None


@dataclass(frozen=True)
class Fault:
    """What some attempts come to, or, without `times`, all of them. Made by `fails`, `raises`, `times_out` and `dies`."""

    act: Callable[..., Any]
    times: int | None = None

    def __post_init__(self) -> None:
        if self.times is not None and self.times < 1:
            raise ValueError(f"times counts attempts: at least 1, not {self.times}; leave it out for all of them")


def fails(
    times: int | None = None, *, code: str = ErrorCode.TRANSIENT, message: str = "injected by the test", data: JSON | None = None
) -> Fault:
    """So many attempts (all, where `times` is left out) answer with a failure of this error code."""

    async def fail() -> Result:
        return Result.failure(code, message, data)

    return Fault(fail, times)


def raises(exception: BaseException | type[BaseException], times: int | None = None) -> Fault:
    """So many attempts raise this exception."""

    async def raise_() -> None:
        raise exception

    return Fault(raise_, times)


def times_out(times: int | None = None) -> Fault:
    """So many attempts never answer: they run until their time limit."""

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    return Fault(hang, times)


def dies(times: int | None = None) -> Fault:
    """So many attempts end their worker's process in the middle, without a word; it is started again."""

    async def die() -> None:
        raise Killed

    return Fault(die, times)


@dataclass
class Fake:
    """One faked task.

    Attributes:
        acts: (what an attempt calls, for so many attempts; None for all that follow).
        seconds: how long each attempt takes, in virtual time.
    """

    task: str
    acts: Sequence[tuple[Callable[..., Any], int | None]]
    seconds: float = 0.0
    begun: int = 0

    def next(self, note: Callable[[BaseException], None]) -> TaskDeclaration:
        """What the next attempt runs; `note` is told of what is no result: a death, or an assertion of the test's."""
        self.begun += 1
        left = self.begun
        for act, times in self.acts:
            if times is None or left <= times:
                return TaskDeclaration(self.task, None, _slowly(act, self.seconds, note))
            left -= times
        raise AssertionError("the last act has no end")


def acts_of(
    task: str, answers: Sequence[Answer | Fault], then: Sequence[Answer | Fault]
) -> list[tuple[Callable[..., Any], int | None]]:
    """Checks what a fake was given: faults with a count first, and at the end what every later attempt does.

    Raises:
        ValueError: nothing says what the later attempts do, or something comes after that.
    """
    acts = [
        (answer.act, answer.times) if isinstance(answer, Fault) else (_answering(answer), None) for answer in (*answers, *then)
    ]
    if not acts:
        return [(_answering(None), None)]
    for _, times in acts[:-1]:
        if times is None:
            raise ValueError(
                f"task {task!r}: what comes after an answer to all attempts is never reached; give its faults a count"
            )
    if acts[-1][1] is not None:
        count = sum(times or 0 for _, times in acts)
        raise ValueError(
            f"task {task!r}: nothing says what comes after {count} attempts; add then=…, or leave out the last count"
        )
    return acts


def _answering(answer: Answer | Fault) -> Callable[..., Any]:
    if callable(answer):
        return answer

    async def answered() -> Any:
        return answer

    return answered


def _slowly(act: Callable[..., Any], seconds: float, note: Callable[[BaseException], None]) -> Callable[..., Any]:
    """As a coroutine function: a plain function runs in the loop, too, so that a test needs no threads."""

    @functools.wraps(act)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            if seconds:
                await asyncio.sleep(seconds)
            value = act(*args, **kwargs)
            return await value if inspect.isawaitable(value) else value
        except asyncio.CancelledError:
            raise
        except Killed as exc:
            note(exc)
            raise asyncio.CancelledError from None  # no result, and nobody's failure
        except BaseException as exc:
            if isinstance(exc, AssertionError) or not isinstance(exc, Exception):
                note(exc)
            raise

    return call
