"""Tokens, and errors as JSON."""

from __future__ import annotations

from typing import Any

import pytest
import redis.exceptions
from aiohttp.test_utils import TestClient, TestServer

from avtomatika.api.app import create_app
from avtomatika.api.clients import Account, Accounts
from avtomatika.errors import ConfigurationError, StoreUnavailableError
from avtomatika.jobs import Client
from avtomatika.settings import Settings, read_settings
from avtomatika.tokens import digest_of

from .conftest import TOKEN, StoringService

Facade = TestClient[Any, Any]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Avtomatika-Token": TOKEN}, 200),
        ({"X-Client-Token": TOKEN}, 200),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": f"bearer  {TOKEN} "}, 200),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"X-Avtomatika-Token": TOKEN + "x"}, 401),
        ({"X-Avtomatika-Token": ""}, 401),
        ({}, 401),
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/blueprints", "/api/v1/nothing-here"])
async def test_tokens(service: StoringService, settings: Settings, headers: dict[str, str], status: int, path: str) -> None:
    async with TestClient(TestServer(create_app(service, settings))) as facade, facade.get(path, headers=headers) as response:
        assert response.status == (404 if status == 200 and "nothing" in path else status)
        if status == 401:
            assert "X-Avtomatika-Token" in (await response.json())["error"]


async def test_public_calls_need_no_token(service: StoringService, settings: Settings) -> None:
    async with TestClient(TestServer(create_app(service, settings))) as facade:
        async with facade.get("/_public/status") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
        async with facade.get("/_public/ready") as response:
            assert (response.status, await response.json()) == (
                200,
                {"status": "ready", "store": "ok", "broker": "ok", "history": "not configured"},
            )


async def test_ready_says_what_is_away(service: StoringService) -> None:
    settings = read_settings(client_token=TOKEN, redis_url="redis://127.0.0.1:1/0", broker_url="redis://127.0.0.1:1/5")
    async with (
        TestClient(TestServer(create_app(service, settings))) as facade,
        facade.get("/_public/ready") as response,
    ):
        assert response.status == 503
        assert await response.json() == {
            "status": "unavailable",
            "store": "ok",
            "broker": "unavailable",
            "history": "not configured",
        }


@pytest.mark.parametrize(
    "fault",
    [
        StoreUnavailableError("away"),
        redis.exceptions.ConnectionError("refused"),
        redis.exceptions.TimeoutError("slow"),
        redis.exceptions.BusyLoadingError("loading"),
        TimeoutError(),
    ],
)
async def test_an_absent_store_is_503(facade: Facade, service: StoringService, fault: Exception) -> None:
    service.fault = fault
    async with facade.post("/api/v1/hello", json={}) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert set(await response.json()) == {"error"}


async def test_a_fault_of_ours_says_no_secret(facade: Facade, service: StoringService) -> None:
    service.fault = ValueError("redis://:secret@host")
    async with facade.post("/api/v1/hello", json={}) as response:
        assert response.status == 500
        assert "secret" not in await response.text()


def test_no_token_no_facade(service: StoringService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIENT_TOKEN", raising=False)
    for token in (None, "  "):
        with pytest.raises(ConfigurationError, match="CLIENT_TOKEN"):
            create_app(service, read_settings(client_token=token))


def test_tokens_are_kept_as_digests() -> None:
    accounts = Accounts([Account(Client(name="a"), digest_of("one")), Account(Client(name="b"), digest_of("two"))])
    found = accounts.account_of("two")
    assert found is not None
    assert found.client == Client(name="b")
    assert accounts.account_of("three") is None
    assert "two" not in repr(vars(accounts))


async def test_the_service_is_closed_with_the_app(service: StoringService, settings: Settings) -> None:
    async with TestClient(TestServer(create_app(service, settings))):
        assert not service.closed
    assert service.closed
