"""The two ends of a transfer as a task names them: checked against the policy, and made into places."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from avtomatika.errors import ErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped
from avtomatika.operations.ssh._family import scp_judge
from avtomatika.operations.ssh.local import LocalPlace, local_place
from avtomatika.operations.ssh.outcomes import refused
from avtomatika.operations.ssh.params import ConnectionParams
from avtomatika.operations.ssh.peer import Peer
from avtomatika.operations.ssh.places import Parts, Place, component
from avtomatika.operations.ssh.pool import lease
from avtomatika.operations.ssh.remote import RemotePlace


@dataclass(slots=True)
class End:
    """A path on one side.

    Attributes:
        path: as the task names it.
        into: it ends with ``/``: a directory that the source is put into.
        peer: the host; None for this machine.
    """

    op: OperationContext
    path: str
    peer: Peer | None = None

    @property
    def into(self) -> bool:
        return self.path.endswith("/")

    def below(self, name: str) -> End:
        """What has this name in the directory."""
        return End(self.op, posixpath.join(self.path, component(name)), self.peer)

    @property
    def name(self) -> str:
        """Of the file or directory itself."""
        root, parts = self._resolved()
        return parts[-1] if parts else Path(root).name

    def directory(self) -> Place:
        """The tree whose top is the path itself."""
        root, parts = self._resolved()
        if self.peer is None:
            return LocalPlace(Path(root), parts, self.op.checkpoint)
        return self._remote(posixpath.join(root, *parts))

    def parent(self) -> tuple[Place, Parts]:
        """The tree above it, and its path in there."""
        root, parts = self._resolved()
        if not parts:
            raise refused(f"{self.path}: name a file below it")
        if self.peer is None:
            return LocalPlace(Path(root), parts[:-1], self.op.checkpoint), parts[-1:]
        return self._remote(posixpath.join(root, *parts[:-1])), parts[-1:]

    def _resolved(self) -> tuple[str, Parts]:
        """Asked again where it is used: a link may lead elsewhere by now."""
        permit = self.op.permit
        if self.peer is None:
            root, parts = local_place(permit.local_path(self.path), [Path(root).resolve() for root in permit.entry.local_roots])
            return str(root), parts
        return "/", tuple(name for name in permit.remote_path(self.path).split("/") if name)

    def _remote(self, top: str) -> RemotePlace:
        assert self.peer is not None
        place = RemotePlace(self.peer, top)
        try:
            self.peer.require_inside(place.sftp, self.op.permit.remote_path(self.path), self.op.permit.entry.remote_roots)
        except BaseException:
            place.close()
            raise
        return place


@contextmanager
def connected(
    op: OperationContext, params: ConnectionParams, host: str, *, idle: float, tools: bool
) -> Iterator[tuple[Peer, dict[str, str]]]:
    """A host, and the facts of the connection to it; what its library raises comes out as an OperationError with an SCP code.

    A stop does not cut the connection: what was begun is taken back, or closed in order, first.
    """
    try:
        with lease(op, params, host, cut_on_stop=False) as connection:
            allowed = tools and bool(op.permit.option("remote_tools", True))
            try:
                yield Peer(host, connection.transport, op, idle=idle, tools=allowed), connection.facts
            except OperationError as exc:
                if exc.kind is ErrorCode.TRANSIENT:
                    connection.close()  # silent, or cut: the next operation needs another one
                raise
    except (OperationError, OperationStopped):
        raise
    except Exception as exc:
        known = scp_judge(exc)
        if known is None:
            raise
        raise known from exc
