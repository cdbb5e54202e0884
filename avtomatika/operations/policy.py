"""Who may do what: asked when a task is queued, and again by the worker that runs it."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from avtomatika.jobs import Client
from avtomatika.operations.base import Operation
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.commands import argv_of, has_controls, matches_argv
from avtomatika.operations.config import SETTING, CredentialEntry, HostEntry, OperationsConfig, PolicyEntry
from avtomatika.operations.errors import OperationError, PolicyError
from avtomatika.operations.names import is_address, is_of_this_machine


@dataclass(frozen=True, slots=True)
class Permit:
    """What one client may do.

    Attributes:
        entry: of its role; one that allows nothing where the file has none.
    """

    client: Client
    config: OperationsConfig
    entry: PolicyEntry

    def check(self, operation: Operation) -> None:
        """Raises OperationError where this operation is not allowed at all."""
        patterns = self.entry.operations
        named = operation.name in patterns
        matched = not operation.privileged and any(fnmatchcase(operation.name, pattern) for pattern in patterns)
        if not named and not matched:
            raise self.refusal(f"the operation {operation.name}", f"name it in operations of [policy.{self.entry.name}]")

    def rule(self, operation: Operation) -> str:
        """What allows an operation: the policy, and the name or pattern in it. For the audit, after `check`."""
        fits = (pattern for pattern in self.entry.operations if pattern == operation.name or fnmatchcase(operation.name, pattern))
        return f"policy.{self.entry.name}: {next(fits, '')}"

    def host(self, name: str) -> HostEntry:
        """The inventory's host of a name, where the client may use it."""
        entry = self.config.hosts.get(name)
        if entry is None and not self.entry.any_host:
            raise self.refusal(f"the host {name!r}, which is not in the inventory", f"add [hosts.{name}] to {SETTING}")
        if entry is None:
            if not is_address(name):
                raise self.refusal(f"the host {name!r}", "name a host or an IP address, without a user, a port or a scheme")
            self.peer(entry := HostEntry(name=name, address=name), name)
            return entry
        groups = {f"@{group}" for group in entry.groups}
        if not self.entry.any_host and not ({name, "*"} | groups) & set(self.entry.hosts):
            raise self.refusal(f"the host {name!r}", f"name it, or a group of it, in hosts of [policy.{self.entry.name}]")
        return entry if entry.address else entry.model_copy(update={"address": name})

    def peer(self, host: HostEntry, address: str) -> None:
        """Whether what a host's name has led to may be connected to: ask right before that, with the IP address.

        A host of the inventory may be anywhere. Any other one may be neither this machine nor what only it can reach: a name that
        somebody else keeps could lead to a cloud's metadata, or to the broker.
        """
        if self.config.hosts.get(host.name) is None and is_of_this_machine(address):
            raise self.refusal(
                f"the host {host.name!r}, which leads to {address} on or beside this machine", f"add it as a host to {SETTING}"
            )

    def command(self, command: str | Sequence[str]) -> list[str] | None:
        """A command: an argv, or a text for a shell.

        Returns:
            The argv that a pattern of ``commands`` allows; None for what only ``free_text`` allows. A text is allowed by a
            pattern where a shell would make nothing of it but these words; see `commands.argv_of`.
        """
        said = command if isinstance(command, str) else " ".join(command)
        if not said.strip() or "\0" in said:
            raise self.refusal("a command that is empty or holds a NUL character", "name a program, and take the NUL out")
        argv = argv_of(command) if isinstance(command, str) else list(command)
        if argv is not None and not has_controls(argv) and any(matches_argv(pattern, argv) for pattern in self.entry.commands):
            return argv
        if self.entry.free_text:
            return None
        if argv is None:
            raise self.refusal(
                "a command that a shell would have to read",
                f"give it as a list of words, or set free_text = true in [policy.{self.entry.name}]",
            )
        raise self.refusal(
            f"the command {argv[0]!r} with these arguments", f"add a pattern for it to commands of [policy.{self.entry.name}]"
        )

    def local_path(self, path: str | PathLike[str]) -> Path:
        """Where a path leads on this machine, links followed; it must lie beneath one of ``local_roots``.

        A relative path begins at the first root. What does not exist yet is judged by the folder it would be in.
        """
        roots = [Path(root).resolve() for root in self.entry.local_roots]
        what, fix = f"the local path {fspath(path)!r}", f"name a folder above it in local_roots of [policy.{self.entry.name}]"
        if not roots or not fspath(path):
            raise self.refusal(what, fix)
        try:
            found = (roots[0] / path).resolve()
        except (OSError, RuntimeError, ValueError):  # too long, a ring of links, a NUL
            raise self.refusal(what, "name a file that can exist") from None
        if not any(found.is_relative_to(root) for root in roots):
            raise self.refusal(what, fix)
        if found in self.config.own_files:
            raise self.refusal(what, "the files of the configuration stay where they are")
        return found

    def remote_path(self, path: str | PathLike[str]) -> str:
        """A path on a host, without ``.`` and ``..``; it must lie beneath one of ``remote_roots``.

        A relative path begins at the first root. Where links on the host lead is for the host's own permissions to say.
        """
        said = fspath(path)
        what, fix = f"the remote path {said!r}", f"name a folder above it in remote_roots of [policy.{self.entry.name}]"
        if not said or "\0" in said or said.startswith("~"):
            raise self.refusal(what, "write it from the root, without ~")
        roots = [_normal(root) for root in self.entry.remote_roots]
        if not roots:
            raise self.refusal(what, fix)
        found = _normal(posixpath.join(roots[0], said))
        if not any(root in ("/", found) or found.startswith(f"{root}/") for root in roots):
            raise self.refusal(what, fix)
        return found

    def credential(self, name: str | None, host: HostEntry | None = None) -> CredentialEntry | None:
        """A credential that a task names: the one of its host, or one that ``credentials`` allows. None where it names none."""
        if name is None:
            return None
        own = host is not None and host.credential == name
        if not own and not any(fnmatchcase(name, pattern) for pattern in self.entry.credentials or ()):
            raise self.refusal(f"the credential {name!r}", f"name it in credentials of [policy.{self.entry.name}]")
        entry = self.config.credentials.get(name)
        if entry is None:
            raise OperationError(
                TaskErrorCode.VALIDATION_INVALID_PARAMS, f"there is no credential {name!r}: add [credentials.{name}] to {SETTING}"
            )
        return entry

    def option(self, name: str, default: Any = None) -> Any:
        """What the ``options`` of its policy say: bounds and patterns of a family's own."""
        return self.entry.options.get(name, default)

    def matches(self, name: str, value: str) -> bool:
        """True where a pattern of an option's list (``images = ["registry.example.com/*"]``) fits; else it raises PolicyError."""
        patterns = self.option(name, ())
        if not any(fnmatchcase(value, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns)):
            raise self.refusal(f"{value!r}", f"add a pattern for it to {name} in [policy.{self.entry.name}.options]")
        return True

    def refusal(self, what: str, fix: str) -> PolicyError:
        """What is raised for something that the policy does not allow."""
        role = self.client.role or "default"
        return PolicyError(
            f"the policy does not allow {what} for the role {role!r}: {fix}",
            details={"refused": what, "role": role},
        )


def _normal(path: str) -> str:
    return "/" + posixpath.normpath(f"/{path}").lstrip("/")


def permit_of(client: Client, blueprint_name: str, config: OperationsConfig) -> Permit:
    """What a job's client may do; a blueprint with a policy of its own, ``[policy."blueprint:<name>"]``, has that one."""
    own = config.policy.get(f"blueprint:{blueprint_name}")
    role = client.role or "default"
    return Permit(client, config, own or config.policy.get(role) or PolicyEntry(name=role))


def allows_somewhere(config: OperationsConfig, operation: Operation) -> bool:
    """Whether any role may run this operation."""
    for entry in config.policy.values():
        try:
            Permit(Client(), config, entry).check(operation)
        except OperationError:
            continue
        return True
    return False
