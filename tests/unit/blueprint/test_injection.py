from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from avtomatika import ActionFactory, Blueprint
from avtomatika.blueprint.context import JobContext
from avtomatika.errors import BlueprintError, HandlerError
from avtomatika.jobs import Client


def context(**changes: Any) -> JobContext:
    values: dict[str, Any] = {
        "job_id": "job-1",
        "current_state": "work",
        "initial_data": {"path": "/in", "duration": 1, "job_id": "never"},
        "state_history": {"duration": 2, "client": "never"},
        "client": Client(name="acme"),
    }
    return JobContext(**(values | changes))


async def run(func: Any, ctx: JobContext | None = None) -> Any:
    bp = Blueprint("b")
    bp.handler_for("work", is_start=True)(func)
    ctx = ctx or context()
    return await bp.select(ctx).call(ctx)


async def test_context_fields_come_first_then_history_then_initial_data() -> None:
    async def handler(job_id: str, client: Client, current_state: str, duration: int, path: str, actions: ActionFactory) -> Any:
        actions.transition_to("next")
        return job_id, client.name, current_state, duration, path

    ctx = context()
    assert await run(handler, ctx) == ("job-1", "acme", "work", 2, "/in")
    assert ctx.actions.action is not None


async def test_context_is_the_whole_object_and_writes_to_history_stay() -> None:
    async def handler(context: JobContext, state_history: dict[str, Any], aggregation_results: Any) -> Any:
        state_history["seen"] = True
        return context, aggregation_results

    ctx = context()
    assert await run(handler, ctx) == (ctx, None)
    assert ctx.state_history["seen"] is True


async def test_a_handler_may_ask_for_nothing() -> None:
    async def handler() -> str:
        return "fine"

    assert await run(handler) == "fine"


async def test_defaults_and_keyword_only_arguments() -> None:
    async def handler(path: str = "default", missing: int = 7, *, duration: int = 0) -> Any:
        return path, missing, duration

    assert await run(handler) == ("/in", 7, 2)


async def test_kwargs_get_the_rest_of_the_data_history_first() -> None:
    async def handler(path: str, **rest: Any) -> Any:
        return path, rest

    assert await run(handler) == ("/in", {"duration": 2})


async def test_a_name_found_nowhere_is_named_with_what_there_is() -> None:
    async def publish(output_path: str) -> None: ...

    with pytest.raises(HandlerError) as caught:
        await run(publish)
    message = str(caught.value)
    for part in (
        "'output_path'",
        "publish",
        "'work'",
        __file__,
        "state_history: client, duration",
        "initial_data: duration, job_id, path",
    ):
        assert part in message


AGGREGATION: dict[str, Any] = {
    "aggregation_results": {"a": {"status": "success"}, "b": {"status": "failure"}},
    "succeeded": {"a": {"status": "success"}},
    "failed": {"b": {"status": "failure"}},
    "missing": ["c"],
}
HISTORY = {"succeeded": "of", "failed": "history", "duration": 2}


async def test_an_aggregator_gets_what_succeeded_failed_and_is_missing() -> None:
    async def handler(succeeded: Any, failed: Any, missing: Any, context: JobContext, duration: int, **rest: Any) -> Any:
        return succeeded, failed, missing, context.failed, duration, rest

    found = await run(handler, context(state_history={**HISTORY, "last": 1}, initial_data={"missing": 3}, **AGGREGATION))

    assert found == ({"a": {"status": "success"}}, {"b": {"status": "failure"}}, ["c"], AGGREGATION["failed"], 2, {"last": 1})


async def test_an_aggregator_need_not_ask_for_them() -> None:
    async def handler(**rest: Any) -> Any:
        return rest

    assert await run(handler, context(state_history=HISTORY, initial_data={"missing": 3}, **AGGREGATION)) == {"duration": 2}


async def test_elsewhere_those_are_names_as_any_others() -> None:
    async def handler(succeeded: Any, missing: Any, context: JobContext, failed: Any = 0, **rest: Any) -> Any:
        return succeeded, missing, failed, context.failed, rest

    ctx = context(state_history=HISTORY, initial_data={"missing": 3})
    assert await run(handler, ctx) == ("of", 3, "history", None, {"duration": 2})

    async def asks(**rest: Any) -> Any:
        return rest

    assert await run(asks, ctx) == {**HISTORY, "missing": 3}


async def test_elsewhere_they_may_be_missing() -> None:
    async def handler(failed: Any) -> None: ...

    with pytest.raises(HandlerError, match="asks for 'failed'") as caught:
        await run(handler)
    assert "aggregation_results; from state_history" in str(caught.value)


async def test_an_aggregator_that_asks_for_a_stranger_is_told_what_it_could_have() -> None:
    async def handler(stranger: Any) -> None: ...

    with pytest.raises(HandlerError, match="aggregation_results, succeeded, failed, missing; from state_history"):
        await run(handler, context(**AGGREGATION))


async def test_a_plain_function_runs_in_a_thread_with_the_context_variables() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("set")

    def handler(actions: ActionFactory) -> Any:
        actions.transition_to("next")
        return threading.get_ident(), variable.get()

    ctx = context()
    ident, value = await run(handler, ctx)
    assert ident != threading.get_ident()
    assert value == "set"
    assert ctx.actions.action is not None


async def test_a_wrapped_handler_keeps_its_arguments() -> None:
    async def inner(path: str) -> str:
        return path

    @functools.wraps(inner)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    assert await run(wrapper) == "/in"
    assert await run(functools.partial(inner, path="/fixed")) == "/in"


async def test_a_stop_iteration_in_a_thread_is_an_error_not_a_hang() -> None:
    def handler() -> Any:
        return next(iter([]))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(run(handler), 10)


async def test_exceptions_of_a_handler_come_through() -> None:
    async def handler() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await run(handler)


def positional(path: str, /) -> None: ...


def variadic(*args: Any) -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> Any:
    yield 1


class Callable:
    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("func", "says"),
    [
        (positional, "remove the /"),
        (variadic, "*args"),
        (generator, "must not yield"),
        (async_generator, "must not yield"),
        (Callable(), "not Callable"),
        (len, "not builtin"),
    ],
)
def test_signatures_that_cannot_be_filled_are_refused_at_registration(func: Any, says: str) -> None:
    bp = Blueprint("b")
    with pytest.raises(BlueprintError) as caught:
        bp.handler_for("work")(func)
    assert says in str(caught.value)
    assert __file__ in str(caught.value)
    assert bp.states == ()


def test_kwargs_are_fine_at_registration() -> None:
    bp = Blueprint("b")

    @bp.handler_for("work", is_start=True)
    def handler(**kwargs: Any) -> None: ...

    assert bp.states == ("work",)
