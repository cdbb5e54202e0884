"""The example of operations as steps, with fake workers: its way through, and every way out of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from avtomatika import Blueprint, PermanentError, TransientError
from avtomatika.discovery import load_module
from avtomatika.testing import BlueprintHarness, fails, times_out
from tests.support.processes import REPOSITORY

INPUT = {"host": "gpu-box", "folder": "/data/in", "output": "/data/out", "command": ["python3", "train.py"], "seconds": 600}
UPLOADED = {"files_transferred": 3, "bytes_transferred": 4096}
DOWNLOADED = {"files_transferred": 2, "bytes_transferred": 99}
RAN = {"exit_code": 0, "stdout": "epoch 1\n", "stderr": "", "truncated": False}


@pytest.fixture(scope="module")
def blueprint() -> Blueprint:
    found: Blueprint = load_module(REPOSITORY / "blueprints" / "remote_training.py").remote_training
    return found


def a_command(params: dict[str, Any]) -> dict[str, Any]:
    return RAN if params["command"][0] != "rm" else {**RAN, "stdout": ""}


def a_failing_command(params: dict[str, Any]) -> dict[str, Any]:
    if params["command"][0] == "rm":
        return {**RAN, "stdout": ""}
    data = {"error_code": "SSH_COMMAND_FAILED", "error_details": {"exit_code": 3}}
    raise PermanentError("gpu-box: the command ended with 3", data=data)


@pytest.fixture
async def harness(blueprint: Blueprint) -> AsyncIterator[BlueprintHarness]:
    async with BlueprintHarness(blueprint) as harness:
        harness.worker("scp_upload", UPLOADED)
        harness.worker("ssh_execute", a_command)
        harness.worker("scp_download", DOWNLOADED)
        yield harness


async def test_the_way_through(harness: BlueprintHarness) -> None:
    job = await harness.run(INPUT)

    assert (job.status, job.path) == ("finished", ["upload", "train", "download", "tidy", "finished"])
    assert job.result == {"output": "/data/out", "files": 2, "uploaded_bytes": 4096, "stdout": "epoch 1\n"}
    work = f"/srv/jobs/{job.id}"
    assert harness.calls("scp_upload") == [
        {"host": "gpu-box", "source_path": "/data/in", "destination_path": work, "recursive": True}
    ]
    training, tidying = harness.calls("ssh_execute")
    assert (training["command"], training["cwd"], training["idempotent"]) == (["python3", "train.py"], work, False)
    assert tidying["command"] == ["rm", "-rf", "--", work]
    assert harness.calls("scp_download")[0]["source_path"] == f"{work}/result"


async def test_a_command_that_fails(harness: BlueprintHarness) -> None:
    harness.worker("ssh_execute", a_failing_command)
    job = await harness.run(INPUT)

    assert (job.status, job.path) == ("failed", ["upload", "train", "give_up", "failed"])
    assert job.data["problem"] == {"error_code": "SSH_COMMAND_FAILED", "details": {"exit_code": 3}}
    assert [call["command"][0] for call in harness.calls("ssh_execute")] == ["python3", "rm"]
    assert harness.calls("scp_download") == []


async def test_a_command_that_is_out_of_time(harness: BlueprintHarness) -> None:
    harness.worker("ssh_execute", times_out(1), then=RAN)
    job = await harness.run(INPUT)

    assert job.path == ["upload", "train", "give_up", "failed"]
    assert job.data["problem"]["error_code"] == "TIMEOUT"


@pytest.mark.parametrize("task", ["scp_upload", "scp_download"])
async def test_a_shaky_line(harness: BlueprintHarness, task: str) -> None:
    answer = UPLOADED if task == "scp_upload" else DOWNLOADED
    harness.worker(task, fails(3, code="TRANSIENT_ERROR"), then=answer)
    job = await harness.run(INPUT)

    assert job.status == "finished"
    assert len(harness.attempts(task)) == 4


@pytest.mark.parametrize("task", ["scp_upload", "scp_download"])
async def test_a_line_that_stays_cut(harness: BlueprintHarness, task: str) -> None:
    harness.worker(task, fails(code="TRANSIENT_ERROR"))
    job = await harness.run(INPUT)

    assert (job.status, job.path[-2:]) == ("failed", ["give_up", "failed"])
    assert len(harness.attempts(task)) == 4
    assert harness.calls("ssh_execute")[-1]["command"][0] == "rm"


async def test_what_cannot_be_tidied_up_spoils_nothing(harness: BlueprintHarness) -> None:
    def only_trains(params: dict[str, Any]) -> dict[str, Any]:
        if params["command"][0] == "rm":
            raise TransientError("the line is cut")
        return RAN

    harness.worker("ssh_execute", only_trains)
    job = await harness.run(INPUT)

    assert (job.status, job.result["stdout"]) == ("finished", "epoch 1\n")


async def test_a_training_is_not_begun_twice(harness: BlueprintHarness) -> None:
    harness.worker("ssh_execute", fails(1, code="TRANSIENT_ERROR"), then=RAN)
    job = await harness.run(INPUT)

    assert job.path[1:3] == ["train", "give_up"]
