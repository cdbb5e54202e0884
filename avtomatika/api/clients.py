"""Who may use the client API: CLIENT_TOKEN and clients.toml."""

from __future__ import annotations

import hmac
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

from avtomatika.addresses import UrlRefusedError
from avtomatika.book import Book
from avtomatika.engine.webhooks import check_webhook
from avtomatika.errors import ConfigurationError
from avtomatika.jobs import JSON, Client
from avtomatika.settings import Settings
from avtomatika.tokens import Digests, digest_of, read_digest, read_tables
from avtomatika.tomlfile import TomlFile

#: The client of CLIENT_TOKEN.
DEFAULT = "default"
_TYPES: dict[str, type] = {"plan": str, "role": str, "admin": bool, "monthly_attempts": int}
_KINDS = {str: "a string", bool: "true or false", int: "a whole number"}
_KNOWN = ("token", "certificate", *_TYPES)
_CERTIFICATE = re.compile(r"CN=\S(.*\S)?|sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Account:
    """A client and what it may do. `monthly_attempts` of None is no bound.

    Attributes:
        certificate: what it may come with instead of its token: ``CN=<common name>`` or ``sha256:<fingerprint>``.
    """

    client: Client
    digest: bytes = field(repr=False)
    monthly_attempts: int | None = None
    certificate: str | None = None


class Accounts:
    """Which account a token belongs to. The tokens themselves are not kept."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._accounts = tuple(accounts)

    def __len__(self) -> int:
        return len(self._accounts)

    def account_of(self, token: str) -> Account | None:
        """The token's account, in a time that does not depend on how much of the token is right."""
        digest = digest_of(token)
        found = None
        for account in self._accounts:
            if hmac.compare_digest(account.digest, digest):
                found = account
        return found

    def account_of_certificate(self, names: frozenset[str]) -> Account | None:
        """The account of a certificate that has been checked; a fingerprint comes before a name."""
        found = [account for account in self._accounts if account.certificate in names]
        return min(found, key=lambda account: not str(account.certificate).startswith("sha256:"), default=None)


class AccountBook(Book[Accounts]):
    """The accounts of these settings, as their file says now.

    Raises:
        ConfigurationError: there is no token at all, or the file is wrong.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.clients_config_path, partial(read_accounts, settings))


def read_accounts(settings: Settings) -> Accounts:
    """The single CLIENT_TOKEN is an admin's; then those of CLIENTS_CONFIG_PATH. Raises ConfigurationError where there is none."""
    token = settings.client_token.get_secret_value().strip() if settings.client_token is not None else ""
    accounts = [Account(Client(name=DEFAULT, admin=True), digest_of(token))] if token else []
    path = settings.clients_config_path
    if path is not None:
        file = TomlFile(path, "CLIENTS_CONFIG_PATH")
        found = _of_file(file, accounts)
        for account in found:
            _check_webhook(file, account.client, settings)
            if account.certificate is not None and settings.api_tls_client_ca is None:
                raise file.error(
                    "a certificate is only asked for where API_TLS_CLIENT_CA is set: set it, or give the client a token",
                    account.client.name,
                    "certificate",
                )
        accounts += found
    if not accounts:
        raise ConfigurationError(
            "the facade does not start without a token: set CLIENT_TOKEN to a long random string, or CLIENTS_CONFIG_PATH to a "
            "clients.toml with a client in it (`avtomatika token new` makes a token, `avtomatika up` keeps one of its own)"
        )
    return Accounts(accounts)


def _of_file(file: TomlFile, others: Iterable[Account]) -> list[Account]:
    digests = Digests(file)
    names = set[str]()
    for account in others:
        digests.add(account.digest, "CLIENT_TOKEN")
        names.add(account.client.name)
    found: list[Account] = []
    for name, table in read_tables(file, "client").items():
        if name in names:
            raise file.error(f"the client {name!r} is the one of CLIENT_TOKEN; name this one differently", name)
        account = _account(file, name, table)
        digests.add(account.digest, f"[{name}]", name)
        for other in found:
            if account.certificate is not None and account.certificate == other.certificate:
                raise file.error(
                    f"this is the certificate of [{other.client.name}], too; each needs its own", name, "certificate"
                )
        found.append(account)
    return found


def _account(file: TomlFile, name: str, table: dict[str, Any]) -> Account:
    certificate = _certificate(file, name, table.get("certificate"))
    without_token = certificate is not None and "token" not in table
    digest = secrets.token_bytes(32) if without_token else read_digest(file, name, table.get("token"))
    for key, kind in _TYPES.items():
        if key in table and type(table[key]) is not kind:
            raise file.error(f"{key} must be {_KINDS[kind]}", name, key)
    attempts = table.get("monthly_attempts")
    if attempts is not None and attempts < 0:
        raise file.error("monthly_attempts must be 0 or more; leave it out for no bound", name, "monthly_attempts")
    params = {key: value for key, value in table.items() if key not in _KNOWN}
    for key, value in params.items():
        _refuse_mistake(file, name, key)
        _refuse_non_json(file, name, key, value)
    client = Client(name, table.get("plan", ""), table.get("role", "default"), table.get("admin", False), params)
    return Account(client, digest, attempts, certificate)


def _certificate(file: TomlFile, name: str, value: Any) -> str | None:
    if value is None:
        return None
    plain = value.strip() if isinstance(value, str) else ""
    if plain.lower().startswith("sha256:"):
        plain = plain.lower().replace(":", "").replace("sha256", "sha256:")  # as OpenSSL prints it, too
    if not _CERTIFICATE.fullmatch(plain):
        raise file.error('certificate must be "CN=<common name>" or "sha256:<64 hexadecimal digits>"', name, "certificate")
    return plain


def _check_webhook(file: TomlFile, client: Client, settings: Settings) -> None:
    """A client's own webhook must work; a secret of its own would go into every job's record with the other params."""
    if "webhook_secret" in client.params:
        raise file.error("webhooks are signed with WEBHOOK_SECRET alone; take webhook_secret out", client.name, "webhook_secret")
    url = client.params.get("webhook_url")
    if url is None:
        return
    if not isinstance(url, str):
        raise file.error("webhook_url must be a string", client.name, "webhook_url")
    try:
        check_webhook(url, settings)
    except UrlRefusedError as exc:
        raise file.error(f"webhook_url: {exc}", client.name, "webhook_url") from None


def _refuse_mistake(file: TomlFile, table: str, key: str) -> None:
    """A quota that is misspelt would be no quota."""
    word = key.lower().replace("-", "_")
    meant = word if word in _KNOWN else next(iter(get_close_matches(word, ["monthly_attempts"], 1, 0.8)), None)
    if meant is not None:
        raise file.error(
            f"{key!r} looks like {meant!r} misspelt; write {meant}, or give a key of your own another name", table, key
        )


def _refuse_non_json(file: TomlFile, table: str, key: str, value: JSON | Any) -> None:
    if isinstance(value, dict):
        for inner in value.values():
            _refuse_non_json(file, table, key, inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_non_json(file, table, key, inner)
    elif not isinstance(value, str | bool | int) and not (isinstance(value, float) and math.isfinite(value)):
        kind = "number" if isinstance(value, float) else type(value).__name__
        raise file.error(f"{key} holds a {kind} that JSON does not know; write it as a string in quotes", table, key)
