"""The worker API over a whole engine in memory: every documented variant, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from avtomatika.api import worker
from avtomatika.api.app import create_app
from avtomatika.api.keys import HUB, SETTINGS
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.service import Service
from avtomatika.jobs import Job, JobStatus, TaskInfo, WorkerRecord
from avtomatika.settings import read_settings
from avtomatika.state.base import ClaimOutcome, TaskClaim
from tests.support.fetching import QueueFetcher
from tests.support.machine import Machine
from tests.support.polling import eventually_async

CLIENT, WORKER = "a-client-token-for-tests", "a-worker-token-for-tests"
HEADERS = {"X-Worker-Token": WORKER, "X-Client-Token": CLIENT}


def _blueprint(**options: Any) -> Blueprint:
    blueprint = Blueprint("draw")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any, initial_data: Any) -> None:
        transitions = {"success": "end", "cancelled": "end", "failure": "end", "odd": "end"}
        actions.dispatch_task("draw", initial_data, transitions, **options)

    @blueprint.handler_for("end", is_end=True)
    async def end(state_history: Any) -> Any:
        return state_history

    return blueprint


def _fan() -> Blueprint:
    blueprint = Blueprint("fan")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_parallel([{"task_type": "draw", "params": {"n": n}} for n in range(2)], "merge")

    @blueprint.aggregator_for("merge")
    async def merge(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    return blueprint


@dataclass
class Place:
    """A machine, a facade over it, and a client of that facade; the facade's messages are those of the machine's queue."""

    machine: Machine
    fetcher: QueueFetcher
    client: TestClient[Any, Any]

    async def register(self, worker_id: str = "w1", expect: int = 200, **fields: Any) -> dict[str, Any]:
        body = {"worker_id": worker_id, "supported_tasks": ["draw"], "capabilities": {"gpu": ["draw"]}, **fields}
        async with self.client.post("/_worker/workers/register", json=body) as response:
            answer = await response.json()
            assert response.status == expect, answer
            return answer

    async def patch(self, worker_id: str = "w1", expect: int = 200, **fields: Any) -> dict[str, Any]:
        async with self.client.patch(f"/_worker/workers/{worker_id}", json=fields or None) as response:
            answer = await response.json()
            assert response.status == expect, answer
            return answer

    async def poll(self, worker_id: str = "w1") -> dict[str, Any] | None:
        async with self.client.get(f"/_worker/workers/{worker_id}/tasks/next") as response:
            assert response.status in (200, 204), await response.text()
            return await response.json() if response.status == 200 else None

    async def report(self, task: dict[str, Any], worker_id: str = "w1", expect: int = 200, **result: Any) -> dict[str, Any]:
        body = {"job_id": task["job_id"], "task_id": task["task_id"], "worker_id": worker_id, "result": result}
        async with self.client.post("/_worker/tasks/result", json=body) as response:
            answer = await response.json()
            assert response.status == expect, answer
            return answer

    async def job(self, blueprint: str = "draw", **data: Any) -> str:
        """A job whose task waits in its queue, or for a pick."""
        job_id = await self.machine.create(blueprint, **data)
        await self.control()
        return job_id

    async def control(self) -> None:
        """Delivers what the orchestrator takes; tasks stay in the queue."""
        while True:
            mine = [message for message in self.machine.queue if message.headers["task"].startswith("avtomatika.")]
            if not mine:
                break
            self.machine.queue.remove(mine[0])
            await self.machine.deliver(mine[0])
        await self.machine.settled()

    async def ended(self, job_id: str) -> Job:
        await self.control()
        return await self.machine.job(job_id)

    async def record(self, worker_id: str = "w1") -> WorkerRecord:
        record = await self.machine.store.worker(worker_id, self.machine.now)
        assert record is not None
        return record

    async def parked(self, count: int) -> None:
        async def look() -> bool:
            return self.client.app[HUB].parked == count  # type: ignore[union-attr]

        await eventually_async(look, deadline=10, interval=0.01)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    machine = await Machine(
        _blueprint(), _fan(), worker_poll_timeout_seconds=1.5, client_token=CLIENT, global_worker_token=WORKER
    ).start()
    machine.store._workers.pop("worker")
    service = Service(machine.engine)
    fetcher = QueueFetcher(machine.queue)
    service.make_hub = partial(service.make_hub, fetcher=fetcher)  # type: ignore[method-assign]
    settings = read_settings(client_token=CLIENT, global_worker_token=WORKER, worker_poll_timeout_seconds=1.5)
    async with TestClient(TestServer(create_app(service, settings)), headers=HEADERS) as client:
        yield Place(machine, fetcher, client)


# --- Registration and signs of life ---------------------------------------------------------------------------------------------


async def test_a_worker_registers_as_documented(place: Place) -> None:
    answer = await place.register(
        worker_type="gpu_worker",
        max_concurrent_tasks=3,
        resources={"cpu_cores": 8, "gpu_info": {"model": "NVIDIA T4", "vram_gb": 16}},
        installed_models=[{"name": "stable-diffusion-1.5", "version": "1.5"}, "whisper"],
        cost_per_second=0.25,
        favourite_colour="blue",
    )

    assert answer == {"status": "registered"}
    record = await place.record()
    assert (record.type, record.tasks, record.max_concurrent_tasks, record.capabilities) == (
        "gpu_worker",
        ("draw",),
        3,
        {"gpu": 3},
    )
    assert record.installed_models == ("stable-diffusion-1.5", "whisper")
    assert record.cost_of("draw") == 0.25
    assert record.resources["gpu_info"] == {"model": "NVIDIA T4", "vram_gb": 16}
    assert record.extra == {"favourite_colour": "blue"}
    assert await place.machine.store.capability_of("draw") == "gpu"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"cost": 2}, 2.0),
        ({"cost_per_second": 3.5}, 3.5),
        ({"cost_per_skill": {"draw": 4}}, 4.0),
        ({}, 0.0),
    ],
)
async def test_a_cost_in_each_of_its_forms(place: Place, fields: dict[str, Any], expected: float) -> None:
    await place.register(**fields)

    assert (await place.record()).cost_of("draw") == expected


async def test_a_bare_registration_has_defaults(place: Place) -> None:
    async with place.client.post("/_worker/workers/register", json={"worker_id": "bare"}) as response:
        assert response.status == 200
    record = await place.record("bare")

    assert (record.status, record.max_concurrent_tasks, record.tasks, record.http) == ("idle", 1, (), True)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "worker_id"),
        ({"worker_id": ""}, 400, "worker_id"),
        ({"worker_id": "a b"}, 422, "worker_id"),
        ({"worker_id": "../x"}, 422, "worker_id"),
        ({"worker_id": "w\x00"}, 422, "worker_id"),
        ({"worker_id": "w", "max_concurrent_tasks": 0}, 422, "max_concurrent_tasks"),
        ({"worker_id": "w", "supported_tasks": "draw"}, 422, "supported_tasks"),
        ({"worker_id": "w", "supported_tasks": ["orchestrator"]}, 422, "belongs to the engine"),
        ({"worker_id": "w", "capabilities": {"a.b": 1}}, 422, "a.b"),
        ({"worker_id": "w", "capabilities": {"gpu": ["t"], "cpu": ["t"]}}, 422, "one capability"),
        ({"worker_id": "w", "cost_per_second": -1}, 422, "cost_per_second"),
        ({"worker_id": "w", "resources": {"cpu_cores": -1}}, 422, "cpu_cores"),
    ],
)
async def test_a_registration_that_does_not_fit_is_refused(place: Place, body: Any, status: int, words: str) -> None:
    async with place.client.post("/_worker/workers/register", json=body) as response:
        assert response.status == status
        assert words in (await response.json())["error"]


async def test_a_task_of_another_capability_and_a_celery_workers_name_are_refused(place: Place) -> None:
    await place.register()
    answer = await place.register("w2", expect=409, capabilities={"cpu": ["draw"]})
    assert "pinned" in answer["error"]
    answer = await place.register("orchestrator", expect=409)
    assert "Celery" in answer["error"]


async def test_heartbeats_with_and_without_news(place: Place) -> None:
    await place.register(skill_dependencies={"draw": ["sd"]})

    assert await place.patch() == {"status": "ttl_refreshed"}
    view = await place.patch(load=1, status="busy", hot_cache=[{"name": "sd"}], supported_tasks=["draw", "paint"])
    assert (view["worker_id"], view["status"], view["hot_skills"]) == ("w1", "busy", ["draw"])
    assert view["tasks"] == ["draw", "paint"]
    assert await place.machine.store.capability_of("paint") == "paint"
    assert (await place.patch(load={"gpu": 0}, status="idle"))["load"] == {"gpu": 0}
    for news in ({}, {"load": 1}):
        assert "POST /_worker/workers/register" in (await place.patch("nobody", expect=404, **news))["error"]


async def test_hot_skills_without_their_models_are_believed(place: Place) -> None:
    await place.register()

    assert (await place.patch(hot_skills=["draw"]))["hot_skills"] == ["draw"]
    assert (await place.patch(hot_cache=["x"], hot_skills=["draw"]))["hot_skills"] == ["draw"]
    assert (await place.patch(hot_skills=[]))["hot_skills"] == []


# --- Polls and results ----------------------------------------------------------------------------------------------------------


async def test_a_task_goes_to_a_poll_and_its_result_to_the_job(place: Place) -> None:
    await place.register()
    job_id = await place.job(x=1)

    task = await place.poll()

    assert task is not None
    assert (task["job_id"], task["type"], task["params"], task["priority"], task["tracing_context"], task["attempt"]) == (
        job_id,
        "draw",
        {"x": 1},
        0.0,
        {},
        1,
    )
    assert place.fetcher.unacknowledged == {}
    assert await place.report(task, expect=200, data={"y": 2}) == {"status": "result_accepted_success"}
    assert await place.poll() is None
    job = await place.ended(job_id)
    assert (job.status, job.result) == (JobStatus.FINISHED, {"y": 2})


async def test_a_parked_poll_is_answered_when_a_task_comes(place: Place) -> None:
    await place.register()
    polling = asyncio.create_task(place.poll())
    await place.parked(1)

    job_id = await place.job()

    task = await polling
    assert task is not None
    assert task["job_id"] == job_id


async def test_a_task_that_was_picked_for_a_worker_goes_to_its_poll(place: Place) -> None:
    place.machine.registry._by_name["draw"] = _blueprint(dispatch_strategy="cheapest")
    await place.register("dear", cost=5)
    await place.register("cheap", cost=1)
    polls = [asyncio.create_task(place.poll(name)) for name in ("dear", "cheap")]
    await place.parked(2)

    job_id = await place.job()

    assert await polls[0] is None
    task = await polls[1]
    assert task is not None
    assert task["job_id"] == job_id
    assert await place.report(task, "cheap", expect=200) == {"status": "result_accepted_success"}


@pytest.mark.parametrize(
    ("result", "status", "job_status"),
    [
        ({"status": "failure", "error": {"code": "INVALID_INPUT_ERROR", "message": "no"}}, "failure", JobStatus.FAILED),
        ({"status": "failure", "error": {"code": "OWN"}}, "failure", JobStatus.FINISHED),
        ({"status": "cancelled"}, "cancelled", JobStatus.FINISHED),
        ({"status": "odd"}, "success", JobStatus.FINISHED),
        ({"data": {"left": "out"}}, "success", JobStatus.FINISHED),
    ],
)
async def test_each_kind_of_result(place: Place, result: dict[str, Any], status: str, job_status: JobStatus) -> None:
    await place.register()
    job_id = await place.job()
    task = await place.poll()
    assert task is not None

    body = {"job_id": job_id, "task_id": task["task_id"], "worker_id": "w1", "result": result}
    async with place.client.post("/_worker/tasks/result", json=body) as response:
        assert await response.json() == {"status": f"result_accepted_{status}"}

    assert (await place.ended(job_id)).status is job_status


async def test_a_branch_of_a_fan_out(place: Place) -> None:
    await place.register(max_concurrent_tasks=2)
    job_id = await place.job("fan")
    for _ in range(2):
        task = await place.poll()
        assert task is not None
        assert await place.report(task, expect=200) == {"status": "parallel_branch_result_accepted"}
    assert (await place.ended(job_id)).status is JobStatus.FINISHED


async def test_a_result_counts_once(place: Place) -> None:
    await place.register()
    job_id = await place.job()
    task = await place.poll()
    assert task is not None
    await place.report(task)

    before = await place.report(task)
    await place.ended(job_id)
    after = await place.report(task)
    strange = await place.report({"job_id": job_id, "task_id": "nothing"})

    assert [answer["status"] for answer in (before, after, strange)] == ["result_ignored"] * 3
    assert all(answer["reason"] for answer in (before, after, strange))
    assert len(await place.machine.events(job_id, "task_finished")) == 1


async def test_another_workers_task_is_not_ones_own(place: Place) -> None:
    await place.register()
    await place.register("w2")
    await place.job()
    task = await place.poll()
    assert task is not None

    await place.report(task, "w2", expect=403)


@pytest.mark.parametrize("missing", ["job_id", "task_id", "worker_id"])
async def test_a_result_names_what_it_belongs_to(place: Place, missing: str) -> None:
    body = {"job_id": "j", "task_id": "t", "worker_id": "w", "result": {"status": "success"}}
    del body[missing]
    async with place.client.post("/_worker/tasks/result", json=body) as response:
        assert response.status == 400
        assert missing in (await response.json())["error"]


async def test_who_is_not_registered_gets_no_task(place: Place) -> None:
    async with place.client.get("/_worker/workers/nobody/tasks/next") as response:
        assert response.status == 404


async def test_a_worker_gets_no_more_than_its_slots(place: Place) -> None:
    await place.register(max_concurrent_tasks=2, capabilities={"gpu": {"limit": 1, "tasks": ["draw"]}, "cpu": ["paint"]})
    for _ in range(2):
        await place.job()
    first = await place.poll()
    assert first is not None

    assert await place.poll() is None
    polling = asyncio.create_task(place.poll())
    await place.parked(1)
    await place.report(first)
    second = await polling
    assert second is not None
    assert second["task_id"] != first["task_id"]


async def test_a_parked_poll_gets_what_its_worker_takes_now(place: Place) -> None:
    await place.register(supported_tasks=["paint"], capabilities={"gpu": {"limit": 1, "tasks": ["draw"]}, "cpu": ["paint"]})
    job_id = await place.job()
    polling = asyncio.create_task(place.poll())
    await place.parked(1)
    await place.patch(supported_tasks=["draw", "paint"])
    task = await polling
    assert task is not None
    assert task["job_id"] == job_id

    polling = asyncio.create_task(place.poll())
    await place.parked(1)
    await place.report(task)
    await place.patch(supported_tasks=[])
    await place.job()
    assert await polling is None


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [("wait=1", 1), ("respond-async, wait=2", 2), ('Wait = "3"', 3), ("wait=900", 30), ("wait=x", 30), ("await=1", 30), ("", 30)],
)
def test_how_long_a_poll_is_held(prefer: str, seconds: float) -> None:
    app = web.Application()
    app[SETTINGS] = read_settings(worker_poll_timeout_seconds=30)
    request = make_mocked_request("GET", "/", headers={"Prefer": prefer} if prefer else {}, app=app)
    assert worker._patience(request) == seconds


async def test_a_worker_that_hung_up_gives_its_task_to_the_next(place: Place) -> None:
    await place.register()
    await place.register("w2")
    polling = asyncio.create_task(place.poll())
    await place.parked(1)
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)

    job_id = await place.job()

    task = await place.poll("w2")
    assert task is not None
    assert task["job_id"] == job_id


async def test_what_a_dead_facade_has_leased_goes_to_the_next_poll(place: Place) -> None:
    await place.register()
    job_id = await place.job()
    info = (await place.machine.job(job_id)).waiting
    assert isinstance(info, TaskInfo)
    record, store = await place.record(), place.machine.store
    await store.claim_task(info.id, "w1", record.boot_id, place.machine.now - 60, 300, "gpu", handing=True)

    task = await place.poll()

    assert task is not None
    assert task["task_id"] == info.id
    assert (await store.pull_view("w1", place.machine.now)).handing == {}  # type: ignore[union-attr]


async def test_a_new_start_ends_what_the_last_one_held(place: Place) -> None:
    await place.register()
    job_id = await place.job()
    task = await place.poll()
    assert task is not None

    await place.register()
    await place.machine.tick()
    again = await place.poll()

    assert again is not None
    assert (again["job_id"], again["attempt"]) == (job_id, 2)
    assert (await place.report(task))["status"] == "result_ignored"
    assert (await place.report(again))["status"] == "result_accepted_success"


async def test_a_parked_poll_of_an_earlier_start_gets_nothing(place: Place) -> None:
    await place.register()
    old = asyncio.create_task(place.poll())
    await place.parked(1)
    await place.register()
    job_id = await place.job()

    assert await old is None
    task = await place.poll()
    assert task is not None
    assert task["job_id"] == job_id


async def test_a_message_of_what_is_over_is_thrown_away_and_the_poll_waits_on(place: Place) -> None:
    await place.register()
    over = await place.job()
    service = Service(place.machine.engine)
    await service.orders.cancel(over)
    job_id = await place.job()

    task = await place.poll()

    assert task is not None
    assert task["job_id"] == job_id
    assert place.fetcher.unacknowledged == {}


async def test_a_picked_attempt_that_was_cancelled_and_given_back_lets_its_job_go_on(place: Place) -> None:
    place.machine.registry._by_name["draw"] = _blueprint(dispatch_strategy="cheapest")
    await place.register(capabilities={"gpu": {"limit": 1, "tasks": ["draw"]}})
    job_id = await place.job()
    task = await place.poll()
    assert task is not None
    await Service(place.machine.engine).orders.cancel(job_id)
    boot_id = (await place.record()).boot_id
    assert await place.machine.store.release_task(task["task_id"], boot_id, place.machine.now)

    assert await place.poll() is None
    job = await place.ended(job_id)
    assert (job.status, job.current_state) == (JobStatus.FINISHED, "end")


async def test_what_was_picked_for_a_worker_and_is_not_claimed_yet_takes_its_slot(place: Place) -> None:
    place.machine.registry._by_name["draw"] = _blueprint(dispatch_strategy="cheapest")
    await place.register(max_concurrent_tasks=2, capabilities={"gpu": {"limit": 1, "tasks": ["draw"]}, "cpu": ["paint"]})
    await place.job()
    place.machine.registry._by_name["draw"] = _blueprint()
    await place.job()  # waits in the queue
    claim = place.machine.store.claim_task

    async def slow(task_id: str, *args: Any, **options: Any) -> Any:
        record = await place.machine.store.get_task(task_id)
        if record is not None and record.assigned_to is not None:
            return TaskClaim(ClaimOutcome.STALE)
        return await claim(task_id, *args, **options)

    place.machine.store.claim_task = slow  # type: ignore[method-assign]
    assert await place.poll() is None
    assert place.fetcher.fetches == 0


async def test_a_broker_that_is_away_keeps_no_poll_from_being_answered(place: Place) -> None:
    await place.register()
    place.fetcher.away = True
    await place.job()

    assert await place.poll() is None

    place.fetcher.away = False

    async def look() -> dict[str, Any] | None:
        return await place.poll()

    assert await eventually_async(look, deadline=10) is not None


# --- WebSockets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/_worker/ws/w1", "/_worker/ws"])
async def test_cancel_goes_down_and_progress_comes_up(place: Place, path: str) -> None:
    await place.register()
    job_id = await place.job()
    task = await place.poll()
    assert task is not None
    async with place.client.ws_connect(path) as ws:
        await ws.send_json(
            {"type": "progress_update", "task_id": task["task_id"], "job_id": job_id, "progress": 0.5, "message": "half"}
        )

        async def look() -> bool:
            record = await place.machine.store.get_task(task["task_id"])
            return record is not None and (record.progress, record.progress_message) == (0.5, "half")

        await eventually_async(look, deadline=10)
        async with place.client.post(f"/api/v1/jobs/{job_id}/cancel") as response:
            assert await response.json() == {"status": "cancellation_request_sent", "job_id": job_id}
        command = await ws.receive_json(timeout=10)
        expected = {"command": "cancel_task", "type": "cancel_task", "task_id": task["task_id"], "job_id": job_id}
        assert command == expected
        assert (await place.patch())["cancel_tasks"] == [task["task_id"]]
    async with place.client.ws_connect(path) as ws:  # told again to whoever reconnects
        assert await ws.receive_json(timeout=10) == expected
    assert await place.report(task, expect=200) == {"status": "result_accepted_success"}
    assert await place.patch() == {"status": "ttl_refreshed"}
    assert (await place.ended(job_id)).current_state == "end"


async def test_without_a_socket_a_cancel_is_accepted(place: Place) -> None:
    await place.register()
    job_id = await place.job()
    await place.poll()

    async with place.client.post(f"/api/v1/jobs/{job_id}/cancel") as response:
        assert await response.json() == {"status": "cancellation_request_accepted", "job_id": job_id}


@pytest.mark.parametrize(
    "frame",
    [
        "not json",
        "[]",
        "{}",
        '{"type": "progress_update"}',
        '{"type": "progress_update", "task_id": "t", "progress": "x"}',
        "[" * 5000,
    ],
)
async def test_a_frame_that_makes_no_sense_is_answered_and_hurts_nobody(place: Place, frame: str) -> None:
    async with place.client.ws_connect("/_worker/ws/w1") as ws:
        await ws.send_str(frame)
        assert (await ws.receive_json(timeout=10))["type"] == "error"
        await ws.send_bytes(b"\x00\xff")
        assert (await ws.receive_json(timeout=10))["type"] == "error"
        assert not ws.closed


async def test_too_many_or_too_big_frames_end_the_socket(place: Place) -> None:
    async with place.client.ws_connect("/_worker/ws/w1") as ws:
        for _ in range(30):
            await ws.send_str("nonsense")
        while not (await ws.receive(timeout=10)).type.name.startswith("CLOS"):
            pass
    async with place.client.ws_connect("/_worker/ws/w1") as ws:
        await ws.send_str("x" * 100_000)
        assert (await ws.receive(timeout=10)).type.name.startswith("CLOS")


async def test_progress_of_another_workers_task_is_not_taken(place: Place) -> None:
    await place.register()
    await place.job()
    task = await place.poll()
    assert task is not None
    async with place.client.ws_connect("/_worker/ws/w2") as ws:
        await ws.send_json({"type": "progress_update", "task_id": task["task_id"], "progress": 0.5})
        await asyncio.sleep(0.3)

    record = await place.machine.store.get_task(task["task_id"])
    assert record is not None
    assert record.progress is None


async def test_a_task_is_dated_by_the_clock_that_its_timeout_goes_by(place: Place) -> None:
    await place.register()
    await place.job()

    async with place.client.get("/_worker/workers/w1/tasks/next") as response:
        assert response.status == 200
        assert parsedate_to_datetime(response.headers["Date"]).timestamp() == int(place.machine.now)
