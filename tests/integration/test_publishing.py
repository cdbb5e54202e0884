"""Prepared messages on real brokers: pushed with a commit or published from the outbox, and found to be gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from avtomatika.broker.messages import published_again
from avtomatika.broker.probe import BrokerProbe
from avtomatika.broker.publisher import Publisher
from avtomatika.broker.queues import default_queue
from avtomatika.broker.redis import prepare_push
from avtomatika.celery import configuration
from avtomatika.compiler import Compiler
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import Message, TaskInfo, new_id
from avtomatika.settings import get_settings, read_settings
from avtomatika.state.memory import MemoryStore
from tests.support.records import NOW
from tests.support.servers import Broker


@pytest.fixture
def app(broker: Broker, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    if broker.kind == "rabbitmq":
        request.getfixturevalue("rabbitmq").names.add(f"{broker.queue_prefix}cpu.work")
    for name, value in broker.env.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    made = Celery("publishing", set_as_current=False)
    made.conf.update(configuration(read_settings()))
    yield made
    made.close()
    get_settings.cache_clear()


def _message(app: Celery, priority: float = 0.0, at: float = NOW) -> Message:
    info = TaskInfo(new_id(), new_id(), "work", {"x": "ü"}, {}, priority=priority)
    return Compiler(app).task_message(info, "cpu", at)


def _get(app: Celery, queue: str) -> Any:
    with app.connection_for_read() as connection:
        return connection.default_channel.basic_get(queue, no_ack=True)


async def _publish(app: Celery, *messages: Message) -> None:
    """Over the outbox, as where a commit cannot push."""
    store = MemoryStore()
    ids = [outbox_id for message in messages for outbox_id in (await store.publish(message, NOW)).outbox]
    assert await Publisher(app, store).flush(ids) == len(messages)
    assert await store.outbox(NOW) == []


async def test_a_message_from_the_outbox_arrives_as_it_was_prepared(app: Celery) -> None:
    message = _message(app, priority=4)

    await _publish(app, message)

    real = _get(app, message.queue)
    body = real.body.decode() if isinstance(real.body, bytes) else real.body
    assert json.loads(body) == json.loads(message.body)
    assert {**message.headers, **real.headers} == real.headers
    assert (real.content_type, real.content_encoding) == ("application/json", "utf-8")
    assert real.properties["correlation_id"] == message.headers["id"]


async def test_what_a_commit_pushes_is_what_a_publisher_sends(app: Celery, broker: Broker) -> None:
    if broker.kind == "rabbitmq":
        return  # there a commit pushes nothing
    message = _message(app, priority=4)
    await _publish(app, message)
    key, pushed = prepare_push(message)
    with broker.redis.client() as client:
        sent = client.rpop(key)
    assert isinstance(sent, str)

    one, two = json.loads(sent), json.loads(pushed)
    for payload in (one, two):
        payload["properties"].pop("delivery_tag")
        payload["properties"] = {name: value for name, value in payload["properties"].items() if value not in ("", None)}
    assert two == one


async def test_the_probe_tells_what_has_left_its_queue(app: Celery, broker: Broker) -> None:
    probe = BrokerProbe(app)
    lost, waiting, later = _message(app), _message(app, at=NOW + 1), _message(app, at=NOW + 2)
    assert await probe.passed(lost, NOW)

    await _publish(app, waiting, later)

    assert await probe.passed(lost, NOW) is (broker.kind != "rabbitmq")  # there, only an empty queue tells
    assert not await probe.passed(waiting, NOW + 1)
    assert not await probe.passed(later, NOW + 2)
    assert _get(app, waiting.queue) is not None
    assert not await probe.passed(later, NOW + 2)
    assert _get(app, waiting.queue) is not None
    assert await probe.passed(published_again(later, NOW + 2), NOW + 2)


async def test_the_probe_leaves_other_fleets_queues_alone(app: Celery) -> None:
    info = TaskInfo(new_id(), new_id(), "shop.add", {}, {}, queue="fleet")

    assert not await BrokerProbe(app).passed(Compiler(app).task_message(info, None, NOW), NOW)


async def test_what_a_broker_does_not_take_stays_in_the_outbox() -> None:
    made = Celery("publishing", set_as_current=False, broker="amqp://guest:guest@127.0.0.1:1//")
    store = MemoryStore()
    (outbox_id,) = (await store.publish(_message(made), NOW)).outbox

    assert await Publisher(made, store).flush([outbox_id, "unknown"]) == 0
    assert [i for i, _ in await store.outbox(NOW)] == [outbox_id]
    assert await Publisher(made, store).flush([]) == 0


@pytest.mark.parametrize("broker", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True)
async def test_a_refused_message_does_not_hold_up_the_others(app: Celery, broker: Broker, request: pytest.FixtureRequest) -> None:
    refused, taken = _message(app), _message(app)
    other = f"{broker.queue_prefix}cpu.other"
    request.getfixturevalue("rabbitmq").names.add(other)
    refused = Message(**{**refused.to_dict(), "queue": other})
    with app.connection_for_write() as connection:
        default_queue(other)(connection.default_channel).declare()  # without the priorities that ours has
    store = MemoryStore()
    ids = [outbox_id for message in (refused, taken) for outbox_id in (await store.publish(message, NOW)).outbox]

    assert await Publisher(app, store).flush(ids) == 1

    assert _get(app, taken.queue) is not None
    assert [message.queue for _, message in await store.outbox(NOW)] == [other]


async def test_the_probe_looks_again_where_a_pooled_connection_was_closed(app: Celery, broker: Broker) -> None:
    if broker.kind == "rabbitmq":
        return  # its server closes no idle connections
    probe = BrokerProbe(app)
    assert await probe.passed(_message(app), NOW)
    with broker.redis.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)

    assert await probe.passed(_message(app), NOW)


async def test_a_broker_that_is_away_is_no_answer(app: Celery) -> None:
    app.conf.broker_url = "redis://127.0.0.1:1/0"
    app.conf.broker_transport = None

    with pytest.raises(StoreUnavailableError):
        await BrokerProbe(app).passed(_message(app), NOW)
