"""The same set-up on pytest-celery's own containers, where a container engine is at hand."""

from __future__ import annotations

import pytest
from pytest_celery import RESULT_TIMEOUT, CeleryTestSetup
from pytest_celery.vendors.worker.tasks import add

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def test_a_task_runs_in_a_container(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(ping=True)

    result = add.s(2, 3).apply_async(queue=celery_setup.worker.worker_queue)

    assert result.get(timeout=RESULT_TIMEOUT) == 5
