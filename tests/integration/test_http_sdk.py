"""Real processes of workers over HTTP, against a server in the test that speaks the documented worker API."""

from __future__ import annotations

import asyncio
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.orchestrator import TOKEN, WorkerAPI
from tests.support.polling import eventually_async
from tests.support.processes import ManagedProcess, Processes, clean_environment

WORKERS = """
import asyncio, os, time
from avtomatika import Worker

worker = Worker("cpu", max_concurrent_tasks=4)

@worker.task(process=True)
def in_process(params, task_id, job_id, send_progress):
    send_progress(task_id, job_id, 0.5, str(os.getpid()))
    if params.get("hang"):
        time.sleep(600)
    return {"pid": os.getpid()}

@worker.task()
async def sleep(params, task_id, job_id, send_progress):
    await send_progress(task_id, job_id, 0.5, "asleep")
    await asyncio.sleep(params["seconds"])
    return {"slept": params["seconds"]}

@worker.task()
async def defiant(params, task_id, job_id, send_progress):
    await send_progress(task_id, job_id, 0.5, "asleep")
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass
"""

SCRIPT = """
import logging
import sys
from avtomatika import Worker

one, two = Worker("one", max_concurrent_tasks=1), Worker("two", max_concurrent_tasks=2)

@one.task()
async def add(params):
    return {"sum": params["left"] + params["right"]}

@two.task(process=True)
def multiply(params):
    return {"product": params["left"] * params["right"]}

if __name__ == "__main__":
    one.run(two, orchestrator_url=sys.argv[1], token=sys.argv[2])
"""


@pytest.fixture
async def api() -> AsyncIterator[WorkerAPI]:
    api = WorkerAPI()
    await api.start()
    yield api
    await api.stop()


class WorkerProcess(ManagedProcess):
    """`avtomatika worker run`."""

    def __init__(self, api: WorkerAPI, *, directory: Path, name: str = "worker", **env: str) -> None:
        folder = directory / "workers"
        folder.mkdir(exist_ok=True)
        (folder / "tasks.py").write_text(WORKERS)
        argv = [sys.executable, "-m", "avtomatika", "worker", "run", "--url", api.url, "--workers", str(folder)]
        env = {"WORKER_TOKEN": TOKEN, "WORKER_SPOOL_DIR": str(directory / "spool"), "SHUTDOWN_GRACE_SECONDS": "0.3", **env}
        super().__init__(name, argv, directory=directory, env=env)


async def _ended(process: ManagedProcess) -> int:
    """Waits for the end without stopping the server, which lives in this process."""
    return await asyncio.to_thread(process.wait)


async def _progress(api: WorkerAPI, task_id: str) -> Any:
    async def look() -> Any:
        return next((update for update in api.progress if update["task_id"] == task_id), None)

    return await eventually_async(look, what=f"progress of {task_id}")


async def _at_work(api: WorkerAPI, processes: Processes, **env: str) -> WorkerProcess:
    process = processes.make(WorkerProcess, api, **env)

    async def look() -> bool:
        assert process.running, process.log()
        return bool(api.registrations) and bool(api.sockets)

    await eventually_async(look, retry=())
    return process


async def test_sigterm_hands_back_what_runs_and_leaves_nothing(api: WorkerAPI, processes: Processes) -> None:
    process = await _at_work(api, processes)
    done = await api.result(await api.give("in_process"))
    assert done["data"]["pid"] != process.pid
    asleep, hanging = await api.give("sleep", {"seconds": 600}), await api.give("in_process", {"hang": True})
    for task in (asleep, hanging):
        await _progress(api, task)

    process.signal(signal.SIGTERM)

    assert await _ended(process) == 0
    for task in (asleep, hanging):
        result = await api.result(task)
        assert (result["status"], result["error"]["code"]) == ("failure", "TRANSIENT_ERROR")
    assert (await api.result(asleep))["error"]["message"] == "the worker stopped"

    async def gone() -> bool:
        return not process.descendants()

    await eventually_async(gone)


async def test_sigterm_lets_short_tasks_end(api: WorkerAPI, processes: Processes) -> None:
    process = await _at_work(api, processes, SHUTDOWN_GRACE_SECONDS="30")
    task = await api.give("sleep", {"seconds": 0.5})
    await _progress(api, task)
    process.signal(signal.SIGTERM)
    assert await _ended(process) == 0
    assert (await api.result(task))["data"] == {"slept": 0.5}


async def test_a_second_signal_ends_it_at_once(api: WorkerAPI, processes: Processes) -> None:
    process = await _at_work(api, processes, SHUTDOWN_GRACE_SECONDS="600")
    await _progress(api, await api.give("sleep", {"seconds": 600}))
    await _progress(api, await api.give("defiant"))
    process.signal(signal.SIGINT)
    await asyncio.to_thread(process.wait_for_log, "waiting up to")
    process.signal(signal.SIGINT)
    assert await _ended(process) == 0


async def test_a_cancel_kills_the_child_process(api: WorkerAPI, processes: Processes) -> None:
    await _at_work(api, processes)
    task = await api.give("in_process", {"hang": True})
    await _progress(api, task)
    await api.cancel(task)
    assert (await api.result(task))["status"] == "cancelled"
    assert (await api.result(await api.give("in_process")))["status"] == "success"


async def test_results_survive_a_kill(api: WorkerAPI, processes: Processes, tmp_path: Path) -> None:
    process = await _at_work(api, processes)
    api.unwilling = 503
    task = await api.give("sleep", {"seconds": 0})

    async def spooled() -> list[Path]:
        return list((tmp_path / "spool").rglob("*.json"))

    await eventually_async(spooled)
    await asyncio.to_thread(process.kill_all)
    first = api.registrations[0]["worker_id"]

    api.unwilling = None
    await asyncio.to_thread(process.restart)
    assert (await api.result(task))["data"] == {"slept": 0}
    assert api.results[0]["worker_id"] == first

    async def registered_again() -> bool:
        return len(api.registrations) == 2

    await eventually_async(registered_again)
    assert api.registrations[1]["worker_id"] != first  # of another process: it is the heir of the dead one


async def test_a_script_of_its_own(api: WorkerAPI, processes: Processes, tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    env = {"WORKER_SPOOL_DIR": str(tmp_path / "spool"), "WORKER_ID": "mine"}
    process = processes.start(
        ManagedProcess("script", [sys.executable, str(script), api.url, TOKEN], directory=tmp_path, env=env)
    )
    params = {"left": 6, "right": 7}
    assert (await api.result(await api.give("add", params)))["data"] == {"sum": 13}
    assert (await api.result(await api.give("multiply", params)))["data"] == {"product": 42}
    said = api.registrations[0]
    assert (said["worker_id"], said["worker_type"], said["max_concurrent_tasks"]) == ("mine", "one,two", 3)
    process.signal(signal.SIGTERM)
    assert await _ended(process) == 0
    assert TOKEN not in process.log()


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "set ORCHESTRATOR_URL"),
        ({"ORCHESTRATOR_URL": "http://127.0.0.1:1"}, "set WORKER_INDIVIDUAL_TOKEN or WORKER_TOKEN"),
        (
            {"ORCHESTRATOR_URL": "http://127.0.0.1:1", "WORKER_TOKEN": "t", "WORKERS_DIR": "nowhere"},
            "no task is declared in nowhere",
        ),
    ],
)
def test_a_set_up_that_does_not_fit_says_what_to_do(tmp_path: Path, env: dict[str, str], says: str) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "tasks.py").write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, "-m", "avtomatika", "worker", "run"],
        env={**clean_environment(), **env}, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_wrong_token_ends_it(api: WorkerAPI, processes: Processes) -> None:
    process = processes.make(WorkerProcess, api, WORKER_TOKEN="not-the-token")
    assert await _ended(process) == 2
    assert "this token is not known" in process.log()
    assert "not-the-token" not in process.log()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate that no authority has signed, and a server's side of it."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*argv, *subject], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


async def test_a_certificate_is_verified(processes: Processes, certificate: tuple[Path, ssl.SSLContext]) -> None:
    cert, context = certificate
    api = WorkerAPI(tls=context)
    await api.start()
    try:
        trusting = processes.make(WorkerProcess, api, name="trusting", WORKER_ID="trusting", SSL_CERT_FILE=str(cert))
        doubting = processes.make(WorkerProcess, api, name="doubting", WORKER_ID="doubting", LOG_LEVEL="DEBUG")
        await asyncio.to_thread(doubting.wait_for_log, "certificate verify failed")
        assert (await api.result(await api.give("sleep", {"seconds": 0})))["status"] == "success"
        assert list(api.workers) == ["trusting"]
        assert trusting.running
    finally:
        await api.stop()
