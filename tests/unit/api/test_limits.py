"""Workers' tokens, the log of refusals, the rate limit and the quota."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, make_mocked_request

from avtomatika.api.app import create_app
from avtomatika.api.auth import Failures
from avtomatika.api.quota import month_of
from avtomatika.errors import StoreUnavailableError
from avtomatika.settings import Settings
from avtomatika.state.memory import MemoryStore

from .conftest import HEADERS, Server, StoringService

Facade = TestClient[Any, Any]
OWN = "a-token-of-its-own"


@pytest.fixture
def change(settings: Settings, tmp_path: Path) -> Callable[..., Settings]:
    def changed(**update: Any) -> Settings:
        (tmp_path / "workers.toml").write_text(f'[own]\ntoken = "{OWN}"\n')
        values = {"workers_config_path": tmp_path / "workers.toml", "global_worker_token": "shared", **update}
        return Settings(
            **{**settings.model_dump(exclude={"broker_url_"}), "client_token": HEADERS["X-Avtomatika-Token"], **values}
        )

    return changed


@pytest.mark.parametrize(
    ("headers", "worker", "status"),
    [
        ({"X-Worker-Token": OWN}, "own", 404),  # it may come in, and has not registered
        ({"Authorization": f"Bearer {OWN}"}, "own", 404),
        ({"X-Worker-Token": OWN}, "other", 403),
        ({"X-Worker-Token": "shared"}, "other", 404),
        ({"X-Worker-Token": "shared"}, "own", 403),
        ({"X-Worker-Token": "shared"}, "%6Fwn", 403),
        ({"X-Worker-Token": "wrong"}, "own", 401),
        ({}, "own", 401),
        (HEADERS, "own", 401),
        ({"X-Worker-Token": HEADERS["X-Avtomatika-Token"]}, "own", 401),
    ],
)
async def test_a_worker_comes_in_as_itself(
    service: StoringService, change: Callable[..., Settings], headers: dict[str, str], worker: str, status: int
) -> None:
    async with TestClient(Server(create_app(service, change()))) as facade:
        async with facade.patch(f"/_worker/workers/{worker}", headers=headers) as response:
            assert response.status == status
            if status == 401:
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert "X-Worker-Token" in (await response.json())["error"]
        async with facade.get("/api/v1/jobs", headers={"X-Client-Token": OWN}) as response:
            assert response.status == 401


async def test_without_worker_tokens_no_worker_comes_in(service: StoringService, settings: Settings) -> None:
    settings = settings.model_copy(update={"global_worker_token": None})
    async with TestClient(Server(create_app(service, settings))) as facade:
        for token in ("", "x"):
            async with facade.get("/_worker/ws", headers={"X-Worker-Token": token}) as response:
                assert response.status == 401
                words = (await response.json())["error"]
                assert "GLOBAL_WORKER_TOKEN" in words
                assert "WORKERS_CONFIG_PATH" in words


def test_refusals_are_logged_once_a_second_and_hold_no_token(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures()
    request = make_mocked_request("GET", "/api/v1/jobs", {"X-Client-Token": "secret"})
    with caplog.at_level(logging.WARNING):
        for now in (0.0, 0.1, 0.2, 1.1, 1.2):
            failures.note(request, "this token is not known", now)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "and 2 before" in caplog.records[1].getMessage()
    assert "secret" not in caplog.text


async def test_too_many_requests_are_429(service: StoringService, change: Callable[..., Settings]) -> None:
    async with TestClient(Server(create_app(service, change(rate_limit=0.001))), headers=HEADERS) as facade:
        async with facade.get("/api/v1/blueprints") as response:
            assert response.status == 200
        async with facade.get("/api/v1/blueprints") as response:
            assert response.status == 429
            assert 900 <= int(response.headers["Retry-After"]) <= 1000
            assert "RATE_LIMIT" in (await response.json())["error"]
        async with facade.get("/_public/status") as response:
            assert response.status == 200


async def test_what_keeps_contact_is_not_counted(service: StoringService, change: Callable[..., Settings]) -> None:
    headers = {"X-Worker-Token": "shared"}
    async with TestClient(Server(create_app(service, change(rate_limit=0.001))), headers=headers) as facade:
        for _ in range(5):
            assert (await facade.get("/_worker/workers/w/tasks/next")).status == 404
            assert (await facade.patch("/_worker/workers/w")).status == 404
            assert (await facade.get("/_worker/ws/w")).status != 429
        for token in ("shared", OWN):
            async with facade.post("/_worker/tasks/result", json={}, headers={"X-Worker-Token": token}) as response:
                assert response.status == 400
            async with facade.post("/_worker/tasks/result", json={}, headers={"X-Worker-Token": token}) as response:
                assert response.status == 429


async def test_the_limit_can_be_switched_off(service: StoringService, change: Callable[..., Settings]) -> None:
    settings = change(rate_limit=0.001, rate_limiting_enabled=False)
    async with TestClient(Server(create_app(service, settings)), headers=HEADERS) as facade:
        assert [(await facade.get("/api/v1/blueprints")).status for _ in range(5)] == [200] * 5


@pytest.fixture
def quota_of(change: Callable[..., Settings], tmp_path: Path) -> Callable[[int], Settings]:
    def make(most: int) -> Settings:
        (tmp_path / "clients.toml").write_text(f'[acme]\ntoken = "{OWN}-2"\nmonthly_attempts = {most}\n')
        return change(clients_config_path=tmp_path / "clients.toml")

    return make


ACME = {"X-Client-Token": f"{OWN}-2"}


async def test_a_quota_counts_what_was_created(service: StoringService, quota_of: Callable[[int], Settings]) -> None:
    async with TestClient(Server(create_app(service, quota_of(3))), headers=ACME) as facade:

        async def create(body: Any, key: str = "") -> int:
            headers = {"Idempotency-Key": key} if key else {}
            async with facade.post("/api/v1/hello", json=body, headers=headers) as response:
                return response.status

        assert await create({}, "k") == 202
        assert [await create({}, "k") for _ in range(5)] == [202] * 5  # repeats of one request
        assert await create({"other": 1}, "k") == 409
        assert await create([]) == 400
        assert (await facade.post("/api/v1/jobs", json={"blueprint": "nope"})).status == 404
        service.fault = StoreUnavailableError("away")
        assert await create({}) == 503
        service.fault = None
        assert (await facade.post("/api/v1/jobs", json={"blueprint": "inner"})).status == 202
        assert [await create({}) for _ in range(3)] == [202, 429, 429]

        async with facade.post("/api/v1/hello", json={}) as response:
            assert 0 < int(response.headers["Retry-After"]) <= 31 * 24 * 3600
            assert "monthly_attempts" in (await response.json())["error"]
        assert (await facade.get("/api/v1/jobs")).status == 200
        assert (await facade.post("/api/v1/hello", json={}, headers=HEADERS)).status == 202  # the admin has no bound


class Away(MemoryStore):
    async def take_requests(self, key: str, rate: float, burst: int, now: float, count: int = 1) -> tuple[int, float]:
        raise StoreUnavailableError("away")

    async def take_attempt(self, client: str, period: str, most: int, ttl: float) -> bool:
        raise StoreUnavailableError("away")


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_store_that_is_away_lets_nobody_through(
    service: StoringService, quota_of: Callable[[int], Settings], enabled: bool
) -> None:
    service.store = Away()
    settings = quota_of(10).model_copy(update={"rate_limiting_enabled": enabled})
    async with (
        TestClient(Server(create_app(service, settings)), headers=ACME) as facade,
        facade.post("/api/v1/hello", json={}) as response,
    ):
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
    assert await service.store.list_jobs() == []


@pytest.mark.parametrize(
    ("moment", "month", "left"),
    [
        ("2026-01-31T23:59:59+00:00", "2026-01", 1),
        ("2026-02-01T00:00:00+00:00", "2026-02", 28 * 86400),
        ("2026-12-31T00:00:00+00:00", "2026-12", 86400),
        ("2028-02-01T00:00:00+00:00", "2028-02", 29 * 86400),
    ],
)
def test_months_are_those_of_utc(moment: str, month: str, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert month_of(datetime.fromisoformat(moment).timestamp()) == (month, left)
    finally:
        monkeypatch.undo()
        time.tzset()
