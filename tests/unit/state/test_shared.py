"""Calls that share a round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from avtomatika.state import shared
from avtomatika.state.shared import SharedCalls


class Calls:
    """What was sent; each call waits to be answered by hand."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self._answers: list[asyncio.Future[None]] = []

    async def send(self, items: Sequence[str]) -> Sequence[str]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent.append(list(items))
        self._answers.append(answer)
        await answer
        return [item.upper() for item in items]

    async def answer(self, number: int, exc: Exception | None = None) -> None:
        future = self._answers[number]
        future.set_result(None) if exc is None else future.set_exception(exc)
        await _settle()

    def shared(self, *, most: int = 10, most_bytes: int = 1000) -> SharedCalls[str, str]:
        return SharedCalls(self.send, most=most, most_bytes=most_bytes)


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def _asked(calls: SharedCalls[str, str], items: str, size: int = 1) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(calls(item, size)) for item in items]
    await _settle()
    return tasks


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    monkeypatch.setattr(shared, "HOLD_SECONDS", 3600.0)
    return Calls()


async def test_one_goes_at_once_and_those_that_come_meanwhile_go_together(calls: Calls) -> None:
    tasks = await _asked(calls.shared(), "abcd")
    assert calls.sent == [["a"]]

    await calls.answer(0)
    assert calls.sent == [["a"], ["b", "c", "d"]]

    await calls.answer(1)
    assert [await task for task in tasks] == ["A", "B", "C", "D"]


async def test_nobody_waits_for_a_call_that_is_over(calls: Calls) -> None:
    both = calls.shared()
    for number, item in enumerate("ab"):
        [task] = await _asked(both, item)
        await calls.answer(number)
        assert await task == item.upper()
    assert calls.sent == [["a"], ["b"]]


async def test_no_more_than_so_many_go_together(calls: Calls) -> None:
    tasks = await _asked(calls.shared(most=3), "abcdefg")
    for number in range(3):
        await calls.answer(number)
    assert calls.sent == [["a"], ["b", "c", "d"], ["e", "f", "g"]]
    assert [await task for task in tasks] == list("ABCDEFG")


async def test_none_is_added_to_those_that_have_so_many_bytes(calls: Calls) -> None:
    tasks = await _asked(calls.shared(most_bytes=100), "abcd", size=60)
    for number in range(3):
        await calls.answer(number)
    assert calls.sent == [["a"], ["b", "c"], ["d"]]
    assert [await task for task in tasks] == list("ABCD")


async def test_what_breaks_a_call_breaks_nothing_else(calls: Calls) -> None:
    both = calls.shared()
    tasks = await _asked(both, "abc")
    await calls.answer(0, OSError("the first"))
    more = await _asked(both, "d")
    await calls.answer(1, OSError("the second"))
    await calls.answer(2)

    results = await asyncio.gather(*tasks, *more, return_exceptions=True)
    assert [str(result) for result in results] == ["the first", "the second", "the second", "D"]


async def test_who_gives_up_takes_nobody_along(calls: Calls) -> None:
    first, second, third, fourth = await _asked(calls.shared(), "abcd")
    second.cancel()  # while it waits: it is not sent
    first.cancel()  # alone: the call is its own, and the others go on
    await _settle()
    assert calls.sent == [["a"], ["c", "d"]]
    third.cancel()  # while its call is under way
    await calls.answer(1)

    assert await fourth == "D"
    assert [task.cancelled() for task in (first, second, third)] == [True, True, True]


async def test_a_call_without_an_answer_holds_up_the_next_ones_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "HOLD_SECONDS", 0.01)
    calls = Calls()
    both = calls.shared(most=1)
    slow, *others = await _asked(both, "abc")
    async with asyncio.timeout(30):
        while len(calls.sent) < 3:  # each of them in its turn
            await asyncio.sleep(0.01)
    await calls.answer(2)
    await calls.answer(1)
    assert [await task for task in others] == ["B", "C"]

    [last] = await _asked(both, "d")
    await calls.answer(3)
    assert await last == "D"
    await calls.answer(0)  # late, and nobody is disturbed by it
    assert await slow == "A"
    assert calls.sent == [["a"], ["b"], ["c"], ["d"]]


async def test_where_the_loop_ends_callers_are_cancelled(calls: Calls) -> None:
    both = calls.shared()
    first, *others = await _asked(both, "abc")
    await calls.answer(0)
    [call] = both._calls
    call.cancel()
    await asyncio.gather(call, *others, return_exceptions=True)

    assert await first == "A"
    assert all(task.cancelled() for task in others)
    assert not both._calls
