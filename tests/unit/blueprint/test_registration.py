from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avtomatika import Blueprint, StateMachineBlueprint
from avtomatika.blueprint.context import JobContext
from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.blueprint.stores import AsyncDictStore
from avtomatika.errors import BlueprintError, HandlerError, UnknownBlueprintError


def line_of(marker: str) -> int:
    """The line of this file that ends with a marker."""
    for number, line in enumerate(Path(__file__).read_text().splitlines(), 1):
        if line.endswith("# " + marker):
            return number
    raise AssertionError(marker)


def finished(bp: Blueprint) -> Blueprint:
    @bp.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.transition_to("end")

    @bp.handler_for("end", is_end=True)
    async def end() -> None:
        pass

    return bp


def ctx(state: str, **initial_data: Any) -> JobContext:
    return JobContext("j", state, initial_data=initial_data)


def test_the_decorator_gives_the_function_back() -> None:
    bp = Blueprint("b")

    def handler() -> None: ...

    assert bp.handler_for("a", is_start=True)(handler) is handler
    assert bp.handler_for("b").when("context.initial_data.x == 1")(handler) is handler
    assert bp.aggregator_for("c")(handler) is handler
    assert bp.states == ("a", "b", "c")


def test_the_second_name_is_the_same_class() -> None:
    assert StateMachineBlueprint is Blueprint


def test_flags_belong_to_the_state() -> None:
    bp = Blueprint("b")

    @bp.handler_for("a").when("context.initial_data.x == 1")
    def first() -> None: ...

    @bp.handler_for("a", is_start=True, is_end=True)
    def second() -> None: ...

    assert bp.start_state == "a"
    assert bp.end_states == frozenset({"a"})
    assert bp.select(ctx("a", x=1)).is_end


def test_conditional_handlers_are_tried_in_order_before_the_plain_one() -> None:
    bp = Blueprint("b")

    @bp.handler_for("a", is_start=True)
    def plain() -> None: ...

    @bp.handler_for("a").when("context.initial_data.size > 10")
    def big() -> None: ...

    @bp.handler_for("a").when("context.initial_data.size > 5")
    def middle() -> None: ...

    assert bp.select(ctx("a", size=11)).name == "big"
    assert bp.select(ctx("a", size=7)).name == "middle"
    assert bp.select(ctx("a", size=1)).name == "plain"
    assert bp.select(ctx("a")).name == "plain"
    assert bp.select(ctx("a")).state == "a"


def test_no_handler_fits() -> None:
    bp = Blueprint("b")

    @bp.handler_for("a", is_start=True).when("context.initial_data.size > 10")
    def big() -> None: ...

    @bp.aggregator_for("joined")
    def join() -> None: ...

    with pytest.raises(HandlerError, match=r"context.initial_data.size > 10.*plain handler"):
        bp.select(ctx("a"))
    with pytest.raises(HandlerError, match=r"no handler for state 'nowhere'; it has: a\."):
        bp.select(ctx("nowhere"))
    with pytest.raises(HandlerError, match="no handler for state 'joined'"):
        bp.select(ctx("joined"))
    assert bp.aggregator("joined").name == "join"
    with pytest.raises(HandlerError, match="no aggregator for state 'a'"):
        bp.aggregator("a")


def test_a_second_plain_handler_names_both_places_and_changes_nothing() -> None:
    bp = Blueprint("b")

    @bp.handler_for("a")  # first plain
    def first() -> None: ...

    with pytest.raises(BlueprintError) as caught:

        @bp.handler_for("a", is_start=True, is_end=True)  # second plain
        def second() -> None: ...

    message = str(caught.value)
    assert f"{__file__}:{line_of('first plain')}" in message
    assert message.startswith(f"{__file__}:{line_of('second plain')}: ")
    assert ".when(" in message
    assert bp.end_states == frozenset()
    assert bp.select(ctx("a")).func is first


def test_a_second_aggregator_and_a_second_start_are_refused() -> None:
    bp = Blueprint("b")

    @bp.aggregator_for("joined")  # first aggregator
    def first() -> None: ...

    with pytest.raises(BlueprintError, match=f"{__file__}:{line_of('first aggregator')}"):
        bp.aggregator_for("joined")(lambda: None)

    @bp.handler_for("a", is_start=True)  # first start
    def start() -> None: ...

    with pytest.raises(BlueprintError) as caught:
        bp.handler_for("z", is_start=True)(lambda: None)  # second start
    assert f"{__file__}:{line_of('first start')}" in str(caught.value)
    assert f"{__file__}:{line_of('second start')}" in str(caught.value)
    assert bp.states == ("joined", "a")


@pytest.mark.parametrize("name", ["", " a", "a\n", "x" * 200, None, 5, print])
def test_bad_state_names_are_refused(name: Any) -> None:
    bp = Blueprint("b")
    with pytest.raises(BlueprintError, match=__file__):
        bp.handler_for(name)
    with pytest.raises(BlueprintError, match=__file__):
        bp.aggregator_for(name)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a/b"},
        {"name": None},
        {"name": "b", "api_endpoint": "jobs video"},
        {"name": "b", "api_endpoint": "/jobs/{id}"},
        {"name": "b", "api_endpoint": "/"},
        {"name": "b", "api_version": "v 1"},
        {"name": "b", "data_stores": {"not a name": {}}},
        {"name": "b", "data_stores": {"_private": {}}},
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(BlueprintError, match=f"{__file__}:[0-9]+: "):
        Blueprint(**arguments)


def test_version_and_endpoint_in_the_order_of_the_original() -> None:
    bp = Blueprint("b", "/jobs/video", "v1")
    assert (bp.api_version, bp.api_endpoint) == ("v1", "/jobs/video")
    assert Blueprint("c", api_endpoint="jobs/video").api_endpoint == "/jobs/video"


def test_a_frozen_blueprint_takes_no_handler() -> None:
    bp = finished(Blueprint("b"))
    bp.freeze()
    bp.freeze()
    with pytest.raises(BlueprintError, match="registered already"):
        bp.handler_for("late")(lambda: None)
    assert bp.states == ("start", "end")


async def test_data_stores() -> None:
    client = object()
    plain = {"k": 1}
    bp = Blueprint("b", data_stores={"client": client, "cache": plain})
    assert bp.data_stores.client is client
    assert bp.data_stores["client"] is client
    cache = bp.data_stores.cache
    assert isinstance(cache, AsyncDictStore)
    assert await cache.get("k") == 1
    assert await cache.get("gone", "default") == "default"
    await cache.set("new", 2)
    assert plain["new"] == 2
    assert await cache.keys() == ["k", "new"]
    assert await cache.items() == [("k", 1), ("new", 2)]
    assert await cache.exists("k")
    assert await cache.delete("k")
    assert not await cache.delete("k")
    bp.add_data_store("more", {})
    assert isinstance(bp.data_stores.more, AsyncDictStore)
    with pytest.raises(BlueprintError, match="there already"):
        bp.add_data_store("more", {})
    with pytest.raises(AttributeError, match="cache, client, more"):
        _ = bp.data_stores.gone
    assert list(bp.data_stores) == ["client", "cache", "more"]


def test_the_registry_refuses_a_name_and_an_endpoint_twice() -> None:
    registry = BlueprintRegistry()
    first = finished(Blueprint("b", api_version="v1", api_endpoint="/jobs/b"))  # registered first
    registry.register(first)
    registry.register(first)
    assert first.is_frozen
    with pytest.raises(BlueprintError) as caught:
        registry.register(finished(Blueprint("b")))  # the same name
    assert f"{__file__}:{line_of('registered first')}" in str(caught.value)
    assert f"{__file__}:{line_of('the same name')}" in str(caught.value)
    with pytest.raises(BlueprintError, match="/jobs/b"):
        registry.register(finished(Blueprint("c", api_version="v1", api_endpoint="/jobs/b/")))
    registry.register(finished(Blueprint("c", api_version="v2", api_endpoint="/jobs/b")))
    with pytest.raises(BlueprintError, match="no handlers"):
        registry.register(Blueprint("empty"))
    assert registry.names == ("b", "c")
    assert [bp.name for bp in registry] == ["b", "c"]
    assert "b" in registry
    assert len(registry) == 2
    assert registry.get("b") is first
    with pytest.raises(UnknownBlueprintError, match="known: b, c"):
        registry.get("z")


def test_the_registry_checks_child_blueprints() -> None:
    registry = BlueprintRegistry()
    registry.register(finished(Blueprint("child")))
    parent = Blueprint("parent")

    @parent.handler_for("start", is_start=True)
    async def start(actions: Any, initial_data: dict[str, Any]) -> None:
        if initial_data:
            actions.run_blueprint("child", {}, {"success": "end"})
        else:
            actions.run_blueprint("chidl", {}, {"success": "end"})  # unknown child

    @parent.handler_for("end", is_end=True)
    async def end() -> None: ...

    registry.register(parent)
    (error,) = registry.check().errors
    assert (error.file, error.line) == (__file__, line_of("unknown child"))
    assert "'chidl'" in error.message
    assert error.fix == "did you mean 'child'?"


def test_a_condition_error_names_the_line() -> None:
    bp = Blueprint("b")
    with pytest.raises(BlueprintError) as caught:
        bp.handler_for("a").when("context.initial_data.x ~ 1")  # bad condition
    assert str(caught.value).startswith(f"{__file__}:{line_of('bad condition')}: state 'a': condition ")
