"""The way to a host: the jump hosts of the inventory, and the host itself, each with its own user, credential and keys."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import CredentialEntry, HostEntry
from avtomatika.operations.credentials import Credential
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.operations.ssh.params import ConnectionParams
from avtomatika.operations.ssh.sshconfig import completed

if TYPE_CHECKING:
    from avtomatika.operations.context import OperationContext

DEFAULT_PORT = 22
_MAX_HOPS = 8
#: Keys of a pool tell secrets apart by it, without holding them.
_SALT = os.urandom(16)


@dataclass(frozen=True, slots=True)
class Hop:
    """One machine on the way.

    Attributes:
        inside: the inventory names it.
    """

    entry: HostEntry
    port: int
    username: str
    credential: Credential
    credential_entry: CredentialEntry
    inside: bool

    @property
    def address(self) -> str:
        return self.entry.address or self.entry.name

    @property
    def label(self) -> str:
        """As messages name it."""
        return f"{self.username}@{self.address}:{self.port}"

    @property
    def key(self) -> str:
        """Different wherever a connection must not be used for the other hop: it follows every change of the inventory, of a
        secret, and of the files that they name."""
        files = (self.entry.known_hosts, self.credential.key_file, self.credential.certificate_file)
        entries = (self.entry.model_dump_json(), self.credential_entry.model_dump_json())
        parts = (*entries, *self.credential.secrets, *(_version(file) for file in files if file is not None))
        told = hashlib.blake2b("\0".join(parts).encode(), key=_SALT, digest_size=16).hexdigest()
        return f"{self.label}/{told}"


def allow(params: ConnectionParams, permit: Permit, host: str) -> None:
    """The guard's share: the host, and what the parameters say that the inventory does not. Raises PolicyError."""
    _allow(params, permit, permit.host(host), host)


def _allow(params: ConnectionParams, permit: Permit, entry: HostEntry, host: str) -> None:
    others = permit.option("usernames", ())
    permit.credential(params.credential, entry)
    own = _username(entry, None, permit.config.credentials.get(params.credential or entry.credential or ""))
    if params.username is not None and own is not None and params.username != own and params.username not in others:
        raise permit.refusal(
            f"the user {params.username!r} on the host {host!r}", f"name it in options.usernames of [policy.{permit.entry.name}]"
        )
    if params.port is not None and params.port != (entry.port or DEFAULT_PORT) and not permit.entry.any_host:
        raise permit.refusal(
            f"port {params.port} of the host {host!r}", f"add a host with this port to the inventory, as [hosts.{host}-2]"
        )


def route(op: OperationContext, params: ConnectionParams, host: str) -> tuple[Hop, ...]:
    """Every machine on the way, the host last, with its credential resolved.

    Raises:
        PolicyError: the client may not use it.
        OperationError: the inventory lacks something.
    """
    allow(params, op.permit, host)
    entry = op.host(host)
    inside = host in op.permit.config.hosts
    if not inside and (known := op.permit.option("known_hosts")):
        entry = entry.model_copy(update={"known_hosts": Path(known)})
    entry, jumps = completed(entry)
    _allow(params, op.permit, entry, host)
    hops = [_hop(op, entry, params, inside=inside)]
    passed = {entry.name}
    while jumps or entry.jump is not None:
        name, jumps = (jumps[0], jumps[1:]) if jumps else (entry.jump or "", ())
        found = op.permit.config.hosts.get(name)
        if found is None:
            raise _wrong(f"[hosts.{entry.name}] jump: there is no host {name!r}; add it, with its credential and host key")
        if found.name in passed or len(passed) >= _MAX_HOPS:
            raise _wrong(f"[hosts.{entry.name}] jump: the chain of jump hosts has no end, or more than {_MAX_HOPS} members")
        passed.add(found.name)
        entry, more = completed(found)
        jumps = jumps or more
        hops.append(_hop(op, entry, ConnectionParams(), inside=True))
    return tuple(reversed(hops))


def _hop(op: OperationContext, entry: HostEntry, params: ConnectionParams, *, inside: bool) -> Hop:
    name = params.credential or entry.credential
    if name is None:
        raise _wrong(f"the host {entry.name!r} has no credential: add one to [hosts.{entry.name}], or name one in the parameters")
    credential = op.credential(name)
    credential_entry = op.permit.config.credentials[name]
    username = _username(entry, params.username, credential_entry)
    if username is None:
        raise OperationError(
            TaskErrorCode.VALIDATION_MISSING_REQUIRED,
            f"no user for the host {entry.name!r}: add username to [hosts.{entry.name}] or to [credentials.{name}]",
        )
    return Hop(entry, params.port or entry.port or DEFAULT_PORT, username, credential, credential_entry, inside)


def _version(file: Path) -> str:
    try:
        stat = file.stat()
    except OSError:
        return "missing"
    return f"{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"


def _username(entry: HostEntry, asked: str | None, credential: CredentialEntry | None) -> str | None:
    return asked or entry.username or (credential.username if credential is not None else None)


def _wrong(why: str) -> OperationError:
    return OperationError(TaskErrorCode.CONFIGURATION_ERROR, why)
