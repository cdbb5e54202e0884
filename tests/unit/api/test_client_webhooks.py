"""The webhook of a client in clients.toml: looked at when the file is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from avtomatika.api.clients import read_accounts
from avtomatika.errors import ConfigurationError
from avtomatika.settings import read_settings

FILE = """[ann]
token = "a-long-enough-token"
team = "blue"
"""


def read(folder: Path, line: str, secret: str | None = "s") -> dict[str, object]:
    path = folder / "clients.toml"
    path.write_text(FILE + line + "\n")
    accounts = read_accounts(read_settings(clients_config_path=path, webhook_secret=secret))
    account = accounts.account_of("a-long-enough-token")
    assert account is not None
    return account.client.params


def test_it_is_one_of_the_clients_params(tmp_path: Path) -> None:
    params = read(tmp_path, 'webhook_url = "https://example.com/ann"')
    assert params == {"team": "blue", "webhook_url": "https://example.com/ann"}


@pytest.mark.parametrize(
    ("line", "secret", "words"),
    [
        ("webhook_url = 5", "s", "must be a string"),
        ('webhook_url = "ftp://example.com"', "s", "https://"),
        ('webhook_url = "http://127.0.0.1/"', "s", "WEBHOOK_ALLOW_PRIVATE"),
        ('webhook_url = "https://example.com"', None, "WEBHOOK_SECRET"),
        ('webhook_secret = "canary-1"', "s", "WEBHOOK_SECRET alone"),
    ],
)
def test_what_cannot_work_stops_the_start_with_its_line(tmp_path: Path, line: str, secret: str | None, words: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"clients\.toml:4: .*{words}") as refused:
        read(tmp_path, line, secret)
    assert "canary-1" not in str(refused.value)
