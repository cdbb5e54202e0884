"""The chain of hashes shows what was done to the history behind its back."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from avtomatika.cli.main import main
from avtomatika.history import Archive
from avtomatika.settings import get_settings
from tests.support.history import Place, write_all


@pytest.fixture
def run(uri: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HISTORY_DATABASE_URI", uri)
    get_settings.cache_clear()

    def call(*words: str):
        return CliRunner().invoke(main, ["history", "verify", *words])

    return call


async def _tampered(archive: Archive, *statements: str, **values: object) -> None:
    for statement in statements:
        await archive.database.write(lambda connection, s=statement: connection.execute(text(s), values))


async def _written(place: Place, archive: Archive, jobs: int = 3) -> list[str]:
    ids = [(await place.whole_job(id=f"job-{number}", changes=3)).id for number in range(jobs)]
    await write_all(place.historian(archive))
    return ids


async def test_a_history_that_nobody_touched(place: Place, archive: Archive, run) -> None:
    assert run().exit_code == 0
    await _written(place, archive)

    done = run()

    assert (done.exit_code, done.output) == (0, "15 events of 3 jobs: no problems\n")
    assert run("job-1").output == "5 events of 1 jobs: no problems\n"
    assert json.loads(run("--json").output) == {"jobs": 3, "events": 15, "problems": []}
    unknown = run("nope")
    assert (unknown.exit_code, unknown.output) == (1, "Error: the history has no job nope\n")


_SWAP = (
    "UPDATE event SET seq = 103 WHERE job_id = 'job-1' AND seq = 3",
    "UPDATE event SET seq = 3 WHERE job_id = 'job-1' AND seq = 4",
    "UPDATE event SET seq = 4 WHERE job_id = 'job-1' AND seq = 103",
)


@pytest.mark.parametrize("uri", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (
            ["UPDATE event SET body = replace(body, 'transition', 'something') WHERE job_id = 'job-1' AND seq = 2"],
            {(2, "edited")},
        ),
        (["UPDATE event SET event_type = 'something' WHERE job_id = 'job-1' AND seq = 2"], {(2, "columns")}),
        (["UPDATE event SET at = at + 1 WHERE job_id = 'job-1' AND seq = 2"], {(2, "columns")}),
        (["UPDATE event SET worker_id = 'w' WHERE job_id = 'job-1' AND seq = 2"], {(2, "columns")}),
        (["UPDATE event SET body = '[]' WHERE job_id = 'job-1' AND seq = 5"], {(5, "edited")}),
        (["DELETE FROM event WHERE job_id = 'job-1' AND seq = 3"], {(3, "event 3 is missing"), (4, "is gone")}),
        (["DELETE FROM event WHERE job_id = 'job-1' AND seq = 1"], {(1, "event 1 is missing"), (2, "is gone")}),
        (["DELETE FROM event WHERE job_id = 'job-1' AND seq > 3"], {(4, "events 4 to 5 are missing")}),
        (["DELETE FROM event WHERE job_id = 'job-1'"], {(1, "events 1 to 5 are missing")}),
        (_SWAP, {(3, "moved"), (4, "moved"), (5, "moved")}),
        (["UPDATE job SET event_count = 4 WHERE id = 'job-1'"], {(5, "as its last")}),
        (["UPDATE job SET status = 'failed' WHERE id = 'job-1'"], {(None, "columns of the job")}),
        (["DELETE FROM job WHERE id = 'job-1'"], {(None, "its row is gone")}),
    ],
)
async def test_what_was_done_behind_its_back_shows(
    place: Place, archive: Archive, run, statements: list[str], found: set[tuple[int | None, str]]
) -> None:
    await _written(place, archive)
    await _tampered(archive, *statements)

    done = run("--json")

    assert done.exit_code == 1
    problems = json.loads(done.output)["problems"]
    assert {problem["job_id"] for problem in problems} == {"job-1"}
    assert {problem["seq"] for problem in problems} == {seq for seq, _ in found}
    for problem, (_, words) in zip(problems, sorted(found, key=lambda item: item[0] or 0), strict=True):
        assert words in problem["problem"]
    assert run("job-1").exit_code == 1
    assert [run(job_id).exit_code for job_id in ("job-0", "job-2")] == [0, 0]


async def test_an_edit_a_deletion_and_a_move_show_in_either_database(place: Place, archive: Archive, run) -> None:
    await _written(place, archive, jobs=4)
    await _tampered(
        archive,
        "UPDATE event SET body = replace(body, 'transition', 'something') WHERE job_id = 'job-0' AND seq = 2",
        *_SWAP,
        "DELETE FROM event WHERE job_id = 'job-2' AND seq = 3",
    )

    assert [run(f"job-{number}").exit_code for number in range(4)] == [1, 1, 1, 0]


async def test_a_rewritten_body_with_a_hash_of_its_own_breaks_the_next_link(place: Place, archive: Archive, run) -> None:
    from avtomatika.history.chain import link

    await _written(place, archive)
    [first, second] = await archive.database.read(
        lambda c: c.execute(text("SELECT hash, body FROM event WHERE job_id = 'job-1' AND seq < 3 ORDER BY seq")).all()
    )
    body = second.body.replace("transition", "something")
    await _tampered(
        archive,
        "UPDATE event SET body = :body, hash = :hash, event_type = 'something' WHERE job_id = 'job-1' AND seq = 2",
        body=body,
        hash=link(first.hash, 2, body),
    )

    done = run("job-1", "--json")

    assert [problem["seq"] for problem in json.loads(done.output)["problems"]] == [3]


async def test_tables_that_are_not_there_are_said_to_be(run) -> None:
    done = run()

    assert done.exit_code == 1
    assert "do not exist yet: run `avtomatika db upgrade`" in done.output
