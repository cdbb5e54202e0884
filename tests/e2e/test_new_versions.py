"""A new version of a blueprint with jobs of the old one: checked by the command, moved, and run by real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from avtomatika.jobs import JobStatus
from tests.support.engine import opened_engine
from tests.support.processes import Orchestrator, Processes, clean_environment
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(600)

OLD = """
from avtomatika import Blueprint


def make(name):
    blueprint = Blueprint(name)

    @blueprint.handler_for("start", is_start=True)
    async def start(actions):
        actions.await_human_approval("log", "Ship it?", {"approved": "ship"})

    @blueprint.handler_for("ship")
    async def ship(actions):
        actions.transition_to("done")

    @blueprint.handler_for("done", is_end=True)
    async def done():
        return "old"

    return blueprint


orders, bills, refunds, notes = map(make, ["orders", "bills", "refunds", "notes"])
"""
NEW = OLD.replace('"ship"', '"send"').replace('"old"', '"new"')


def _folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "orders.py").write_text(text, encoding="utf-8")
    return path


def _check(env: dict[str, str], folder: Path, *arguments: str) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "avtomatika", "blueprint", "check", "--blueprints", str(folder), "--json", *arguments],
        env={**clean_environment(), **env}, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


async def test_jobs_of_the_old_version_are_moved_pinned_ended_or_quarantined_with_the_fix(
    redis_broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    old, new = _folder(tmp_path / "old", OLD), _folder(tmp_path / "new", NEW)
    env = {**redis_broker.env, "BLUEPRINTS_DIR": str(old), "WORKERS_DIR": str(tmp_path), "RETRY_BACKOFF_SECONDS": "0.1"}
    orchestrator = processes.make(Orchestrator, env=env, node=f"old@{env['NAMESPACE']}")
    async with opened_engine(env) as engine:
        jobs = {name: await engine.create(name) for name in ("orders", "bills", "refunds", "notes")}
        for job in jobs.values():
            await engine.reaches(job.id, JobStatus.WAITING_FOR_HUMAN)
        moved, pinned, failed, forgotten = (job.id for job in jobs.values())
        orchestrator.terminate()

        assert _check(env, old, "--live") == (0, [])
        code, found = _check(env, new, "--live")
        assert (code, {item["job_id"] for item in found}) == (1, {job.id for job in jobs.values()})
        assert {(item["severity"], item["done"], tuple(item["missing"])) for item in found} == {("error", None, ("ship",))}
        assert {item["version"] for item in found} == {job.blueprint_version for job in jobs.values()}
        assert all("--migrate old=new" in item["text"] for item in found)
        done = {}
        for name, choice in (("orders", ["--migrate", "ship=send"]), ("bills", ["--pin"]), ("refunds", ["--fail"])):
            code, (item,) = _check(env, new, name, "--live", *choice)
            assert (code, item["job_id"]) == (0, jobs[name].id)
            done[name] = item["done"]
        assert done == {"orders": "migrated", "bills": "pinned", "refunds": "failed"}
        assert _check(env, new, "orders", "refunds", "--live") == (0, [])
        assert [item["severity"] for item in _check(env, new, "bills", "--live")[1]] == ["warning"]

        processes.make(Orchestrator, env={**env, "BLUEPRINTS_DIR": str(new)}, node=f"new@{env['NAMESPACE']}")
        for job_id in (moved, pinned, forgotten):
            await engine.service.decide(job_id, "approved")
        assert (await engine.ended(moved)).result == "new"
        assert "pinned to version" in str((await engine.reaches(pinned, JobStatus.PAUSED)).error_message)
        assert "'ship' does not exist here" in str((await engine.ended(failed)).error_message)
        lost = await engine.ended(forgotten)
        assert lost.status is JobStatus.QUARANTINED
        assert f"avtomatika quarantine retry {forgotten} --state STATE" in str(lost.error_message)
