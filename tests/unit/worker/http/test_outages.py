"""What a worker over HTTP does while its orchestrator is away, and what becomes of its results."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, web

from avtomatika.worker.http import spool as spool_module
from avtomatika.worker.http import worker as worker_module
from avtomatika.worker.http.client import Client, NotRegistered, Refused, Unavailable
from avtomatika.worker.http.config import Orchestrator
from tests.support.orchestrator import TOKEN, WorkerAPI
from tests.support.polling import eventually_async

from .conftest import Bench, MakeAPI


async def _true(look: Any) -> None:
    async def ask() -> Any:
        return look()

    await eventually_async(ask, deadline=30)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "FLUSH_SECONDS", 0.2)


def _files(bench: Bench) -> list[Path]:
    return sorted(bench.settings["worker_spool_dir"].rglob("*.json"))


def _gate(bench: Bench) -> tuple[asyncio.Event, asyncio.Event]:
    """A task `work` that tells when it has begun and ends when it may."""
    began, over = asyncio.Event(), asyncio.Event()

    @bench.worker.task()
    async def work(params: Any) -> Any:
        began.set()
        await over.wait()
        return {"n": 1}

    return began, over


async def test_an_outage_during_the_upload(api: WorkerAPI, bench: Bench) -> None:
    began, over = _gate(bench)
    await bench.start(api)
    task = await api.give("work")
    await asyncio.wait_for(began.wait(), 30)
    await api.stop()
    over.set()
    await _true(lambda: _files(bench))
    assert json.loads(_files(bench)[0].read_text())["body"]["task_id"] == task

    await api.start()
    assert (await api.result(task))["data"] == {"n": 1}
    await _true(lambda: not _files(bench))
    assert (await api.result(await api.give("work")))["data"] == {"n": 1}


async def test_answers_that_ask_for_patience(api: WorkerAPI, bench: Bench) -> None:
    _, over = _gate(bench)
    over.set()
    api.fail("POST", "/tasks/result", 503, 500, 429, Retry_After="0")
    await bench.start(api)

    assert (await api.result(await api.give("work")))["status"] == "success"
    assert sum(line == "POST /_worker/tasks/result" for line in api.log) == 4


async def test_a_retry_after_is_honoured(api: WorkerAPI, bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    _, over = _gate(bench)
    over.set()
    api.fail("POST", "/tasks/result", 429, 503, Retry_After="2")
    await bench.start(api)
    began = loop.time()
    first, second = await api.give("work"), await api.give("work")
    await _true(lambda: len(_files(bench)) == 2)
    await api.result(await api.give("work"))  # that another one gets through does not shorten it
    for task in (first, second):
        await api.result(task)
    assert loop.time() - began >= 2


@pytest.mark.parametrize("status", [403, 404, 409, 422])
async def test_a_refused_result_is_dropped(api: WorkerAPI, bench: Bench, status: int, caplog: pytest.LogCaptureFixture) -> None:
    _, over = _gate(bench)
    over.set()
    api.fail("POST", "/tasks/result", status)
    await bench.start(api)
    refused = await api.give("work")
    await _true(lambda: f"the result of {refused} is dropped" in caplog.text)
    assert (await api.result(await api.give("work")))["status"] == "success"
    assert [body["task_id"] == refused for body in api.results] == [False]
    assert _files(bench) == []


async def test_a_result_that_is_too_large_becomes_a_failure(api: WorkerAPI, bench: Bench) -> None:
    _, over = _gate(bench)
    over.set()
    api.fail("POST", "/tasks/result", 413)
    await bench.start(api)
    result = await api.result(await api.give("work"))
    assert (result["status"], result["error"]["code"]) == ("failure", "PERMANENT_ERROR")
    assert "too large" in result["error"]["message"]


async def test_a_restart_delivers_before_it_registers(api: WorkerAPI, bench: Bench) -> None:
    began, over = _gate(bench)
    await bench.start(api)
    task = await api.give("work")
    await asyncio.wait_for(began.wait(), 30)
    api.unwilling = 503
    over.set()
    await _true(lambda: _files(bench))
    await bench.stop()
    assert api.results == []
    assert len(_files(bench)) == 1

    api.unwilling = None
    api.log.clear()
    began.clear()
    await bench.start(api, wait=False)
    assert (await api.result(task))["data"] == {"n": 1}
    await _true(lambda: len(api.registrations) == 2)
    assert [line for line in api.log if line.startswith("POST")] == [
        "POST /_worker/tasks/result",
        "POST /_worker/workers/register",
    ]
    await _true(lambda: not _files(bench))

    await api.give("work", task_id=task)  # handed out again, since the result came late
    await api.result(await api.give("work"))
    assert [body["task_id"] for body in api.results].count(task) == 1


async def test_a_result_that_is_never_taken_does_not_keep_the_worker_out(api: WorkerAPI, bench: Bench) -> None:
    began, over = _gate(bench)
    await bench.start(api)
    await api.give("work")
    await asyncio.wait_for(began.wait(), 30)
    api.unwilling = 500
    over.set()
    await bench.stop()
    assert len(_files(bench)) == 1

    await bench.start(api, wait=False)
    await _true(lambda: len(api.registrations) == 2)


async def test_a_full_disk_loses_nothing_while_the_process_lives(
    api: WorkerAPI, bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    _, over = _gate(bench)
    over.set()
    await bench.start(api)
    monkeypatch.setattr(spool_module.os, "fsync", full)
    api.fail("POST", "/tasks/result", 503)
    assert (await api.result(await api.give("work")))["status"] == "success"
    assert "is only in memory" in caplog.text


async def test_it_waits_for_an_orchestrator_that_starts_later(make_api: MakeAPI, bench: Bench) -> None:
    api = await make_api()
    await api.stop()
    _, over = _gate(bench)
    over.set()
    await bench.start(api, wait=False)
    await asyncio.sleep(0)
    await api.start()
    assert (await api.result(await api.give("work")))["status"] == "success"


async def test_an_orchestrator_with_a_backlog_is_not_asked_for_more(api: WorkerAPI, bench: Bench) -> None:
    _, over = _gate(bench)
    over.set()
    api.unwilling = 503
    tasks = [await api.give("work") for _ in range(20)]
    await bench.start(api)
    await _true(lambda: len(_files(bench)) + len(api.tasks) == 20 and len(_files(bench)) >= 8)
    assert len(_files(bench)) < 8 + bench.worker.max_concurrent_tasks
    assert api.parked == 0
    api.unwilling = None
    for task in tasks:
        await api.result(task)


# --- Several orchestrators -----------------------------------------------------------------------------------------------------


async def test_the_second_priority_only_while_the_first_is_away(make_api: MakeAPI, bench: Bench) -> None:
    first, second = await make_api(), await make_api()
    _, over = _gate(bench)
    over.set()
    bench.settings["heartbeat_interval_seconds"] = 0.2
    await bench.start(first, second, priorities=(1, 2))
    waiting = await second.give("work")
    for _ in range(3):
        await first.result(await first.give("work"))
    assert (second.results, second.polls) == ([], [])
    beats = len(second.patches)
    await _true(lambda: len(second.patches) > beats)

    await first.stop()
    await second.result(waiting)
    await first.start()
    back = await first.give("work")
    await first.result(back)
    polls = len(second.polls)
    await first.result(await first.give("work"))
    assert len(second.polls) <= polls + 1


async def test_each_result_goes_where_its_task_came_from(make_api: MakeAPI, bench: Bench) -> None:
    apis = [await make_api() for _ in range(3)]
    _, over = _gate(bench)
    over.set()
    await bench.start(*apis)
    given = [{await api.give("work") for _ in range(5)} for api in apis]
    for api, tasks in zip(apis, given, strict=True):
        for task in tasks:
            await api.result(task)
        assert {body["task_id"] for body in api.results} == tasks


async def test_short_polls_rotate_where_there_is_one_slot_for_two(make_api: MakeAPI, bench: Bench) -> None:
    apis = [await make_api(), await make_api()]
    bench.worker.max_concurrent_tasks = 1
    _, over = _gate(bench)
    over.set()
    await bench.start(*apis)
    await _true(lambda: all(len(api.polls) >= 2 for api in apis))
    assert {wait for api in apis for wait in api.polls} == {2.0}
    assert sum(api.most_parked for api in apis) == 2


async def test_one_without_work_leaves_the_slot_to_the_other(make_api: MakeAPI, bench: Bench) -> None:
    idle, busy = await make_api(), await make_api()
    bench.worker.max_concurrent_tasks = 1
    _, over = _gate(bench)
    over.set()
    tasks = [await busy.give("work") for _ in range(30)]
    await bench.start(idle, busy)
    for task in tasks:
        await busy.result(task)
    assert len(idle.polls) <= 2

    waiting = await idle.give("work")
    await idle.result(waiting)


async def test_weights_share_the_work(make_api: MakeAPI, bench: Bench) -> None:
    heavy, light = await make_api(), await make_api()
    bench.worker.max_concurrent_tasks = 1
    order: list[str] = []

    @bench.worker.task()
    async def note(params: Any) -> None:
        order.append(params["from"])

    for api, name in ((heavy, "heavy"), (light, "light")):
        for _ in range(40):
            await api.give("note", {"from": name})
    await bench.start(heavy, light, weights=(3, 1))
    await _true(lambda: len(order) >= 32)
    steady = order[8:32]  # at the start one of them may not have been reached yet
    assert (steady.count("heavy"), steady.count("light")) == (18, 6)


# --- The client ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def client(api: WorkerAPI) -> Any:
    client = Client(Orchestrator(api.url, TOKEN), "bench-1")
    yield client
    await client.close()


async def test_who_is_not_known_is_told_so(client: Client) -> None:
    with pytest.raises(NotRegistered):
        await client.patch()
    with pytest.raises(NotRegistered):
        await client.next_task()


@pytest.mark.parametrize(
    ("status", "error"), [(400, Refused), (403, Refused), (302, Refused), (401, Unavailable), (502, Unavailable)]
)
async def test_what_an_answer_means(client: Client, api: WorkerAPI, status: int, error: type[Exception]) -> None:
    api.fail("POST", "register", status, Location="http://127.0.0.1:1/")
    with pytest.raises(error, match=str(status)):
        await client.register({"worker_id": "bench-1"})


async def test_a_poll_that_is_held_too_long_brought_nothing(
    make_api: MakeAPI, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.register({"worker_id": "bench-1", "supported_tasks": []})
    monkeypatch.setattr("avtomatika.worker.http.client.POLL_SECONDS", 0.1)
    assert await client.next_task() is None


async def test_what_is_no_task_is_no_end(api: WorkerAPI, client: Client) -> None:
    await client.register({"worker_id": "bench-1", "supported_tasks": ["work"]})
    for broken in ({"task_id": "t", "type": "work"}, {"task_id": "t", "type": "work", "job_id": "j", "priority": "high"}):
        api.tasks.append(broken)
        with pytest.raises(Unavailable, match="no task"):
            await client.next_task()


async def test_a_token_follows_no_redirect(make_api: MakeAPI) -> None:
    seen: list[str | None] = []
    target, source = web.Application(), web.Application()

    async def catch(request: web.Request) -> web.Response:
        seen.append(request.headers.get("X-Worker-Token"))
        return web.Response()

    async def send_on(request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(f"http://127.0.0.1:{ports[0]}{request.path}")

    target.router.add_route("*", "/{tail:.*}", catch)
    source.router.add_route("*", "/{tail:.*}", send_on)
    runners = [web.AppRunner(app) for app in (target, source)]
    ports = []
    for runner in runners:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.append(runner.addresses[0][1])
    client = Client(Orchestrator(f"http://127.0.0.1:{ports[1]}", TOKEN), "bench-1")
    try:
        with pytest.raises(Refused, match="redirects"):
            await client.register({})
        with pytest.raises(ClientError, match="not followed"):
            await client.open_socket(20)
        assert seen == []
    finally:
        await client.close()
        for runner in runners:
            await runner.cleanup()
