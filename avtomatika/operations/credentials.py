"""Credentials by reference: resolved on the worker just before use, and never written anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import CredentialEntry
from avtomatika.operations.errors import OperationError
from avtomatika.private import too_open

#: The group of entry points of providers.
GROUP = "avtomatika.credentials"
#: Gets the ``options`` of the credential; returns what it holds: username, password, token, passphrase, private_key.
Provider = Callable[[Mapping[str, Any]], Mapping[str, Any]]
_BUNDLED = EntryPoint("vault", "avtomatika.operations.vault:provide", GROUP)
_FIELDS = ("username", "password", "token", "passphrase", "private_key")
#: A secret's file is no data file.
_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Credential:
    """What opens a door. Its repr shows no secret.

    Attributes:
        private_key: the text of a key, which some providers keep; else it is in `key_file`.
    """

    name: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    key_file: Path | None = None
    certificate_file: Path | None = None
    agent: bool = False

    @property
    def secrets(self) -> tuple[str, ...]:
        """Everything in it that must be shown nowhere."""
        return tuple(secret for secret in (self.password, self.token, self.passphrase, self.private_key) if secret)


def resolve(entry: CredentialEntry) -> Credential:
    """What a credential holds now; it may ask a provider over the network: never call it on an event loop.

    Raises:
        OperationError: CONFIGURATION_ERROR, where the place that it names holds nothing, with the fix.
    """
    given = _of_provider(entry)
    if entry.key_file is not None:
        _check_file(entry, entry.key_file)
    return Credential(
        entry.name,
        entry.username or given.get("username"),
        password=_found(entry, entry.password_env, entry.password_file) or _of_keyring(entry) or given.get("password"),
        token=_found(entry, entry.token_env, entry.token_file) or given.get("token"),
        passphrase=_found(entry, entry.passphrase_env, entry.passphrase_file) or given.get("passphrase"),
        private_key=given.get("private_key"),
        key_file=entry.key_file,
        certificate_file=entry.certificate_file,
        agent=entry.agent,
    )


def read_secret(env: str | None, path: Path | None) -> str | None:
    """A secret out of an environment variable or a file; None where neither is named.

    Raises:
        ValueError: there is none; it says why, and what to do.
    """
    if env is not None:
        value = os.environ.get(env)
        if not value:
            raise ValueError(f"the environment variable {env} is not set on this worker: set it where the worker is started")
        return value
    if path is None:
        return None
    problem = too_open(path)
    if problem is not None:
        raise ValueError(problem)
    try:
        with path.open(encoding="utf-8") as file:
            value = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise ValueError(f"{path} cannot be read on this worker: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    if not value.strip() or len(value) > _MOST_BYTES:
        raise ValueError(f"{path} is empty, or too large for a secret: write the secret alone into it")
    return value.rstrip("\r\n")


def _found(entry: CredentialEntry, env: str | None, path: Path | None) -> str | None:
    try:
        return read_secret(env, path)
    except ValueError as exc:
        raise _missing(entry, str(exc)) from None


def _check_file(entry: CredentialEntry, path: Path) -> None:
    problem = too_open(path)
    if problem is None and not path.is_file():
        problem = f"there is no file {path} on this worker: put the key there"
    if problem is None and not os.access(path, os.R_OK):
        problem = f"{path} cannot be read by the worker's user: chown it"
    if problem is not None:
        raise _missing(entry, problem)


def _of_keyring(entry: CredentialEntry) -> str | None:
    if entry.keyring is None:
        return None
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise _missing(entry, "keyring cannot be imported: pip install 'avtomatika[keyring]'") from None
    service, _, user = entry.keyring.partition("/")
    try:
        found = keyring.get_password(service, user)
    except KeyringError as exc:
        raise _missing(
            entry, f"the keyring of the worker's user does not open ({type(exc).__name__}): unlock it, or install a backend"
        ) from None
    if not found:
        raise _missing(entry, f"the keyring holds nothing for it: keyring set {service} {user}")
    return str(found)


@lru_cache(maxsize=1)
def _providers() -> dict[str, EntryPoint]:
    return {point.name: point for point in (*entry_points(group=GROUP), _BUNDLED)}


def provider_names() -> list[str]:
    """The providers that are installed here."""
    return sorted(_providers())


def _of_provider(entry: CredentialEntry) -> dict[str, str]:
    if entry.provider is None:
        return {}
    point = _providers().get(entry.provider)
    if point is None:
        raise _missing(entry, f"there is no provider {entry.provider!r} on this worker: install its package")
    try:
        provide: Provider = point.load()
        given = provide(entry.options)
    except OperationError as exc:
        raise OperationError(exc.code, f"credential {entry.name!r}: {exc}", details=exc.details, kind=exc.kind) from None
    except Exception as exc:  # its words may hold a secret: the type has to do
        raise _missing(entry, f"the provider {entry.provider!r} failed with {type(exc).__name__}") from None
    unknown = set(given) - set(_FIELDS)
    wrong = [key for key in _FIELDS if not isinstance(given.get(key, ""), str)]
    if unknown or wrong or not given:
        raise _missing(
            entry,
            f"the provider {entry.provider!r} gave nothing that is known, or something else than texts: "
            f"it has to give one or more of {', '.join(_FIELDS)}",
        )
    return dict(given)


def _missing(entry: CredentialEntry, why: str) -> OperationError:
    return OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"credential {entry.name!r}: {why}")
