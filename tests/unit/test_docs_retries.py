"""docs/retries.md: its blueprint does what the page says of it, and its tables name every field and code."""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.discovery import load_blueprints
from avtomatika.errors import ErrorCode, FailureCode
from avtomatika.jobs import JobStatus, RetryPolicy
from tests.support.machine import Machine, ended
from tests.support.processes import REPOSITORY
from tests.support.records import NOW

PAGE = (REPOSITORY / "docs" / "retries.md").read_text(encoding="utf-8")


@pytest.fixture
def report(tmp_path: Path) -> Iterator[Blueprint]:
    ((name, text),) = re.findall(r"^`blueprints/(\w+\.py)`:\n\n```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / name).write_text(text, encoding="utf-8")
    before = set(sys.modules)
    yield load_blueprints(tmp_path).get("report")
    for module in set(sys.modules) - before:
        del sys.modules[module]


def _fetch(codes: list[str], calls: list[float], machine: list[Machine]) -> Any:
    def fetch(url: str) -> Any:
        calls.append(machine[0].now)
        if codes:
            return {"status": "failure", "error": {"code": codes.pop(0), "message": "no"}}
        return {"pages": 4}

    return fetch


async def _run(report: Blueprint, codes: list[str], draw: Any = lambda page: None) -> tuple[Any, list[float]]:
    calls: list[float] = []
    box: list[Machine] = []
    box.append(Machine(report, workers={"fetch": _fetch(codes, calls, box), "draw": draw}))
    await box[0].start()
    return await box[0].run("report", url="u"), calls


async def test_what_it_retries_and_how_patiently(report: Blueprint) -> None:
    job, calls = await _run(report, ["RATE_LIMITED"] * 4)

    assert ended(job) == (JobStatus.FINISHED, "done", {"drawn": 4})
    assert job.deadline_at == NOW + 3600
    pauses = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert [0.9 * 2 * 2**n <= pause <= 1.1 * 2 * 2**n for n, pause in enumerate(pauses)] == [True] * 4


@pytest.mark.parametrize(
    ("codes", "status", "state"),
    [
        (["RATE_LIMITED"] * 5, JobStatus.QUARANTINED, "start"),
        (["TRANSIENT_ERROR"], JobStatus.QUARANTINED, "start"),
        (["NO_SUCH_PAGE"], JobStatus.FAILED, "failed"),
        (["INVALID_INPUT_ERROR"], JobStatus.FAILED, "start"),
    ],
)
async def test_where_it_ends(report: Blueprint, codes: list[str], status: JobStatus, state: str) -> None:
    job, _ = await _run(report, codes)

    assert (job.status, job.current_state) == (status, state)


async def test_its_branches(report: Blueprint) -> None:
    drawn: list[int] = []

    def draw(page: int) -> Any:
        drawn.append(page)
        return {"status": "failure"} if page == 1 else None

    job, _ = await _run(report, [], draw)

    assert (job.result, sorted(drawn)) == ({"drawn": 3}, [0, 1, 1, 2, 3])


def test_the_tables_name_every_field_and_every_code() -> None:
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE) == [
        f.name for f in dataclasses.fields(RetryPolicy)
    ]
    for code in ErrorCode:
        assert f"`{code}`" in PAGE
    named = {code for code in FailureCode if f"`{code}`" in PAGE}
    assert named >= {"WORKER_LOST", "HANDLER_EXCEPTION", "HANDLER_ERROR", "UNKNOWN_STATE", "BY_HAND", "JOB_TIMEOUT"}
