"""A connected host, as transfers use it: SFTP channels, programs of its shell, and where its paths lead."""

from __future__ import annotations

import os
import posixpath
import time
from typing import TYPE_CHECKING

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.outcomes import remote_failures
from avtomatika.operations.ssh.places import printable
from avtomatika.operations.ssh.tools import Tools

if TYPE_CHECKING:
    from paramiko import Transport

    from avtomatika.operations.context import OperationContext
    from avtomatika.operations.ssh.sftp import Sftp

_CLEANING_SECONDS = 10.0
_PATIENCE_SECONDS = 3.0


class Peer:
    """A connected host, and how an operation uses it.

    Args:
        idle: seconds that it may be silent.
        tools: whether its shell may be used.
    """

    def __init__(self, name: str, transport: Transport, op: OperationContext, *, idle: float, tools: bool) -> None:
        self.name = name
        self.op = op
        self.transport = transport
        self.idle = idle
        self.tools = Tools(transport, op.checkpoint, idle, allowed=tools)

    @property
    def alive(self) -> bool:
        return bool(self.transport.is_active())

    def sftp(self, *, cleaning: bool = False, patient: bool = True) -> Sftp:
        """A new channel.

        Args:
            cleaning: it works after a stop, too, and not for long.
            patient: a host that opens no more of them is asked again: one that was closed just now counts there for a while.
        """
        from paramiko import ChannelException, SSHException

        from avtomatika.operations.ssh.sftp import open_sftp

        check, idle = ((lambda: None), _CLEANING_SECONDS) if cleaning else (self.op.checkpoint, self.idle)
        until = time.monotonic() + (_PATIENCE_SECONDS if patient else 0)
        with remote_failures(self.name):
            while True:
                try:
                    return open_sftp(self.transport, check, idle)
                except ChannelException:
                    if time.monotonic() >= until:
                        raise
                    time.sleep(0.05)
                except (SSHException, EOFError) as exc:
                    if not self.alive:
                        raise
                    # The channel was opened, and closed again.
                    raise OperationError(
                        TaskErrorCode.SCP_CONNECTION_FAILED, f"{self.name} offers no SFTP", kind=ErrorCode.PERMANENT
                    ) from exc

    def require_inside(self, sftp: Sftp, path: str, roots: tuple[str, ...]) -> None:
        """Raises PolicyError where links of the host lead a path out of the roots of the policy."""
        with remote_failures(f"{self.name}:{printable(path)}"):
            found = _real(sftp, os.fsencode(path))
            inside = [_real(sftp, os.fsencode(root)) for root in roots]
        if not any(root in (b"/", found) or found.startswith(root + b"/") for root in inside):
            raise self.op.permit.refusal(
                f"the remote path {printable(path)!r}, which leads to {printable(os.fsdecode(found))!r}",
                "name a folder above it in remote_roots",
            )


def _real(sftp: Sftp, path: bytes) -> bytes:
    """Where a path leads; what does not exist yet is taken as it is written."""
    missing: list[bytes] = []
    while True:
        try:
            return posixpath.join(sftp.real_path(path), *reversed(missing))
        except FileNotFoundError:
            if path in (b"/", b""):
                raise
            path, name = posixpath.split(path.rstrip(b"/"))
            missing.append(name)
