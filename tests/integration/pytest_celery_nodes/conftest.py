"""pytest-celery's fixtures, with process-backed nodes of ours in place of its containers.

Only the three nodes are replaced. Clusters, their configuration, the app and `celery_setup` are pytest-celery's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from pytest_celery import CeleryBackendCluster, CeleryBrokerCluster, CeleryTestBackend, CeleryTestBroker, CeleryTestWorker

from tests.support.celery_nodes import (
    APPS,
    ProcessBackend,
    ProcessBroker,
    ProcessWorker,
    RedisProcessContainer,
    WorkerProcessContainer,
)
from tests.support.processes import CeleryWorkerProcess, Processes
from tests.support.servers import RedisServer


@pytest.fixture
def celery_broker(own_redis: RedisServer) -> Iterator[CeleryTestBroker]:
    node = ProcessBroker(RedisProcessContainer(own_redis))
    yield node
    node.teardown()


@pytest.fixture
def celery_backend(own_redis: RedisServer) -> Iterator[CeleryTestBackend]:
    node = ProcessBackend(RedisProcessContainer(own_redis, vhost=1))
    yield node
    node.teardown()


@pytest.fixture
def celery_worker(
    celery_broker_cluster: CeleryBrokerCluster,
    celery_backend_cluster: CeleryBackendCluster,
    celery_worker_cluster_config: dict[str, dict[str, list[str]]],
    celery_setup_app: Celery,
    processes: Processes,
    tmp_path: Path,
) -> Iterator[CeleryTestWorker]:
    assert celery_broker_cluster.ready()
    assert celery_backend_cluster.ready()
    container = WorkerProcessContainer(
        processes.start(
            CeleryWorkerProcess(
                "plainapp",
                directory=tmp_path,
                node="plain@test",
                queues=(WorkerProcessContainer.worker_queue(),),
                env=WorkerProcessContainer.initial_env(celery_worker_cluster_config),
                cwd=APPS,
                options=("--concurrency", "1"),
            ),
            wait=False,
        )
    )
    node = ProcessWorker(container, celery_setup_app)
    yield node
    node.teardown()
