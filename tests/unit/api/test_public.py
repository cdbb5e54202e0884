"""The calls without a token: quarantined jobs, readiness, the page's files; and debugging, which needs one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from avtomatika.api.app import create_app
from avtomatika.api.clients import Account, Accounts
from avtomatika.api.keys import ACCOUNTS
from avtomatika.jobs import Client, JobStatus
from avtomatika.settings import Settings, read_settings
from avtomatika.tokens import digest_of
from tests.support.records import a_job, change, creation

from .conftest import HEADERS, TOKEN, StoringService

Facade = TestClient[Any, Any]
BOSS = Client("boss", admin=True)


@asynccontextmanager
async def _serving(service: StoringService, settings: Settings, **changed: Any) -> AsyncIterator[Facade]:
    async with TestClient(TestServer(create_app(service, settings.model_copy(update=changed)))) as client:
        yield client


async def _quarantine(service: StoringService, job_id: str, client: str) -> None:
    job = a_job(id=job_id, client=Client(client))
    await service.store.commit(creation(job))
    await service.store.commit(change(job, status=JobStatus.QUARANTINED, error_message=f"{job_id} broke", retry_count=3))


async def test_quarantined_jobs_are_ids_only(service: StoringService, settings: Settings) -> None:
    await _quarantine(service, "job-a", "me")
    await service.store.commit(creation(a_job(id="job-b")))
    async with _serving(service, settings) as facade:
        async with facade.get("/_public/jobs/quarantined") as response:
            assert (response.status, await response.json()) == (200, ["job-a"])
        async with facade.get("/_public/jobs/quarantined?offset=1") as response:
            assert await response.json() == []
        async with facade.get("/_public/jobs/quarantined?limit=0") as response:
            assert response.status == 422
    async with (
        _serving(service, settings, public_quarantine=False) as facade,
        facade.get("/_public/jobs/quarantined") as response,
    ):
        assert response.status == 404


async def test_a_client_sees_its_own_quarantined_jobs_with_why(service: StoringService, settings: Settings) -> None:
    await _quarantine(service, "job-a", "me")
    await _quarantine(service, "job-b", "you")
    app = create_app(service, settings)
    app[ACCOUNTS].current = Accounts([Account(Client("me"), digest_of("mine")), Account(BOSS, digest_of("all"))])
    async with TestClient(TestServer(app)) as facade:
        async with facade.get("/api/v1/jobs/quarantined", headers={"X-Client-Token": "mine"}) as response:
            [job] = await response.json()
        async with facade.get("/api/v1/jobs/quarantined", headers={"X-Client-Token": "all"}) as response:
            assert {job["id"] for job in await response.json()} == {"job-a", "job-b"}
    assert job == {
        "id": "job-a",
        "blueprint_name": "b",
        "error_message": "job-a broke",
        "code": None,
        "task": None,
        "attempts": 0,
        "current_state": "start",
        "quarantined_at": "2023-11-14T22:13:21.000Z",
        "retry_count": 3,
    }


@pytest.mark.parametrize(
    ("uri", "history"),
    [
        ("sqlite:///{}/history.sqlite3", "ok"),
        ("sqlite:////nowhere/at/all.sqlite3", "unavailable"),
        ("postgresql://a:b@127.0.0.1:1/c", "unavailable"),
    ],
)
async def test_ready_asks_the_history(service: StoringService, tmp_path: Path, uri: str, history: str) -> None:
    settings = read_settings(client_token=TOKEN, redis_url="redis://127.0.0.1:1/0", history_database_uri=uri.format(tmp_path))
    async with _serving(service, settings) as facade, facade.get("/_public/ready") as response:
        body = await response.json()
    assert (body["history"], response.status) == (history, 200 if history == "ok" else 503)
    assert ("Retry-After" in response.headers) is (history != "ok")


@pytest.mark.parametrize(
    ("debug", "headers", "status"), [(False, HEADERS, 404), (True, {}, 401), (True, {"X-Client-Token": "x"}, 401)]
)
async def test_nothing_is_flushed(
    service: StoringService, settings: Settings, debug: bool, headers: dict[str, str], status: int
) -> None:
    await service.store.commit(creation(a_job(id="job-a")))
    async with (
        _serving(service, settings, debug=debug) as facade,
        facade.post("/_public/debug/flush_db", headers=headers) as response,
    ):
        assert response.status == status
    assert await service.store.load("job-a") is not None


async def test_only_an_admin_flushes(service: StoringService, settings: Settings) -> None:
    await service.store.commit(creation(a_job(id="job-a")))
    app = create_app(service, settings.model_copy(update={"debug": True}))
    app[ACCOUNTS].current = Accounts([Account(Client("me"), digest_of("mine")), Account(BOSS, digest_of(TOKEN))])
    async with TestClient(TestServer(app)) as facade:
        async with facade.post("/_public/debug/flush_db", headers={"X-Client-Token": "mine"}) as response:
            assert response.status == 403
        assert await service.store.load("job-a") is not None
        async with facade.post("/_public/debug/flush_db", headers=HEADERS) as response:
            assert (response.status, await response.json()) == (200, {"status": "db_flushed"})
    assert await service.store.load("job-a") is None


async def test_metrics_are_503_while_the_broker_is_away(service: StoringService, settings: Settings) -> None:
    async with _serving(service, settings) as facade, facade.get("/_public/metrics") as response:
        assert response.status == 503
        assert "Retry-After" in response.headers


async def test_the_page_loads_only_from_here(service: StoringService, settings: Settings) -> None:
    async with _serving(service, settings) as facade:
        async with facade.get("/_public/docs") as response:
            text, policy = await response.text(), response.headers["Content-Security-Policy"]
        assert response.content_type == "text/html"
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "//" not in text.replace("<!doctype html>", "")
        for name, kind in (
            ("swagger-ui-bundle.js", "javascript"),
            ("swagger-ui.css", "css"),
            ("docs.js", "javascript"),
        ):
            async with facade.get(f"/_public/docs/{name}") as response:
                assert (response.status, kind in response.content_type) == (200, True)
                tag = response.headers["ETag"]
            async with facade.get(f"/_public/docs/{name}", headers={"If-None-Match": tag}) as response:
                assert response.status == 304
        for name in ("index.html", "..%2fplugin.py", "%2e%2e%2f__init__.py", "nothing.js"):
            async with facade.get(f"/_public/docs/{name}") as response:
                assert response.status == 404


def test_the_viewers_framework_is_not_imported() -> None:
    code = "import sys, avtomatika.api.docs as docs; assert docs._viewer().is_dir(); assert 'flask' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
