"""`avtomatika up`, killed or stopped with jobs in flight, goes on with them at its next start and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.engine import APPS, Api
from tests.support.polling import eventually
from tests.support.processes import Processes, Up, port_is_open

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("up")]

JOBS = 120
STARTED_BEFORE_THE_STOP = 20


def _kill(up: Up) -> None:
    """`kill -9` of `up` alone: its children find out by themselves."""
    up.kill()


def _lose_power(up: Up) -> None:
    """Every process dies at the same moment."""
    up.kill_all()


def _press_ctrl_c(up: Up) -> None:
    """A terminal sends SIGINT to the whole process group."""
    os.killpg(up.pid, signal.SIGINT)
    up.wait()


def _processes_of(data_dir: Path) -> list[str]:
    """Living processes that have to do with a data directory: by command line, environment or working directory."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE or process.info["pid"] == os.getpid():
            continue
        try:
            texts = [*process.info["cmdline"], process.cwd(), *process.environ().values()]
        except (psutil.Error, OSError, TypeError):
            continue
        if any(str(data_dir) in text for text in texts):
            found.append(f"{process.info['pid']} {' '.join(process.info['cmdline'])}")
    return found


def _assert_nothing_is_left(up: Up) -> None:
    eventually(lambda: not up.descendants(), what="the end of every process of `up`")
    assert _processes_of(up.data_dir) == []
    assert not port_is_open(up.port)


@pytest.mark.parametrize(
    "stop",
    [_kill, _lose_power, _press_ctrl_c],
    ids=lambda stop: stop.__name__.strip("_"),
)
async def test_all_jobs_finish_after_a_stop_in_flight(processes: Processes, tmp_path: Path, stop: Callable[[Up], None]) -> None:
    stamps = tmp_path / "stamps"
    stamps.mkdir()
    app = APPS / "stamps"
    up = processes.make(Up, blueprints=app / "blueprints", workers=app / "workers", env={"LOG_LEVEL": "INFO"})
    async with Api(up.url, up.token) as api:
        jobs = [await api.create("stamps", {"folder": str(stamps)}) for _ in range(JOBS)]
        eventually(lambda: len(list(stamps.iterdir())) >= STARTED_BEFORE_THE_STOP, what="the first stamps")

    stop(up)

    assert len(list(stamps.glob("*.second"))) < JOBS, "all was done before the stop: nothing was in flight"
    _assert_nothing_is_left(up)
    up.start()
    up.wait_ready()
    async with Api(up.url, up.token) as api:
        ended = await api.ended(jobs, deadline=300)
        assert {job["status"] for job in ended.values()} == {"finished"}
        assert all(job["result"] == {"steps": [job_id, job_id]} for job_id, job in ended.items())
    assert len(list(stamps.iterdir())) == 2 * JOBS
    up.terminate()
    _assert_nothing_is_left(up)


async def test_what_a_new_data_directory_holds_is_for_its_owner_alone(processes: Processes) -> None:
    app = APPS / "stamps"
    up = processes.make(Up, blueprints=app / "blueprints", workers=app / "workers")

    async with Api(up.url, up.token) as api:
        assert await api.get("/_public/status") == {"status": "ok"}
    assert up.data_dir.stat().st_mode & 0o077 == 0
    up.terminate()
    _assert_nothing_is_left(up)
