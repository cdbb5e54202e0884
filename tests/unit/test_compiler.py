"""Actions as Celery canvases, without a broker."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from celery.canvas import Signature, _chain
from celery.canvas import _chord as Chord
from celery.signals import before_task_publish
from kombu import Queue

from avtomatika.broker.messages import PUBLISHED_AT, prepare, published_again
from avtomatika.compiler import Compiler, task_payload, to_priority
from avtomatika.jobs import Message, TaskInfo, new_id
from avtomatika.settings import get_settings
from tests.support.records import NOW


@pytest.fixture(autouse=True)
def _default_settings() -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in ("QUEUE_PREFIX", "AVTOMATIKA_SETTINGS") if name in os.environ}
    get_settings.cache_clear()
    yield
    os.environ.update(before)
    get_settings.cache_clear()


@pytest.fixture
def app() -> Celery:
    made = Celery(
        "compiler", set_as_current=False, broker=f"memory://{new_id()}/", backend="avtomatika.broker.backend:JoinBackend"
    )
    made.conf.update(task_serializer="json", task_routes={"fleet.*": {"queue": "routed"}})
    return made


@pytest.fixture
def compiler(app: Celery) -> Compiler:
    return Compiler(app)


def _info(**fields: Any) -> TaskInfo:
    given: dict[str, Any] = {
        "id": new_id(),
        "job_id": new_id(),
        "type": "resize",
        "params": {"w": 3},
        "transitions": {"success": "s"},
    }
    return TaskInfo(**{**given, **fields})


# --- Signatures ----------------------------------------------------------------------------------------------------------------


def test_a_signature_says_all_about_its_attempt(compiler: Compiler) -> None:
    info = _info(attempt=3, priority=6.6, timeout_seconds=9.5, tracing_context={"traceparent": "00-1"})

    signature = compiler.task(info, "gpu")

    assert signature.task == "resize"
    assert signature.args == ()
    assert signature.kwargs == {
        "job_id": info.job_id,
        "task_id": info.id,
        "attempt": 3,
        "type": "resize",
        "params": {"w": 3},
        "priority": 6.6,
        "timeout_seconds": 9.5,
        "tracing_context": {"traceparent": "00-1"},
    }
    options = signature.options
    assert (options["queue"], options["task_id"], options["root_id"], options["priority"]) == (
        "gpu.resize",
        info.id,
        info.job_id,
        7,
    )
    assert options["headers"] == {"avtomatika_job": info.job_id, "avtomatika_attempt": 3}


def test_what_an_attempt_does_not_say_is_left_out() -> None:
    assert set(task_payload(_info())) == {"job_id", "task_id", "attempt", "type", "params", "priority"}


def test_events_and_flower_see_nothing_of_a_users_data(compiler: Compiler) -> None:
    message = compiler.task_message(_info(params={"password": "hunter2"}), "cpu", NOW)

    assert "hunter2" not in json.dumps(message.headers)
    assert "hunter2" in message.body


@pytest.mark.parametrize(("priority", "sent"), [(0, 0), (0.4, 0), (0.6, 1), (9.9, 10), (10, 10), (-3, 0), (99, 10)])
def test_priorities_are_whole_numbers_on_the_wire(priority: float, sent: int) -> None:
    assert to_priority(priority) == sent


def test_queues_carry_the_prefix(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_PREFIX", "test.")
    get_settings.cache_clear()

    assert compiler.task_message(_info(), "gpu", NOW).queue == "test.gpu.resize"
    assert compiler.step_message("j", 1, NOW).queue == "test.orchestrator"


def test_a_message_for_a_direct_queue_differs_by_its_queue_only(app: Celery, compiler: Compiler) -> None:
    info = _info(priority=4)
    plain = compiler.task_message(info, "gpu", NOW)
    known = set(app.amqp.queues)

    picked = compiler.task_message(info, "gpu", NOW, "painter@host")

    assert (picked.queue, picked.declare) == ("worker.painter@host.gpu", "direct")
    assert replace(picked, queue=plain.queue, declare=plain.declare) == plain
    assert set(app.amqp.queues) == known  # nothing is kept of workers that come and go


def test_a_task_without_a_capability_is_not_compiled(compiler: Compiler) -> None:
    with pytest.raises(AssertionError, match="waits in the store"):
        compiler.task(_info(), None)


def test_control_signatures(compiler: Compiler) -> None:
    signatures = {
        "avtomatika.step": (compiler.step("j", 4), {"job_id": "j", "version": 4}),
        "avtomatika.resume": (compiler.resume("j", "t"), {"job_id": "j", "task_id": "t"}),
        "avtomatika.aggregate": (compiler.aggregate("j", "f"), {"job_id": "j", "fanout_id": "f"}),
        "avtomatika.child_ended": (compiler.child_ended("j", "c"), {"job_id": "j", "child_id": "c"}),
    }

    for name, (signature, kwargs) in signatures.items():
        assert (signature.task, signature.kwargs) == (name, kwargs)
        assert (signature.options["queue"], signature.options["root_id"]) == ("orchestrator", "j")
    assert compiler.resume("j", "t", "f").kwargs == {"job_id": "j", "task_id": "t", "fanout_id": "f"}
    assert compiler.aggregate("j", "f").immutable


# --- Canvases ------------------------------------------------------------------------------------------------------------------


def test_a_dispatch_is_a_chain_of_the_task_and_its_resume(compiler: Compiler) -> None:
    info = _info()

    canvas = compiler.dispatch(info, "cpu")

    assert isinstance(canvas, _chain)
    task, resume = canvas.tasks
    assert (task.task, task.options["task_id"]) == ("resize", info.id)
    assert (resume.task, resume.kwargs) == ("avtomatika.resume", {"job_id": info.job_id, "task_id": info.id})


def test_a_fan_out_is_a_chord_of_such_chains(compiler: Compiler) -> None:
    infos = [_info(job_id="j", branch=n, fanout_id="f") for n in range(3)]

    canvas = compiler.parallel("j", "f", [(info, "cpu") for info in infos])

    assert isinstance(canvas, Chord)
    assert (canvas.body.task, canvas.body.kwargs) == ("avtomatika.aggregate", {"job_id": "j", "fanout_id": "f"})
    assert len(canvas.tasks) == 3
    for info, branch in zip(infos, canvas.tasks, strict=True):
        assert isinstance(branch, _chain)
        assert [link.task for link in branch.tasks] == ["resize", "avtomatika.resume"]
        assert branch.tasks[1].kwargs == {"job_id": "j", "task_id": info.id, "fanout_id": "f"}


def test_a_canvas_survives_json(compiler: Compiler, app: Celery) -> None:
    canvas = compiler.parallel("j", "f", [(_info(branch=0, fanout_id="f"), "cpu"), (_info(branch=1, fanout_id="f"), "gpu")])

    again = Signature.from_dict(json.loads(json.dumps(canvas)), app=app)

    assert isinstance(again, Chord)
    assert [branch.tasks[0].options["queue"] for branch in again.tasks] == ["cpu.resize", "gpu.resize"]


def test_a_message_does_not_grow_with_its_process(compiler: Compiler) -> None:
    """Only ids go along: neither what the job has gathered so far nor where it may go later."""
    few, many = ({"success": "s"}, {f"status{n}": "a_state_with_a_long_name" for n in range(1000)})
    sizes = []
    for transitions in (few, many):
        info = _info(id=new_id(), job_id=new_id(), transitions=transitions)
        message = compiler.task_message(info, "cpu", NOW)
        sizes.append(len(message.body) + len(json.dumps(message.headers)))
    assert sizes[0] == sizes[1]
    assert sizes[0] < 2500
    assert len(compiler.step_message(new_id(), 10**6, NOW).body) < 300


# --- Plain Celery tasks --------------------------------------------------------------------------------------------------------


def test_a_plain_task_gets_its_params_as_arguments_and_no_more(compiler: Compiler) -> None:
    info = _info(type="shop.add", queue="fleet", params={"x": 1, "y": 2}, timeout_seconds=30, branch=1, fanout_id="f")

    signature = compiler.task(info, None)

    assert (signature.task, signature.kwargs) == ("shop.add", {"x": 1, "y": 2})
    assert (signature.options["queue"], signature.options["task_id"], signature.options["time_limit"]) == ("fleet", info.id, 30)
    (failed,) = signature.options["link_error"]
    assert (failed.task, failed.kwargs) == ("avtomatika.resume_error", {"job_id": info.job_id, "fanout_id": "f"})
    assert "headers" not in signature.options


def test_a_plain_task_goes_where_the_dispatch_or_the_routes_say(compiler: Compiler) -> None:
    named = compiler.task_message(_info(type="shop.add", queue="fleet"), None, NOW)
    routed = compiler.task_message(_info(type="fleet.add", queue=""), None, NOW)

    assert (named.queue, named.declare, named.priority) == ("fleet", "nothing", None)
    assert (routed.queue, routed.declare) == ("routed", "nothing")
    assert compiler.is_routed("fleet.add")
    assert not compiler.is_routed("shop.add")


def test_a_route_over_an_exchange_is_kept(app: Celery, compiler: Compiler) -> None:
    app.conf.task_queues = [Queue("parcels", exchange="", routing_key="parcels")]
    app.conf.task_routes = {"fleet.*": {"exchange": "post", "routing_key": "parcels.big"}}

    message = compiler.task_message(_info(type="fleet.send", queue=""), None, NOW)

    assert (message.exchange, message.queue) == ("post", "parcels.big")


# --- Prepared messages ---------------------------------------------------------------------------------------------------------


def _published(app: Celery, queue: str) -> Any:
    """The one message in a queue of kombu's memory transport."""
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get(queue, no_ack=True)
    assert message is not None
    return message


def _declared(app: Celery, *queues: str) -> None:
    with app.connection_for_write() as connection:
        for name in queues:
            Queue(name, exchange="", routing_key=name)(connection.default_channel).declare()


def _plain(value: Any) -> Any:
    """As it comes out at the other end, without what differs from message to message."""
    return json.loads(json.dumps(value))


def test_a_prepared_control_message_is_what_celery_would_publish(app: Celery, compiler: Compiler) -> None:
    _declared(app, "orchestrator")
    signature = compiler.step("job", 3)
    signature.apply_async(task_id="fixed")
    real = _published(app, "orchestrator")

    prepared = prepare(app, signature.clone(task_id="fixed"), NOW)

    assert json.loads(prepared.body) == json.loads(real.body)
    assert {**_plain(prepared.headers), PUBLISHED_AT: None} == {**real.headers, PUBLISHED_AT: None}
    assert prepared.queue == "orchestrator"
    assert (prepared.content_type, prepared.content_encoding) == (real.content_type, real.content_encoding)
    assert prepared.properties["correlation_id"] == real.properties["correlation_id"] == "fixed"


@pytest.mark.parametrize("plain", [False, True])
def test_a_prepared_chain_is_what_celery_would_publish(app: Celery, compiler: Compiler, plain: bool) -> None:
    """Celery gives the second link an id before it publishes the first; ours gets one when it is published itself."""
    info = _info(type="shop.add", queue="fleet", timeout_seconds=5) if plain else _info(priority=4, attempt=2)
    queue = "fleet" if plain else "cpu.resize"
    _declared(app, queue)
    compiler.dispatch(info, "cpu").apply_async()
    real = _published(app, queue)

    prepared = compiler.task_message(info, "cpu", NOW)

    args, kwargs, embed = json.loads(prepared.body)
    real_args, real_kwargs, real_embed = json.loads(real.body)
    assert (args, kwargs) == (real_args, real_kwargs)
    (link,), (real_link,) = embed.pop("chain"), real_embed.pop("chain")
    assert embed.keys() == real_embed.keys()
    assert [e["task"] for e in embed["errbacks"] or []] == [e["task"] for e in real_embed["errbacks"] or []]
    assert (link["task"], link["args"], link["kwargs"]) == (real_link["task"], real_link["args"], real_link["kwargs"])
    assert link["options"].items() <= real_link["options"].items()
    headers = _plain(prepared.headers)
    assert headers.pop(PUBLISHED_AT) == NOW
    assert headers == real.headers
    assert prepared.properties["correlation_id"] == real.properties["correlation_id"] == info.id
    if not plain:
        assert prepared.priority == real.properties["priority"] == 4


def test_a_chord_publishes_its_branches_and_leaves_the_join_to_the_store(app: Celery, compiler: Compiler) -> None:
    _declared(app, "orchestrator", "cpu.resize")
    infos = [_info(branch=n, fanout_id="f") for n in range(2)]

    compiler.parallel("j", "f", [(info, "cpu") for info in infos]).apply_async()

    assert {_published(app, "cpu.resize").headers["id"] for _ in infos} == {info.id for info in infos}
    with app.connection_for_read() as connection:
        assert connection.default_channel.basic_get("orchestrator") is None


def test_a_prepared_message_survives_json(compiler: Compiler) -> None:
    message = compiler.task_message(_info(params={"ü": [1, None]}), "cpu", NOW)

    assert Message.from_dict(json.loads(json.dumps(message.to_dict()))) == message


def test_preparing_touches_no_broker(app: Celery, compiler: Compiler) -> None:
    app.conf.broker_url = "amqp://nobody.invalid:1//"

    assert compiler.task_message(_info(), "cpu", NOW).queue == "cpu.resize"


def test_control_messages_are_named_by_what_they_continue(compiler: Compiler) -> None:
    info = _info(id="t", job_id="j")
    keys = {
        compiler.step_message("j", 7, NOW).key,
        compiler.aggregate_message("j", "f", NOW).key,
        compiler.child_message("j", "c", NOW).key,
        compiler.resume_message(info, {"status": "timeout"}, NOW).key,
        compiler.task_message(info, "cpu", NOW).key,
    }

    assert keys == {"step:j:7", "aggregate:f", "child:c", "resume:t", None}


def test_a_result_of_the_engines_own_is_a_resume_with_its_envelope(compiler: Compiler) -> None:
    message = compiler.resume_message(_info(id="t", job_id="j", branch=0, fanout_id="f"), {"status": "timeout"}, NOW)

    args, kwargs, _ = json.loads(message.body)
    assert (args, kwargs) == ([{"status": "timeout"}], {"job_id": "j", "task_id": "t", "fanout_id": "f"})
    assert (message.queue, message.declare) == ("orchestrator", "default")


def test_a_message_published_again_differs_by_its_time_only(compiler: Compiler) -> None:
    message = compiler.step_message("j", 1, NOW)

    again = published_again(message, NOW + 5)

    assert again.headers == {**message.headers, PUBLISHED_AT: NOW + 5}
    assert message.headers[PUBLISHED_AT] == NOW
    assert (again.body, again.key, again.queue) == (message.body, message.key, message.queue)


def test_the_second_message_of_a_task_differs_from_the_first_in_its_ids_and_body_alone() -> None:
    """The first is made on Celery's way, the second from what that gave."""
    app = Celery("twice", set_as_current=False, broker="memory://")
    compiler = Compiler(app)
    one, two = (TaskInfo(new_id(), new_id(), "resize", {"n": n}, {}, priority=3) for n in (1, 2))
    first, second = compiler.task_message(one, "cpu", 1.0).to_dict(), compiler.task_message(two, "cpu", 1.0).to_dict()

    for message, info in ((first, one), (second, two)):
        text = json.dumps(message).replace(info.id, "TASK").replace(info.job_id, "JOB")
        message.update(json.loads(text.replace(f'\\"n\\": {info.params["n"]}', "N")))

    assert second == first


def test_whoever_listens_to_publishing_sees_every_message() -> None:
    seen = []

    def listen(sender: str, **_: object) -> None:
        seen.append(sender)

    before_task_publish.connect(listen)
    try:
        compiler = Compiler(Celery("heard", set_as_current=False, broker="memory://"))
        for version in range(3):
            compiler.step_message("job", version, 1.0)
    finally:
        before_task_publish.disconnect(listen)
    assert seen == ["avtomatika.step"] * 3
