"""`avtomatika job` and `avtomatika worker` against a facade."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from avtomatika.jobs import Approval, JobStatus, Message, TaskInfo
from avtomatika.state.base import Entry, NewTask
from tests.support.records import a_job, a_task, change, creation

from .conftest import TOKEN, EndingService, Run, Served


@pytest.fixture
def here(facade: Served) -> dict[str, str]:
    return {"AVTOMATIKA_URL": facade.url, "CLIENT_TOKEN": TOKEN}


def test_submit_show_list_history(run: Run, here: dict[str, str]) -> None:
    done = run("job", "submit", "hello", '{"name": "Ada"}', "--tag", "x", env=here)
    assert done.exit_code == 0
    job_id = done.output.strip()
    shown = json.loads(run("job", "show", job_id, "--json", env=here).output)
    assert (shown["id"], shown["status"], shown["initial_data"]) == (job_id, "finished", {"name": "Ada"})
    assert job_id in run("job", "show", job_id, env=here).output
    assert [job["id"] for job in json.loads(run("job", "ls", "--tag", "x", "--json", env=here).output)["jobs"]] == [job_id]
    listed = run("job", "ls", env=here).output.splitlines()
    assert listed[1].startswith(job_id)
    assert run("job", "ls", "--status", "failed", env=here).output.splitlines()[1:] == []
    history = json.loads(run("job", "history", job_id, "--json", env=here).output)
    assert [event["event_type"] for event in history] == ["job_created"]
    assert "job_created" in run("job", "history", job_id, env=here).output


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("failed", 1), ("cancelled", 1), ("quarantined", 1)])
def test_the_exit_code_tells_how_a_job_ended(run: Run, here: dict[str, str], status: str, code: int) -> None:
    done = run("job", "submit", "hello", json.dumps({"status": status}), "--watch", "--json", env=here)
    assert done.exit_code == code
    event, ended = map(json.loads, done.output.splitlines())
    assert (event["event_type"], ended["status"]) == ("job_created", status)
    watched = run("job", "watch", ended["id"], env=here)
    assert watched.exit_code == code
    assert status in watched.output


def test_initial_data_from_a_file(run: Run, here: dict[str, str]) -> None:
    Path("data.json").write_text('{"from": "a file"}')
    job_id = run("job", "submit", "hello", "@data.json", env=here).output.strip()
    assert json.loads(run("job", "show", job_id, "--json", env=here).output)["initial_data"] == {"from": "a file"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["submit", "hello", "{"], 2, "not JSON"),
        (["submit", "hello", "[]"], 2, "must be a JSON object"),
        (["submit", "hello", "@nowhere.json"], 2, "nowhere.json: No such file"),
        (["submit", "nope"], 1, "unknown blueprint 'nope'"),
        (["show", "nope"], 1, "unknown job 'nope'"),
        (["watch", "nope"], 1, "unknown job 'nope'"),
        (["history", "nope"], 1, "unknown job 'nope'"),
        (["decide", "nope", "approved"], 1, "unknown job 'nope'"),
        (["decide", "nope"], 2, "DECISION"),
        (["ls", "--status", "nope"], 2, "nope"),
        (["show"], 2, "JOB_ID"),
    ],
)
def test_refusals(run: Run, here: dict[str, str], arguments: list[str], code: int, words: str) -> None:
    done = run("job", *arguments, env=here)
    assert done.exit_code == code
    assert words in done.output


async def _store_question(service: EndingService) -> str:
    job = a_job(id="asking-job", created_at=time.time())
    await service.store.commit(creation(job))
    approval = Approval("a1", "log", "Ship it?", {"approved": "end", "rejected": "end"}, "0", time.time(), time.time() + 60)
    await service.store.commit(change(job, status=JobStatus.WAITING_FOR_HUMAN, waiting=approval))
    return job.id


def test_a_question_is_shown_and_answered(run: Run, here: dict[str, str], facade: Served) -> None:
    job_id = asyncio.run(_store_question(facade.service))

    lines = [line.split() for line in run("job", "show", job_id, env=here).output.splitlines()]
    assert ["question", "Ship", "it?"] in lines
    assert ["decisions", "approved,", "rejected"] in lines
    done = run("job", "decide", job_id, "approved", "--comment", "fine", env=here)

    assert (done.exit_code, done.output) == (0, f"{job_id}: approved\n")
    assert facade.service.decisions == [(job_id, "approved", "fine", "default")]
    answered = run("job", "decide", job_id, "approved", "--json", env=here)
    assert json.loads(answered.output) == {"status": "approval_received", "job_id": job_id}


def test_the_token_of_the_data_directory(run: Run, facade: Served, tmp_path: Path) -> None:
    missing = run("job", "ls", "--url", facade.url)
    assert (missing.exit_code, "no token" in missing.output) == (2, True)
    for name in (".avtomatika", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "client-token").write_text(TOKEN + "\n")
    assert run("job", "ls", "--url", facade.url).exit_code == 0
    assert run("job", "ls", "--url", facade.url, "--data-dir", "elsewhere").exit_code == 0
    wrong = run("job", "ls", "--url", facade.url, env={"CLIENT_TOKEN": "wrong"})
    assert (wrong.exit_code, "not known" in wrong.output) == (2, True)


def test_no_facade_there(run: Run) -> None:
    done = run("job", "ls", env={"AVTOMATIKA_URL": "http://127.0.0.1:1", "CLIENT_TOKEN": "t"})
    assert done.exit_code == 1
    assert "is `avtomatika up` running?" in done.output
    assert run("job", "ls", env={"AVTOMATIKA_URL": "nonsense", "CLIENT_TOKEN": "t"}).exit_code in (1, 2)


def test_workers(run: Run, here: dict[str, str]) -> None:
    [worker] = json.loads(run("worker", "ls", "--json", env=here).output)
    assert worker["worker_id"] == "worker-1@here"
    head, row = run("worker", "ls", env=here).output.splitlines()
    assert [word for word in ("cost / s", "reputation", "hot skills", "tasks") if word not in head] == []
    assert [word for word in ("gpu 0/1", "0.5, paint 2", "0.75", "draw, paint") if word not in row] == []


async def _store_waiting_job(service: EndingService) -> tuple[str, TaskInfo]:
    job = a_job(id="waiting-job", created_at=time.time())
    info = a_task(job, type="draw", resource_requirements={"gpu_info": {"vram_gb": 24}}, dispatch_strategy="cheapest")
    await service.store.commit(creation(job))
    new = NewTask(info, entry=Entry(signature="s"))
    await service.store.commit(change(job, {"tasks": (new,)}, status=JobStatus.WAITING_FOR_WORKER, waiting=info))
    return job.id, info


def test_why_a_job_waits(run: Run, here: dict[str, str], facade: Served) -> None:
    job_id, info = asyncio.run(_store_waiting_job(facade.service))

    lines = run("job", "show", job_id, env=here).output.splitlines()

    assert ["why", "1", "worker", "knows", "draw,", "0", "have", "24", "GB", "VRAM"] in [line.split() for line in lines]
    start = next(number for number, line in enumerate(lines) if line.startswith("funnel"))
    assert lines[start].split()[1:] == ["strategy", "known", "idle", "looked", "at", "resources", "cost", "chosen"]
    assert lines[start + 1].split() == ["cheapest", "1", "1", "1", "0", "0"]
    shown = json.loads(run("job", "show", job_id, "--json", env=here).output)
    assert shown["current_task"]["funnel"]["reason"] == "1 worker knows draw, 0 have 24 GB VRAM"

    async def assign() -> None:
        [worker] = await facade.service.store.workers(time.time())
        message = Message("worker.w.gpu", "[]", {"id": info.id}, {}, declare="direct")
        decision = {**shown["current_task"]["funnel"], "chosen": worker.id, "reason": "it is the only one"}
        await facade.service.store.assign(info.id, worker, "gpu", message, time.time(), decision)

    asyncio.run(assign())
    output = run("job", "show", job_id, env=here).output
    assert [words for words in ("given to worker-1@here", "it is the only one") if words not in output] == []
