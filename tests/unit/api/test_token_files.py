"""clients.toml and workers.toml: what they grant, what they refuse, and how they are read again."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from avtomatika.api.app import create_app
from avtomatika.api.clients import Account, AccountBook, read_accounts
from avtomatika.api.keys import WorkerIdentity
from avtomatika.api.workertokens import WorkerTokenBook, read_worker_tokens
from avtomatika.errors import ConfigurationError
from avtomatika.jobs import Client
from avtomatika.settings import Settings, read_settings
from avtomatika.tokens import stored_form

from .conftest import TOKEN, StoringService

ONE, TWO = "one-long-enough-token", "two-long-enough-token"
Write = Callable[[str], Settings]


@pytest.fixture
def clients(tmp_path: Path) -> Write:
    def write(text: str) -> Settings:
        (tmp_path / "clients.toml").write_text(text)
        return read_settings(client_token=None, clients_config_path=tmp_path / "clients.toml")

    return write


@pytest.fixture
def workers(tmp_path: Path) -> Write:
    def write(text: str) -> Settings:
        (tmp_path / "workers.toml").write_text(text)
        return read_settings(client_token=TOKEN, global_worker_token="shared", workers_config_path=tmp_path / "workers.toml")

    return write


def test_a_client_has_what_its_table_says(clients: Write) -> None:
    accounts = read_accounts(
        clients(
            f'[acme]\ntoken = "{stored_form(ONE)}"\nplan = "gold"\nrole = "shop"\nmonthly_attempts = 10\n'
            f'languages = ["en", "de"]\nlimits = {{gpu = 2}}\n[root]\ntoken = "{TWO}"\nadmin = true\n'
        )
    )

    acme, root = accounts.account_of(ONE), accounts.account_of(TWO)

    assert isinstance(acme, Account)
    assert isinstance(root, Account)
    assert acme.client == Client("acme", "gold", "shop", False, {"languages": ["en", "de"], "limits": {"gpu": 2}})
    assert (acme.monthly_attempts, root.monthly_attempts, root.client.admin) == (10, None, True)
    assert accounts.account_of(stored_form(ONE)) is None  # what the file holds opens nothing
    assert ONE not in repr(acme)


def test_client_token_is_an_admin_beside_the_file(clients: Write) -> None:
    settings = clients(f'[acme]\ntoken = "{ONE}"\n').model_copy(
        update={"client_token": read_settings(client_token=TWO).client_token}
    )
    found = read_accounts(settings).account_of(TWO)
    assert found is not None
    assert found.client == Client("default", role="default", admin=True)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[acme]\nplan = "x"\n', 1, "[acme] has no token; make one with `avtomatika token new`"),
        ("[acme]\ntoken = 5\n", 2, "must be a string"),
        ('[acme]\ntoken = "short"\n', 2, "at least 16 characters"),
        ('[acme]\ntoken = "sha256:12ab"\n', 2, "64 hexadecimal digits"),
        ('[acme]\ntoken = " blanks around this "\n', 2, "blanks"),
        (f'[a]\ntoken = "{ONE}"\n[b]\n\ntoken = "{ONE}"\n', 5, "is the token of [a], too"),
        (f'[a]\ntoken = "{ONE}"\n[b]\ntoken = "{stored_form(ONE)}"\n', 4, "is the token of [a], too"),
        (f'[acme]\ntoken = "{ONE}"\nadmin = "yes"\n', 3, "admin must be true or false"),
        (f'[acme]\ntoken = "{ONE}"\nplan = 1\n', 3, "plan must be a string"),
        (f'[acme]\ntoken = "{ONE}"\nmonthly_attempts = true\n', 3, "a whole number"),
        (f'[acme]\ntoken = "{ONE}"\nmonthly_attempts = -1\n', 3, "0 or more"),
        (f'[acme]\ntoken = "{ONE}"\nmontly_attempts = 5\n', 3, "write monthly_attempts"),
        (f'[acme]\ntoken = "{ONE}"\nAdmin = true\n', 3, "write admin"),
        (f'[acme]\ntoken = "{ONE}"\nsince = 2026-01-01\n', 3, "JSON does not know"),
        (f'[acme]\ntoken = "{ONE}"\nlist = [{{at = 12:00:00}}]\n', 3, "JSON does not know"),
        (f'[acme]\ntoken = "{ONE}"\nshare = nan\n', 3, "JSON does not know"),
        (f'\ntoken = "{ONE}"\n', 2, "stands outside of a table"),
        (f'[acme.eu]\ntoken = "{ONE}"\n', 1, "needs quotes"),
        ("[acme]\ntoken =\n", 2, "not TOML"),
    ],
)
def test_a_mistake_is_refused_at_its_line(clients: Write, text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_accounts(clients(text))
    message = str(refused.value)
    assert re.search(rf"clients\.toml:{line}: ", message), message
    assert words in message
    assert ONE not in message


def test_the_name_of_client_token_is_taken(clients: Write) -> None:
    settings = clients(f'[default]\ntoken = "{ONE}"\n')
    assert len(read_accounts(settings)) == 1
    with pytest.raises(ConfigurationError, match=r"clients\.toml:1: .*CLIENT_TOKEN"):
        read_accounts(settings.model_copy(update={"client_token": read_settings(client_token=TWO).client_token}))


def test_an_empty_file_alone_lets_nobody_in(clients: Write) -> None:
    with pytest.raises(ConfigurationError, match="CLIENT_TOKEN"):
        AccountBook(clients(""))


def test_a_worker_of_its_own_token_does_not_come_in_under_the_global_one(workers: Write) -> None:
    tokens = read_worker_tokens(workers(f'["gpu@host"]\ntoken = "{ONE}"\ndescription = "the big one"\n'))

    own, shared = tokens.identity_of(ONE), tokens.identity_of("shared")

    assert own == WorkerIdentity("gpu@host", "gpu@host")
    assert own.may_be("gpu@host")
    assert not own.may_be("other")
    assert shared is not None
    assert (shared.worker_id, shared.name_of_token) == (None, "GLOBAL_WORKER_TOKEN")
    assert shared.may_be("other")
    assert not shared.may_be("gpu@host")
    assert tokens.identity_of("wrong") is None


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (f'[w]\ntoken = "{ONE}"\nplan = "x"\n', 3, "not 'plan'"),
        (f'[w]\ntoken = "{ONE}"\ndescription = 1\n', 3, "must be a string"),
        ("[w]\n", 1, "has no token"),
        (f'[v]\ntoken = "{ONE}"\n[w]\ntoken = "{ONE}"\n', 4, "[v]"),
        (f'[w]\ntoken = "{stored_form("shared")}"\n', 2, "GLOBAL_WORKER_TOKEN"),
    ],
)
def test_a_mistake_in_workers_toml_is_refused(workers: Write, text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"workers\.toml:{line}: ") as refused:
        WorkerTokenBook(workers(text))
    assert words in str(refused.value)


def test_a_changed_file_is_read_again_and_a_wrong_one_is_not(clients: Write, caplog: pytest.LogCaptureFixture) -> None:
    book = AccountBook(clients(f'[acme]\ntoken = "{ONE}"\n'))
    clients(f'[acme]\ntoken = "{TWO}"\nplan = "new"\n')
    book.refresh()
    assert book.current.account_of(ONE) is None
    assert book.current.account_of(TWO) is not None

    clients('[acme]\ntoken = "bad"\n')
    with caplog.at_level(logging.ERROR):
        book.refresh()
        book.refresh()
    assert book.current.account_of(TWO) is not None
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert ["clients.toml:2: " in message for message in errors] == [True]

    assert book.path is not None
    book.path.unlink()
    book.refresh()
    assert book.current.account_of(TWO) is not None


async def test_the_facade_watches_its_files(
    service: StoringService, workers: Write, monkeypatch: pytest.MonkeyPatch, clients: Write
) -> None:
    monkeypatch.setattr("avtomatika.api.app._LOOK_SECONDS", 0.01)
    settings = clients(f'[acme]\ntoken = "{ONE}"\n')
    async with TestClient(TestServer(create_app(service, settings))) as facade:
        clients(f'[acme]\ntoken = "{TWO}"\nplan = "new"\n')
        async with asyncio.timeout(20):
            while (await facade.get("/api/v1/blueprints", headers={"X-Client-Token": TWO})).status != 200:
                await asyncio.sleep(0.01)
        assert (await facade.get("/api/v1/blueprints", headers={"X-Client-Token": ONE})).status == 401


RELOAD = "/api/v1/admin/reload-workers"
ADMIN = {"X-Client-Token": TOKEN}


async def test_an_admin_has_the_workers_read_again(service: StoringService, workers: Write, tmp_path: Path) -> None:
    settings = workers(f'[w]\ntoken = "{ONE}"\n')
    (tmp_path / "clients.toml").write_text(f'[acme]\ntoken = "{TWO}"\n')
    settings = settings.model_copy(update={"clients_config_path": tmp_path / "clients.toml"})
    async with TestClient(TestServer(create_app(service, settings))) as facade:
        path = "/_worker/workers/w/nothing"
        assert (await facade.get(path, headers={"X-Worker-Token": ONE})).status == 404
        workers(f'[w]\ntoken = "{ONE}-new"\n')
        async with facade.post(RELOAD, headers={"X-Client-Token": TWO}) as response:
            assert response.status == 403
        async with facade.post(RELOAD, headers=ADMIN) as response:
            assert (response.status, await response.json()) == (200, {"status": "worker_configs_reloaded"})
        assert (await facade.get(path, headers={"X-Worker-Token": ONE})).status == 401
        workers('[w]\ntoken = "bad"\n')
        async with facade.post(RELOAD, headers=ADMIN) as response:
            assert response.status == 400
            assert "workers.toml:2: " in (await response.json())["error"]
        assert (await facade.get(path, headers={"X-Worker-Token": f"{ONE}-new"})).status == 404


async def test_no_file_to_read_again_is_said(facade: TestClient, service: StoringService) -> None:
    async with facade.post(RELOAD) as response:
        assert response.status == 400
        assert "WORKERS_CONFIG_PATH" in (await response.json())["error"]
