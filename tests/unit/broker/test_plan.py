"""Which queues a worker consumes, how each is declared, and in which order Redis is asked for their messages."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from avtomatika.broker.consumer import make_plan
from avtomatika.broker.queues import DIRECT_EXPIRES_MS, direct_queue_name, is_direct
from avtomatika.broker.redis import Channel
from avtomatika.settings import get_settings
from avtomatika.worker import sdk
from avtomatika.worker.sdk import Declared, Worker


@pytest.fixture(params=["", "blue."])
def prefix(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("QUEUE_PREFIX", request.param)
    get_settings.cache_clear()
    yield request.param
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Declared:
    """Two tasks of the capability gpu and one of cpu, in place of what this process declares."""
    worker = Worker(max_concurrent_tasks=5, task_type_limits={"gpu": 1})
    for task, capability in (("train", "gpu"), ("draw", "gpu"), ("resize", "cpu")):
        worker.task(task, task_type=capability)(lambda params: None)
    made = Declared()
    made.use(worker)
    monkeypatch.setattr(sdk, "_declared", made)
    return made


class Queues(dict[str, Any]):
    """Celery's queues, as far as a plan looks at them."""

    _default_consume_from = ("celery",)

    def __missing__(self, name: str) -> str:
        return f"ordinary {name}"


def plan(selected: list[str] | None) -> dict[str, set[str]]:
    app = SimpleNamespace(amqp=SimpleNamespace(queues=Queues()))
    return {name: set(share.queues) for name, share in make_plan(app, selected, 8, "worker@host.example").items()}


@pytest.mark.parametrize(
    ("selected", "lanes"),
    [
        (
            None,
            {
                "gpu": {"gpu.train", "gpu.draw", "gpu", "worker.worker@host.example.gpu"},
                "cpu": {"cpu.resize", "cpu", "worker.worker@host.example.cpu"},
            },
        ),
        (["gpu"], {"gpu": {"gpu.train", "gpu.draw", "gpu", "worker.worker@host.example.gpu"}}),
        (["orchestrator"], {"orchestrator": {"orchestrator"}}),
    ],
)
def test_each_capability_has_its_tasks_queues_its_plain_and_its_direct_one(
    selected: list[str] | None, lanes: dict[str, set[str]], prefix: str, declared: Declared
) -> None:
    assert plan(selected) == {name: {prefix + queue for queue in queues} for name, queues in lanes.items()}


def test_a_direct_queue_is_declared_as_its_senders_declare_it(prefix: str, declared: Declared) -> None:
    app = SimpleNamespace(amqp=SimpleNamespace(queues=Queues()))
    queues = make_plan(app, None, 8, "w")["gpu"].queues

    direct = queues[direct_queue_name("w", "gpu")]

    assert direct.queue_arguments == {"x-max-priority": 10, "x-expires": DIRECT_EXPIRES_MS}
    assert direct.exchange.name == ""
    assert "x-expires" not in queues[f"{prefix}gpu.train"].queue_arguments


def test_direct_queues_are_told_by_their_names(prefix: str) -> None:
    assert is_direct(direct_queue_name("worker@host", "gpu"))
    assert not is_direct(f"{prefix}gpu.train")
    assert not is_direct(f"{prefix}workers.train")


@pytest.mark.parametrize(
    ("queues", "expected"),
    [
        (["gpu.train"], ["gpu.train/0", "gpu.train/1"]),
        # The last fetch came from a plain queue: the direct one goes first with all of its priorities.
        (
            ["worker.w.gpu", "gpu.train", "gpu.draw"],
            ["worker.w.gpu/0", "worker.w.gpu/1", "gpu.train/0", "gpu.draw/0", "gpu.train/1", "gpu.draw/1"],
        ),
        # It came from the direct one: the others go first.
        (
            ["gpu.train", "gpu.draw", "worker.w.gpu"],
            ["gpu.train/0", "gpu.draw/0", "gpu.train/1", "gpu.draw/1", "worker.w.gpu/0", "worker.w.gpu/1"],
        ),
    ],
)
def test_the_order_in_which_redis_is_asked(queues: list[str], expected: list[str]) -> None:
    channel: Any = SimpleNamespace(priority_steps=[0, 1], _q_for_pri=lambda queue, step: f"{queue}/{step}")

    assert Channel._fetch_keys(channel, queues) == expected
