"""Tasks in child processes: values, errors, progress, and the end of a process that is cancelled."""

from __future__ import annotations

import asyncio
import os
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from avtomatika.errors import TaskError
from avtomatika.worker.hotcache import hot_cache
from avtomatika.worker.process import ProcessRunner, ProcessTaskError

MODULE = """
import os, time
from dataclasses import dataclass
from avtomatika import ModelCache
from avtomatika.errors import PermanentError
from avtomatika.worker.sdk import Worker

worker = Worker(max_concurrent_tasks=2)

class OwnError(PermanentError):
    "It will never work."

@dataclass
class Params:
    number: int

@worker.task("double", process=True)
def double(params: Params, send_progress, task_id, job_id):
    send_progress(task_id, job_id, 0.5, "half")
    return {"number": params.number * 2, "pid": os.getpid(), "task": task_id}

@worker.task("fail", process=True)
def fail(params):
    raise ValueError("no good")

@worker.task("refuse", process=True)
def refuse(params):
    raise OwnError("refused", data={"why": "rules"})

@worker.task("die", process=True)
def die(params):
    os._exit(7)

@worker.task("unpicklable", process=True)
def unpicklable(params):
    return lambda: None

models = ModelCache(budget_gb=1)
models.register("whisper", lambda: os.getpid(), size_gb=1)
models.register("other", lambda: "other", size_gb=1)

@worker.task("use", process=True)
def use(params, send_progress, task_id, job_id):
    with models.use(params["model"]) as model:
        send_progress(task_id, job_id, 0.1, str(model))
    time.sleep(params["seconds"])

@worker.task("hang", process=True)
def hang(params, send_progress, task_id, job_id):
    send_progress(task_id, job_id, 0.1, str(os.getpid()))
    time.sleep(600)
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.py"
    path.write_text(textwrap.dedent(MODULE))
    return path


@pytest_asyncio.fixture
async def runner() -> AsyncIterator[ProcessRunner]:
    runner = ProcessRunner()
    yield runner
    await runner.close()


class Calls:
    def __init__(self, runner: ProcessRunner, path: Path) -> None:
        self.runner, self.path = runner, path
        self.progress: asyncio.Queue[tuple[float, str]] = asyncio.Queue()
        self.models: list[tuple[str, str]] = []

    async def __call__(self, name: str, **params: Any) -> Any:
        context = {"task_id": "t", "job_id": "j", "priority": 0.0}
        return await self.runner.run(self.path, name, params, context, self._on_progress, self._on_cache)

    def _on_cache(self, change: str, model: str) -> None:
        self.models.append((change, model))

    async def _on_progress(self, progress: float, message: str) -> None:
        self.progress.put_nowait((progress, message))


@pytest.fixture
def call(runner: ProcessRunner, module: Path) -> Calls:
    return Calls(runner, module)


async def test_a_function_runs_in_another_process_which_is_used_again(call: Calls) -> None:
    first = await call("double", number=4)
    assert first["number"] == 8
    assert first["task"] == "t"
    assert first["pid"] != os.getpid()
    assert await asyncio.wait_for(call.progress.get(), 10) == (0.5, "half")
    assert (await call("double", number=1))["pid"] == first["pid"]


async def test_two_at_once_run_in_two_processes(call: Calls) -> None:
    first, second = await asyncio.gather(call("double", number=1), call("double", number=2))
    assert first["pid"] != second["pid"]


async def test_errors_come_back_with_type_message_and_code(call: Calls) -> None:
    with pytest.raises(ProcessTaskError, match="ValueError: no good") as raised:
        await call("fail")
    assert raised.value.type_name == "ValueError"
    assert "no good" in raised.value.traceback
    with pytest.raises(TaskError, match="refused") as refused:
        await call("refuse")
    assert (refused.value.code, refused.value.data) == ("PERMANENT_ERROR", {"why": "rules"})
    with pytest.raises(TaskError) as misfit:
        await call("double", number="many")
    assert misfit.value.code == "INVALID_INPUT_ERROR"


async def test_a_process_that_dies_is_an_error_and_the_next_task_gets_a_new_one(call: Calls) -> None:
    with pytest.raises(ProcessTaskError, match="gave no result"):
        await call("die")
    assert (await call("double", number=3))["number"] == 6


async def test_a_value_that_cannot_be_carried_over_is_an_error(call: Calls) -> None:
    with pytest.raises(ProcessTaskError):
        await call("unpicklable")


async def test_a_cancel_returns_when_the_process_is_gone(call: Calls) -> None:
    task = asyncio.ensure_future(call("hang"))
    _, pid = await asyncio.wait_for(call.progress.get(), 30)
    assert psutil.pid_exists(int(pid))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE


async def test_a_close_kills_what_runs(runner: ProcessRunner, call: Calls) -> None:
    task = asyncio.ensure_future(call("hang"))
    _, pid = await asyncio.wait_for(call.progress.get(), 30)
    await runner.close()
    with pytest.raises((asyncio.CancelledError, ProcessTaskError)):
        await task
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE


async def test_models_that_a_child_loads_are_told(call: Calls) -> None:
    await call("use", model="whisper", seconds=0)
    await call("use", model="whisper", seconds=0)
    await call("use", model="other", seconds=0)

    assert call.models == [("add", "whisper"), ("remove", "whisper"), ("add", "other")]
    assert {"whisper", "other"} <= set(hot_cache().load_times)


async def test_a_model_is_gone_with_the_last_child_that_holds_it(call: Calls) -> None:
    first = asyncio.ensure_future(call("use", model="whisper", seconds=600))
    second = asyncio.ensure_future(call("use", model="whisper", seconds=600))
    pids = {(await asyncio.wait_for(call.progress.get(), 30))[1] for _ in range(2)}
    assert len(pids) == 2
    for task, expected in ((first, []), (second, [("remove", "whisper")])):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [told for told in call.models if told[0] == "remove"] == expected


async def test_a_long_tmpdir_is_no_obstacle(module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("a-folder-with-quite-a-long-name-" * 3)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    runner = ProcessRunner()
    try:
        call = Calls(runner, module)
        assert (await call("double", number=4))["number"] == 8
        assert await asyncio.wait_for(call.progress.get(), 10) == (0.5, "half")
    finally:
        await runner.close()
