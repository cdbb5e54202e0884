"""What an OpenSSH client configuration that the inventory names says of a host: read by Fabric, and nothing of it is run."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import HostEntry
from avtomatika.operations.errors import OperationError

#: Programs of the worker that a configuration would start, and what is not read: to overlook a line could be to skip a check.
_REFUSED = re.compile(
    r"^\s*(proxycommand|localcommand|knownhostscommand|include|match\b.*\bexec)\b", re.IGNORECASE | re.MULTILINE
)


def completed(entry: HostEntry) -> tuple[HostEntry, tuple[str, ...]]:
    """A host of the inventory, with what its `ssh_config` adds: HostName, Port, User; and the names in ProxyJump, nearest first.

    What the inventory itself says stays. Keys, known hosts and everything else in the file are left aside.

    Raises:
        OperationError: CONFIGURATION_ERROR; the file cannot be read, or would run a program.
    """
    if entry.ssh_config is None:
        return entry, ()
    from fabric.connection import derive_shorthand

    alias = entry.address or entry.name
    found = _lookup(entry.ssh_config, alias)
    more: dict[str, Any] = {"address": found.get("hostname", alias)}
    if entry.port is None and "port" in found:
        more["port"] = int(found["port"])
    if entry.username is None and "user" in found:
        more["username"] = found["user"]
    jumps = found.get("proxyjump", "none")
    # "a,b" is: to a, from there to b, from there to the host. Fabric's own gateways go the other way round.
    names = [] if entry.jump is not None or jumps.lower() == "none" else reversed(jumps.split(","))
    return entry.model_copy(update=more), tuple(derive_shorthand(name.strip())["host"] for name in names)


def _lookup(path: Path, alias: str) -> dict[str, Any]:
    try:
        stat = path.stat()
        return dict(_read(path, stat.st_mtime_ns, stat.st_size).lookup(alias))
    except OSError as exc:
        raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"ssh_config {path}: {exc.strerror or exc}") from None


@lru_cache(maxsize=32)
def _read(path: Path, changed: int, size: int) -> Any:
    """As Fabric reads it, and this file only: neither the machine's nor the user's own. Read again when it has changed."""
    from fabric import Config
    from paramiko import ConfigParseError, SSHConfig

    text = path.read_text()
    refused = _REFUSED.search(text)
    if refused is not None:
        line = text.count("\n", 0, refused.start(1)) + 1
        raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"{path}, line {line}: {refused.group(1)} is not allowed here")
    try:
        return Config(ssh_config=SSHConfig.from_text(text), lazy=True).base_ssh_config
    except ConfigParseError as exc:
        raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"{path}: {exc}") from None
