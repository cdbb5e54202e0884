"""What a real facade tells Prometheus, and that flushing deletes what is its own and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import REPOSITORY, Facade, Processes
from tests.support.servers import Broker, RedisServer


def _start(processes: Processes, env: Mapping[str, str]) -> Facade:
    return processes.make(Facade, env={**env, "BLUEPRINTS_DIR": str(REPOSITORY / "blueprints"), "DEBUG": "true"})


def _call(facade: Facade, method: str, path: str, **options: object) -> requests.Response:
    headers = {"X-Avtomatika-Token": facade.token, "X-Worker-Token": f"worker-{facade.token}"}
    return requests.request(method, facade.url + path, headers=headers, timeout=30, **options)


def _samples(facade: Facade) -> dict[tuple[str, ...], float]:
    response = requests.get(f"{facade.url}/_public/metrics", timeout=30)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_jobs_workers_queues_and_requests(processes: Processes, broker: Broker) -> None:
    facade = _start(processes, broker.env)
    for _ in range(3):
        assert _call(facade, "POST", "/api/v1/hello", json={}).status_code == 202
    assert _call(facade, "POST", "/api/v1/hello", data="{").status_code == 400
    assert _call(facade, "GET", "/api/v1/jobs/one").status_code == 404
    assert _call(facade, "GET", "/api/v1/jobs/two").status_code == 404
    assert _call(facade, "GET", "/nowhere/at/all").status_code == 404
    assert _call(facade, "PROPFIND", "/api/v1/jobs").status_code == 405
    worker = {"worker_id": "w1", "supported_tasks": ["greet"]}
    assert _call(facade, "POST", "/_worker/workers/register", json=worker).status_code == 200

    found = _samples(facade)

    assert found["avtomatika_jobs", "status=pending"] == 3
    assert found["avtomatika_jobs", "status=finished"] == 0
    assert found["avtomatika_workers", "status=idle"] == 1
    assert found["avtomatika_queue_messages", f"queue={broker.queue_prefix}orchestrator"] == 3
    requests_of = "avtomatika_http_requests_total"
    assert found[requests_of, "method=POST", "route=/api/v1/hello", "status=202"] == 3
    assert found[requests_of, "method=POST", "route=/api/v1/hello", "status=400"] == 1
    assert found[requests_of, "method=GET", "route=/api/v1/jobs/{job_id}", "status=404"] == 2
    assert found[requests_of, "method=GET", "route=unknown", "status=404"] == 1
    assert found[requests_of, "method=other", "route=unknown", "status=405"] == 1
    assert found["avtomatika_http_request_seconds_count", "method=POST", "route=/api/v1/hello"] == 4
    assert any(name[0] == "avtomatika_facade_info" for name in found)


def test_flush_deletes_its_own(processes: Processes, broker: Broker) -> None:
    facade = _start(processes, broker.env)
    others = {"NAMESPACE": "another", "QUEUE_PREFIX": f"{broker.queue_prefix}another."}
    neighbour = processes.start(Facade(directory=processes.directory / "neighbour", env={**facade.env, **others}))
    for one in facade, neighbour:
        assert _call(one, "POST", "/api/v1/hello", json={}).status_code == 202

    response = _call(facade, "POST", "/_public/debug/flush_db")

    assert (response.status_code, response.json()) == (200, {"status": "db_flushed"})
    found, kept = _samples(facade), _samples(neighbour)
    assert found["avtomatika_jobs", "status=pending"] == 0
    assert found["avtomatika_queue_messages", f"queue={broker.queue_prefix}orchestrator"] == 0
    assert kept["avtomatika_jobs", "status=pending"] == 1
    assert kept["avtomatika_queue_messages", f"queue={others['QUEUE_PREFIX']}orchestrator"] == 1


def test_metrics_are_503_while_the_store_is_away(processes: Processes, own_redis: RedisServer, namespace: str) -> None:
    facade = _start(processes, {"REDIS_URL": own_redis.url, "NAMESPACE": namespace})
    own_redis.kill()
    for path in "/_public/metrics", "/_public/ready", "/_public/jobs/quarantined":
        response = requests.get(f"{facade.url}{path}", timeout=30)
        assert (response.status_code, "Retry-After" in response.headers) == (503, True)
