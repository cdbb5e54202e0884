"""The quarantine over the API: pages, filters, orders to one and to many; a client sees and moves its own alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from avtomatika.api.app import create_app
from avtomatika.api.clients import Account, Accounts
from avtomatika.api.keys import ACCOUNTS
from avtomatika.jobs import Client, Failure, JobStatus, new_id
from avtomatika.settings import Settings
from avtomatika.state.base import Commit
from avtomatika.tokens import digest_of
from tests.support.records import NOW, a_job

from .conftest import Server, StoringService

ALL, MINE, YOURS = ({"X-Client-Token": name} for name in ("all", "mine", "yours"))
PATH = "/api/v1/jobs/quarantined"


@pytest.fixture
async def facade(service: StoringService, settings: Settings) -> AsyncIterator[TestClient[Any, Any]]:
    app = create_app(service, settings)
    accounts = (Client("me"), "mine"), (Client("you"), "yours"), (Client("boss", admin=True), "all")
    app[ACCOUNTS].current = Accounts([Account(client, digest_of(token)) for client, token in accounts])
    for number in range(7):
        failure = Failure("TRANSIENT_ERROR" if number % 2 else "WORKER_LOST", 3)
        job = a_job(
            id=f"job-{number}",
            blueprint_name="hello",
            client=Client("me" if number < 5 else "you"),
            status=JobStatus.QUARANTINED,
            error_message=f"broke {number}",
            failure=failure,
        )
        await service.store.commit(Commit(replace(job, updated_at=NOW + number), None))
    async with TestClient(Server(app)) as client:
        yield client


async def _get(facade: TestClient[Any, Any], path: str, headers: dict[str, str], status: int = 200) -> tuple[Any, str | None]:
    async with facade.get(path, headers=headers) as response:
        assert response.status == status, await response.text()
        return await response.json(), response.headers.get("X-Next-Cursor")


async def _post(facade: TestClient[Any, Any], path: str, body: Any, headers: dict[str, str], status: int = 200) -> Any:
    async with facade.post(path, json=body, headers=headers) as response:
        assert response.status == status, await response.text()
        return await response.json()


@pytest.mark.parametrize(("headers", "expected"), [(ALL, "6543210"), (MINE, "43210"), (YOURS, "65")])
async def test_pages_of_ones_own(facade: TestClient[Any, Any], headers: dict[str, str], expected: str) -> None:
    found, cursor = await _get(facade, f"{PATH}?limit=2", headers)
    while cursor is not None:
        more, cursor = await _get(facade, f"{PATH}?limit=2&cursor={cursor}", headers)
        assert len(more) <= 2
        found += more

    assert "".join(job["id"][-1] for job in found) == expected


async def test_filters(facade: TestClient[Any, Any]) -> None:
    for query, expected in (
        ("code=WORKER_LOST", "6420"),
        ("reason=BROKE%203", "3"),
        ("blueprint=other", ""),
        ("newer_than=5", ""),
    ):
        found, _ = await _get(facade, f"{PATH}?{query}", ALL)
        assert "".join(job["id"][-1] for job in found) == expected


@pytest.mark.parametrize("query", ["cursor=x", "cursor=1~", "older_than=-1", "newer_than=nan", "limit=0", "code=" + "x" * 300])
async def test_a_query_that_does_not_fit_is_refused(facade: TestClient[Any, Any], query: str) -> None:
    await _get(facade, f"{PATH}?{query}", ALL, 422)


async def test_many_of_ones_own_are_discarded_page_by_page(facade: TestClient[Any, Any], service: StoringService) -> None:
    body = {"filter": {"code": "WORKER_LOST"}, "limit": 2, "reason": "old"}
    dry = await _post(facade, f"{PATH}/discard", {**body, "dry_run": True}, MINE)
    assert (dry["count"], dry["job_ids"], dry["dry_run"]) == (2, ["job-4", "job-2"], True)

    first = await _post(facade, f"{PATH}/discard", body, MINE)
    second = await _post(facade, f"{PATH}/discard", {**body, "cursor": first["next_cursor"]}, MINE)

    assert (first["job_ids"], second["job_ids"], second["next_cursor"]) == (["job-4", "job-2"], ["job-0"], None)
    left, _ = await _get(facade, PATH, ALL)
    assert "".join(job["id"][-1] for job in left) == "6531"
    job = await service.store.load("job-0")
    assert job is not None
    assert job.error_message == "discarded by me: old (quarantined: broke 0)"


async def test_many_are_tried_again_with_one_edit(facade: TestClient[Any, Any], service: StoringService) -> None:
    body = {"filter": {}, "initial_data": {"fixed": True}}

    done = await _post(facade, f"{PATH}/retry", body, YOURS)

    assert (done["count"], done["refused"], done["next_cursor"]) == (2, [], None)
    for number in (5, 6):
        job = await service.store.load(f"job-{number}")
        assert job is not None
        assert (job.status, job.initial_data, job.failure) == (JobStatus.RUNNING, {"fixed": True}, None)
    refused = await _post(facade, f"{PATH}/retry", {**body, "state": "nowhere"}, MINE)
    assert (refused["count"], len(refused["refused"])) == (0, 5)
    assert "no state 'nowhere'" in refused["refused"][0]["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"dry_run": True}, 400),
        ({"filter": {"since": 3}}, 422),
        ({"filter": {}, "limit": 1001}, 422),
        ({"filter": {}, "dry_run": "yes"}, 422),
        ({"filter": {}, "cursor": "x"}, 422),
    ],
)
@pytest.mark.parametrize("order", ["retry", "discard"])
async def test_an_order_to_many_that_does_not_fit_is_refused(
    facade: TestClient[Any, Any], order: str, body: dict[str, Any], status: int
) -> None:
    await _post(facade, f"{PATH}/{order}", body, ALL, status)
    left, _ = await _get(facade, PATH, ALL)
    assert len(left) == 7


async def test_what_belongs_to_others_does_not_exist(facade: TestClient[Any, Any], service: StoringService) -> None:
    await _get(facade, f"{PATH}/job-0", YOURS, 404)
    for order in ("retry", "discard", "quarantine"):
        await _post(facade, f"/api/v1/jobs/job-0/{order}", {}, YOURS, 404)
    shown, _ = await _get(facade, f"{PATH}/job-0", MINE)
    assert (shown["code"], shown["attempts"], shown["last_attempt"]) == ("WORKER_LOST", 3, None)
    live = a_job(id=new_id(), blueprint_name="hello", client=Client("me"))
    await service.store.commit(Commit(live, None))
    await _get(facade, f"{PATH}/{live.id}", MINE, 404)
    await _post(facade, f"/api/v1/jobs/{live.id}/discard", {}, MINE, 409)
    await _post(facade, f"/api/v1/jobs/{live.id}/quarantine", {"reason": "x" * 1001}, MINE, 422)
    await _post(facade, f"/api/v1/jobs/{live.id}/quarantine", {"reason": "odd"}, MINE)
    shown, _ = await _get(facade, f"{PATH}/{live.id}", MINE)
    assert (shown["error_message"], shown["code"]) == ("quarantined by me: odd", "BY_HAND")
