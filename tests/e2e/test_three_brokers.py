"""A blueprint with each kind of action leaves the same history on every broker."""

from __future__ import annotations

import pytest

from avtomatika.jobs import JobStatus
from tests.support.engine import Engine, Line, app_environment, opened_engine
from tests.support.processes import CapabilityWorker, Orchestrator, Processes
from tests.support.servers import Broker, RabbitMQ, make_broker

pytestmark = pytest.mark.timeout(900)

ORDER = {"items": ["tea", "salt", "rope"], "delivery": {"kind": "express"}}
QUEUES = ("orchestrator", "cpu", "cpu.weigh", "cpu.pack", "price", "price.price")


async def _run_order(engine: Engine) -> tuple[list[Line], list[Line]]:
    """One order from its creation to its end; the histories of the order and of its invoice."""
    order = await engine.create("order", ORDER)
    waiting = await engine.reaches(order.id, JobStatus.WAITING_FOR_HUMAN)
    assert waiting.current_state == "approve"
    await engine.service.decide(order.id, "approved", comment="looks right", who="test")
    ended = await engine.ended(order.id)

    assert (ended.status, ended.current_state, ended.error_message) == (JobStatus.FINISHED, "shipped", None)
    assert ended.result == {"parcels": ["box of rope", "box of salt", "box of tea"], "grams": 11}
    assert len(ended.child_job_ids) == 1
    invoice = await engine.ended(ended.child_job_ids[0])
    assert (invoice.status, invoice.parent_job_id, invoice.result) == (JobStatus.FINISHED, order.id, {"cents": 77})
    return await engine.history(order.id), await engine.history(invoice.id)


async def _histories(broker: Broker, processes: Processes) -> tuple[list[Line], list[Line]]:
    env = {**broker.env, **app_environment("every_action")}
    orchestrator = processes.make(Orchestrator, env=env, wait=False)
    worker = processes.make(CapabilityWorker, env=env)
    orchestrator.wait_ready()
    try:
        async with opened_engine(env) as engine:
            return await _run_order(engine)
    finally:
        worker.close()
        orchestrator.close()


@pytest.mark.rabbitmq
async def test_the_history_is_the_same_on_every_broker(
    request: pytest.FixtureRequest, namespace: str, processes: Processes
) -> None:
    reference: tuple[list[Line], list[Line]] | None = None
    for kind in ("redis-6.2", "redis-newer", "rabbitmq"):
        broker = make_broker(request, kind, namespace)
        if kind == "rabbitmq":
            rabbit: RabbitMQ = request.getfixturevalue("rabbitmq")
            rabbit.names |= {f"{rabbit.prefix}{queue}" for queue in QUEUES}
        histories = await _histories(broker, processes)
        reference = reference or histories
        assert histories == reference, kind

    order, invoice = reference or ([], [])
    visited = [state for _, state, _ in order]
    assert [state for index, state in enumerate(visited) if state and state not in visited[:index]] == [
        "received",
        "route",
        "pack",
        "packed",
        "approve",
        "shipped",
    ]
    assert {state for _, state, _ in invoice if state} == {"price", "written"}


async def test_a_rejected_order_and_an_ordinary_one(redis_broker: Broker, processes: Processes) -> None:
    env = {**redis_broker.env, **app_environment("every_action")}
    processes.make(Orchestrator, env=env, wait=False)
    processes.make(CapabilityWorker, env=env, wait=False)
    processes.wait_ready()
    async with opened_engine(env) as engine:
        ordinary = await engine.run("order", {**ORDER, "delivery": {"kind": "bicycle"}})
        rejected = await engine.create("order", ORDER)
        await engine.reaches(rejected.id, JobStatus.WAITING_FOR_HUMAN)
        await engine.service.decide(rejected.id, "rejected", who="test")
        ended = await engine.ended(rejected.id)

    assert (ordinary.status, ordinary.current_state) == (JobStatus.FINISHED, "refused")
    assert (ended.status, ended.current_state) == (JobStatus.FINISHED, "refused")
