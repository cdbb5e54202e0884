"""Reads an operations.toml strictly: what is misspelt, leads nowhere or holds a secret is refused, with its line and the fix."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from avtomatika.errors import ConfigurationError
from avtomatika.operations.config import SETTING, CredentialEntry, HostEntry, OperationsConfig, PolicyEntry
from avtomatika.operations.names import is_secret_name
from avtomatika.private import too_open
from avtomatika.tomlfile import TomlFile

T = TypeVar("T", bound=BaseModel)

_TABLES: dict[str, type[BaseModel]] = {"credentials": CredentialEntry, "hosts": HostEntry, "policy": PolicyEntry}
_SECRET_FILES = ("key_file", "passphrase_file", "password_file", "token_file", "kubeconfig")
_PATHS = frozenset({*_SECRET_FILES, "certificate_file", "known_hosts", "ca_file", "ssh_config", "local_roots", "audit_file"})
_WILD = frozenset("*?[")
_UNSAFE_NAME = frozenset("\0\r\n\t\"'\\")
#: How alike a name must be to be the one that was meant.
_ALIKE = 0.75


def read(path: Path) -> OperationsConfig:
    """Raises ConfigurationError with the file, its line and the fix."""
    file = TomlFile(path, SETTING)
    _check_mode(path)
    known = {*_TABLES, "audit_file"}
    for name in file.values:
        if name not in known:
            raise file.error(f"there is no table or key {name!r}{_meant(name, known)}; there are {_listed(known)}", None, name)
    for name in _TABLES:
        if not isinstance(file.values.get(name, {}), dict):
            raise file.error(f"{name} is a table of tables: write [{name}.<name>]", None, name)
    _refuse_secrets(file, file.values, ())
    found = OperationsConfig(
        credentials=_tables(file, "credentials", CredentialEntry),
        hosts=_tables(file, "hosts", HostEntry),
        policy=_tables(file, "policy", PolicyEntry),
        audit_file=_audit_file(file),
        path=path.absolute(),
    )
    for check in (_check_credentials, _check_hosts, _check_policies):
        check(file, found)
    return found


def _tables(file: TomlFile, table: str, kind: type[T]) -> dict[str, T]:
    return {name: _entry(file, table, name, values, kind) for name, values in file.values.get(table, {}).items()}


def _entry(file: TomlFile, table: str, name: str, values: Any, kind: type[T]) -> T:
    if not isinstance(values, dict):
        raise file.error_at(f"{name!r} stands outside of a table: write it under [{table}.<name>]", table, name)
    if not name or len(name) > 200 or not name.isprintable() or _UNSAFE_NAME & set(name):
        raise file.error_at("a name has 1 to 200 printable characters, without quotes and backslashes", table, name)
    fields = set(kind.model_fields) - {"name"}
    for key in values:
        if key not in fields:
            raise file.error_at(
                f"[{table}.{name}] has no key {key!r}{_meant(key, fields)}; it has {_listed(fields)}", table, name, key
            )
    try:
        placed = _all_placed(file.path.parent, values)
        return kind.model_validate({**placed, "name": name})
    except ValidationError as exc:
        misfit = exc.errors(include_url=False, include_input=False)[0]
        place = [str(part) for part in misfit["loc"] if not isinstance(part, int)]
        words = misfit["msg"].removeprefix("Value error, ")
        raise file.error_at(f"[{table}.{name}] {'.'.join(place[:1])}: {words}", table, name, *place[:1]) from None


def _all_placed(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    placed = {key: _placed(folder, value) if key in _PATHS else value for key, value in values.items()}
    options = values.get("options")
    if isinstance(options, dict) and "provider" in values:
        placed["options"] = {
            key: str(_placed(folder, value)) if key.endswith("_file") and isinstance(value, str) else value
            for key, value in options.items()
        }
    return placed


def _placed(folder: Path, value: Any) -> Any:
    """Relative paths begin where the file is, not where some process was started."""
    if isinstance(value, str):
        return folder.absolute() / value
    return [_placed(folder, item) for item in value] if isinstance(value, list) else value


def _audit_file(file: TomlFile) -> Path | None:
    value = file.values.get("audit_file")
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise file.error("audit_file must be the path of a file, in quotes", None, "audit_file")
    return Path(_placed(file.path.parent, value))


def _refuse_secrets(file: TomlFile, value: Any, place: tuple[str, ...]) -> None:
    """No secret stands in the file itself: it is copied, printed, and kept with the code."""
    if isinstance(value, dict):
        for key, inner in value.items():
            here = (*place, key)
            if (
                place[-2:] != ("options", "fields")
                and isinstance(inner, str | int)
                and not isinstance(inner, bool)
                and is_secret_name(key)
            ):
                raise file.error_at(
                    f"{key} stands here in plain: write it into a file of mode 600 and name that ({_instead(key, 'file')} = …), "
                    f"or name an environment variable of the workers ({_instead(key, 'env')} = …)",
                    *here,
                )
            _refuse_secrets(file, inner, here)
    elif isinstance(value, list):
        for inner in value:
            _refuse_secrets(file, inner, place)
    elif isinstance(value, str) and "PRIVATE KEY-----" in value:
        raise file.error_at("a private key stands here: write it into a file of mode 600, and name that: key_file = …", *place)


def _instead(key: str, how: str) -> str:
    plain = key.lower()
    if "key" in plain and "api" not in plain:
        return "key_file" if how == "file" else "passphrase_env"
    for word in ("passphrase", "pass", "pwd"):
        if word in plain:
            return f"{'passphrase' if word == 'passphrase' else 'password'}_{how}"
    return f"token_{how}"


def _check_credentials(file: TomlFile, config: OperationsConfig) -> None:
    for name, entry in config.credentials.items():
        place = ("credentials", name)
        for secret in ("password", "token", "passphrase"):
            ways = [key for key in (f"{secret}_env", f"{secret}_file") if getattr(entry, key) is not None]
            ways += ["keyring"] if secret == "password" and entry.keyring is not None else []  # noqa: S105 - the kind of it
            if len(ways) > 1:
                raise file.error_at(f"[credentials.{name}] has {_listed(ways)}: one place for each secret", *place, ways[1])
        if entry.options and entry.provider is None:
            raise file.error_at(f"[credentials.{name}] has options without a provider that they are for", *place, "options")
        if entry.provider is not None:
            _check_provider(file, name, entry.provider)
        for key in _SECRET_FILES:
            path = getattr(entry, key)
            problem = None if path is None else too_open(path)
            if problem is not None:
                raise file.error_at(f"[credentials.{name}] {key}: {problem}", *place, key)


def _check_provider(file: TomlFile, name: str, provider: str) -> None:
    from avtomatika.operations.credentials import provider_names

    there = provider_names()
    if provider not in there:
        raise file.error_at(
            f"[credentials.{name}] there is no provider {provider!r}{_meant(provider, there)}; installed are {_listed(there)}",
            "credentials", name, "provider",
        )  # fmt: skip


def _check_hosts(file: TomlFile, config: OperationsConfig) -> None:
    for name, host in config.hosts.items():
        if host.credential is not None and host.credential not in config.credentials:
            raise file.error_at(
                f"[hosts.{name}] there is no credential {host.credential!r}{_meant(host.credential, config.credentials)}; "
                f"add [credentials.{host.credential}]",
                "hosts", name, "credential",
            )  # fmt: skip
        chain = [name]
        while (jump := config.hosts[chain[-1]].jump) is not None:
            if jump not in config.hosts:
                raise file.error_at(
                    f"[hosts.{chain[-1]}] jump: there is no host {jump!r}{_meant(jump, config.hosts)}; add [hosts.{jump}]",
                    "hosts", chain[-1], "jump",
                )  # fmt: skip
            if jump in chain:
                raise file.error_at(
                    f"[hosts.{chain[-1]}] jump: {' -> '.join((*chain, jump))} is a ring: no connection could begin",
                    "hosts", chain[-1], "jump",
                )  # fmt: skip
            chain.append(jump)


def _check_policies(file: TomlFile, config: OperationsConfig) -> None:
    groups = {group for host in config.hosts.values() for group in host.groups}
    for name, entry in config.policy.items():
        place = ("policy", name)
        if name == "blueprint:operation":
            raise file.error_at(
                "queue tasks are allowed by their client's role: name the role, or a blueprint of your own", *place
            )
        for host in entry.hosts:
            there = [f"@{group}" for group in groups] if host.startswith("@") else list(config.hosts)
            if host != "*" and host not in there:
                what = "group of hosts" if host.startswith("@") else "host"
                raise file.error_at(f"[policy.{name}] hosts: there is no {what} {host!r}{_meant(host, there)}", *place, "hosts")
        for credential in entry.credentials or ():
            if not _WILD & set(credential) and credential not in config.credentials:
                raise file.error_at(
                    f"[policy.{name}] credentials: there is no credential {credential!r}{_meant(credential, config.credentials)}",
                    *place, "credentials",
                )  # fmt: skip
        for command in entry.commands:
            if not _words(command):
                raise file.error_at(f"[policy.{name}] commands: {command!r} is no command: check its quotes", *place, "commands")
        for root in entry.remote_roots:
            if not root.startswith("/"):
                raise file.error_at(f"[policy.{name}] remote_roots: {root!r} must begin with /", *place, "remote_roots")
        _check_operations(file, entry)


def _check_operations(file: TomlFile, entry: PolicyEntry) -> None:
    """A name that is near to one that is there is misspelt; another one may be that of a package on other machines."""
    from avtomatika.operations.registry import registry
    from avtomatika.operations.types import TaskType

    there = {operation.name for operation in registry()} | {str(type_) for type_ in TaskType}
    for name in entry.operations:
        if _WILD & set(name) or name in there:
            continue
        meant = _meant(name, there)
        if meant:
            raise file.error_at(
                f"[policy.{entry.name}] operations: there is no operation {name!r}{meant}", "policy", entry.name, "operations"
            )


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _check_mode(path: Path) -> None:
    if path.stat().st_mode & stat.S_IWOTH:
        raise ConfigurationError(f"{path}:1: anybody may write this file, and so allow themselves all: chmod o-w {path}")


def _meant(name: str, there: Iterable[str]) -> str:
    near = get_close_matches(name, list(there), 1, _ALIKE)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _listed(names: Collection[str]) -> str:
    return ", ".join(names if isinstance(names, list) else sorted(names)) or "none"
