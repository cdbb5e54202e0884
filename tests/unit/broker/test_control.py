"""Telling workers to stop attempts, where nobody listens."""

from __future__ import annotations

import pytest
from celery import Celery
from celery.worker.control import Panel

from avtomatika.broker.control import STOP, stop_tasks, tell_stops
from tests.support.processes import free_port


async def test_a_broker_that_is_away_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    app = Celery("stops", broker=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False)
    app.conf.broker_transport_options = {"max_retries": 0, "connect_retries_timeout": 0.1}

    await tell_stops(app, [("worker@a", "t1"), ("worker@b", "t2")])

    assert "2 attempts are stopped at their workers' next heartbeats only" in caplog.text


async def test_without_stops_nothing_is_sent() -> None:
    await tell_stops(None, [])


def test_without_our_pool_nothing_is_found() -> None:
    assert stop_tasks(["t1"]) == []


@pytest.mark.parametrize("task_ids", ["t1", ["t1", "t2"], ()])
def test_the_command_takes_one_id_or_several(task_ids: object) -> None:
    assert Panel.data[STOP](None, task_ids=task_ids) == {"ok": []}
