"""A plain Celery task through pytest-celery's set-up, on processes."""

from __future__ import annotations

import pytest
import redis
from pytest_celery import RESULT_TIMEOUT, CeleryTestSetup

from tests.support.polling import eventually


@pytest.fixture
def ready_setup(celery_setup: CeleryTestSetup) -> CeleryTestSetup:
    assert celery_setup.ready(ping=True, control=True)
    return celery_setup


def test_a_task_runs_and_its_value_arrives(ready_setup: CeleryTestSetup) -> None:
    result = ready_setup.app.send_task("plainapp.add", kwargs={"x": 2, "y": 3}, queue=ready_setup.worker.worker_queue)

    assert result.get(timeout=RESULT_TIMEOUT) == 5
    ready_setup.worker.assert_log_exists(result.id)
    # The value is stored, and may be read, before the worker writes this line.
    eventually(lambda: f"Task plainapp.add[{result.id}] succeeded" in ready_setup.worker.logs())


def test_an_exception_arrives(ready_setup: CeleryTestSetup) -> None:
    result = ready_setup.app.send_task("plainapp.explode", args=["on purpose"], queue=ready_setup.worker.worker_queue)

    with pytest.raises(ValueError, match="on purpose"):
        result.get(timeout=RESULT_TIMEOUT)


def test_a_killed_worker_takes_tasks_again_after_its_restart(ready_setup: CeleryTestSetup) -> None:
    worker = ready_setup.worker

    worker.kill()
    assert worker.container.status == "exited"
    assert not worker.container.process.descendants()
    result = ready_setup.app.send_task("plainapp.add", args=[20, 22], queue=worker.worker_queue)
    worker.restart()

    assert worker.container.status == "running"
    assert result.get(timeout=RESULT_TIMEOUT) == 42


def test_a_restarted_broker_still_holds_what_was_sent(ready_setup: CeleryTestSetup) -> None:
    ready_setup.worker.kill()
    result = ready_setup.app.send_task("plainapp.describe", args=["kept"], queue=ready_setup.worker.worker_queue)

    ready_setup.broker.restart(force=True)
    ready_setup.worker.restart()

    # Asked for, not awaited: the subscription behind `get` does not outlive a restart of the server that holds the results, too.
    backend = ready_setup.app.backend
    eventually(lambda: backend.get_state(result.id) == "SUCCESS", retry=(redis.exceptions.ConnectionError,))
    assert backend.get_result(result.id) == {"name": "kept", "length": 4}


def test_the_processes_of_a_worker_can_be_listed(ready_setup: CeleryTestSetup) -> None:
    listed = ready_setup.worker.get_running_processes_info(["pid", "name"])

    assert ready_setup.worker.container.process.pid in {process["pid"] for process in listed}
