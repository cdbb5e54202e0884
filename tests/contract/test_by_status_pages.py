"""Pages of jobs in a status, by the place where the page before ended."""

from __future__ import annotations

import pytest

from avtomatika.jobs import Client, JobStatus
from tests.contract.conftest import Kit
from tests.support.records import NOW, change

QUARANTINED = JobStatus.QUARANTINED


async def _put(kit: Kit, number: int, at: float) -> str:
    job = await kit.created(id=f"job-{number:02d}", client=Client("me"), updated_at=at - 1)
    await kit.committed(change(job, status=QUARANTINED))
    return job.id


async def _pages(kit: Kit, client: str | None, size: int) -> list[str]:
    found: list[str] = []
    before = None
    while rows := await kit.store.in_status(QUARANTINED, client=client, limit=size, before=before):
        found += [job_id for job_id, _ in rows]
        before = (rows[-1][1], rows[-1][0])
    return found


@pytest.mark.parametrize("client", [None, "me"])
async def test_pages_neither_skip_nor_repeat_a_job_even_of_one_moment(kit: Kit, client: str | None) -> None:
    for number in range(12):
        await _put(kit, number, NOW + number // 5 + 0.123456)  # five at a time in the same moment

    expected = [job_id for job_id, _ in await kit.store.in_status(QUARANTINED)]

    assert expected == [f"job-{number:02d}" for number in reversed(range(12))]
    for size in (1, 2, 3, 5, 100):
        assert await _pages(kit, client, size) == expected


@pytest.mark.parametrize("client", [None, "me"])
async def test_what_comes_and_leaves_meanwhile_shifts_no_page(kit: Kit, client: str | None) -> None:
    for number in range(4):
        await _put(kit, number, NOW + number)
    first = await kit.store.in_status(QUARANTINED, client=client, limit=2)
    await _put(kit, 9, NOW + 9)
    gone = await kit.store.load("job-02")
    assert gone is not None
    await kit.committed(change(gone, status=JobStatus.RUNNING))

    rest = await kit.store.in_status(QUARANTINED, client=client, before=(first[-1][1], first[-1][0]))

    assert [job_id for job_id, _ in first] == ["job-03", "job-02"]
    assert [job_id for job_id, _ in rest] == ["job-01", "job-00"]
    assert await kit.store.in_status(QUARANTINED, client=client, before=(NOW + 5, "zzz"), offset=1, limit=1) == [
        ("job-01", NOW + 1)
    ]
