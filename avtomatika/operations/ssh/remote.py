"""A host's side of a transfer, over SFTP."""

from __future__ import annotations

import os
import posixpath
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.ssh.local import hash_of
from avtomatika.operations.ssh.outcomes import disk_full, of_remote, refused, remote_failures
from avtomatika.operations.ssh.peer import Peer
from avtomatika.operations.ssh.places import Entry, Kind, Parts, component, printable
from avtomatika.operations.ssh.tools import ToolFailed

if TYPE_CHECKING:
    from paramiko import Message, SFTPAttributes

    from avtomatika.operations.ssh.sftp import BlockWriter, Sftp

_IN_FLIGHT = 64


class RemoteReader:
    def __init__(self, place: RemotePlace, path: Parts) -> None:
        from paramiko import sftp as wire

        self._place = place
        self._name = place.shown(path)
        self._sftp = place.sftp
        with remote_failures(self._name):
            self._handle = self._sftp.handle(place.path(path), wire.SFTP_FLAG_READ)
            self._found = self._sftp.fstat(self._handle)
        self.entry = entry_of(path, self._found)
        if self.entry.kind is not Kind.FILE:
            self.close()
            raise refused(f"{self._name} is no regular file")

    def blocks(self, offset: int) -> Iterator[bytes]:
        with remote_failures(self._name):
            yield from self._sftp.read_blocks(self._handle, offset, self.entry.size)

    def changed(self) -> bool:
        with remote_failures(self._name):
            now = self._sftp.fstat(self._handle)
        return (now.st_size, now.st_mtime) != (self._found.st_size, self._found.st_mtime)

    def close(self) -> None:
        with suppress(Exception):
            self._sftp.close_handle(self._handle)


class RemoteWriter:
    def __init__(self, place: RemotePlace, path: Parts, handle: bytes, blocks: BlockWriter) -> None:
        self._place = place
        self._path = path
        self._name = place.shown(path)
        self._sftp = place.sftp
        self._handle = handle
        self._blocks = blocks

    def _fully(self, act: Callable[..., Any], *args: Any) -> None:
        """Does something with the file; where the server only says "failure", its file system says whether it is full."""
        try:
            act(*args)
        except (OperationError, OperationStopped):
            raise
        except Exception as exc:
            known = of_remote(exc, self._name)
            if known is None:
                raise
            if "status" in known.details:
                free = self._place.free(self._path[:-1])
                if free is not None and free < self._sftp.block:
                    known = disk_full(self._name, free_bytes=free)
            raise known from exc

    def write(self, data: bytes) -> None:
        self._fully(self._blocks.write, data)

    def settle(self, mode: int, mtime: int | None) -> None:
        self._fully(self._blocks.flush)
        self._fully(self._sftp.fsetstat, self._handle, attributes(mode, mtime))

    def finish(self, mode: int, mtime: int | None) -> None:
        self.settle(mode, mtime)
        self._fully(self._sftp.fsync, self._handle)

    def close(self) -> None:
        with suppress(Exception):
            if self._place.peer.op.stop_reason in (StopReason.PAUSE, StopReason.SHUTDOWN):
                self._blocks.flush()  # all that was counted is there when it goes on
            self._sftp.close_handle(self._handle)


class RemotePlace:
    """A tree on a host.

    Args:
        top: its absolute path.
    """

    remote = True

    def __init__(self, peer: Peer, top: str, sftp: Sftp | None = None) -> None:
        self.peer = peer
        self.top = top
        self.sftp = sftp or peer.sftp()

    def path(self, path: Parts) -> bytes:
        return os.fsencode(posixpath.join(self.top, *path))

    def shown(self, path: Parts = ()) -> str:
        return f"{self.peer.name}:{printable(posixpath.join(self.top, *path))}"

    def stat(self, path: Parts, *, follow: bool = False) -> Entry | None:
        with remote_failures(self.shown(path)):
            try:
                found = self.sftp.stat(self.path(path)) if follow else self.sftp.lstat(self.path(path))
            except FileNotFoundError:
                return None
            return self._entry(path, found)

    def entries(self, path: Parts) -> Iterator[Entry]:
        with remote_failures(self.shown(path)):
            for name, found in self.sftp.entries(self.path(path)):
                yield self._entry((*path, component(os.fsdecode(name))), found)

    def _entry(self, path: Parts, found: SFTPAttributes) -> Entry:
        target = os.fsdecode(self.sftp.link_target(self.path(path))) if stat.S_ISLNK(found.st_mode or 0) else None
        return entry_of(path, found, target)

    def resolve(self, path: Parts) -> Parts | None:
        with remote_failures(self.shown(path)):
            try:
                top = self.sftp.real_path(self.path(()))
                found = self.sftp.real_path(self.path(path))
            except OSError:
                return None
        if found == top:
            return ()
        if not found.startswith(top.rstrip(b"/") + b"/"):
            return None
        return tuple(os.fsdecode(found[len(top.rstrip(b"/")) + 1 :]).split("/"))

    def reader(self, path: Parts) -> RemoteReader:
        return RemoteReader(self, path)

    def writer(self, path: Parts, offset: int) -> RemoteWriter:
        from paramiko import sftp as wire

        from avtomatika.operations.ssh.sftp import BlockWriter, RemoteFailure

        flags = wire.SFTP_FLAG_WRITE | wire.SFTP_FLAG_CREATE
        with remote_failures(self.shown(path)):
            if offset:
                handle = self.sftp.handle(self.path(path), flags)
            else:  # never through a link that somebody left under this name
                try:
                    handle = self.sftp.handle(self.path(path), flags | wire.SFTP_FLAG_EXCL, attributes(0o600, None))
                except RemoteFailure:
                    with suppress(FileNotFoundError):
                        self.sftp.remove(self.path(path))
                    handle = self.sftp.handle(self.path(path), flags | wire.SFTP_FLAG_EXCL, attributes(0o600, None))
        return RemoteWriter(self, path, handle, BlockWriter(self.sftp, handle, offset))

    def make_directory(self, path: Parts) -> bool:
        with remote_failures(self.shown(path)):
            try:
                self.sftp.mkdir(self.path(path), 0o755)
            except OSError as exc:
                found = self.stat(path)
                if found is None:
                    raise
                if found.kind is not Kind.DIRECTORY:
                    raise refused(f"{self.shown(path)} is there already, and is no directory") from exc
                return False
            return True

    def make_top(self) -> bool:
        from avtomatika.operations.ssh.sftp import RemoteFailure

        missing = []
        path = self.path(())
        with remote_failures(self.shown()):
            while True:
                try:
                    found = self.sftp.stat(path)
                    break
                except FileNotFoundError:
                    missing.append(path)
                    path = posixpath.dirname(path)
            if not stat.S_ISDIR(found.st_mode or 0):
                raise refused(f"{self.peer.name}:{printable(os.fsdecode(path))} is there already, and is no directory")
            for path in reversed(missing):
                try:
                    self.sftp.mkdir(path, 0o755)
                except RemoteFailure:
                    self.sftp.stat(path)  # made by another one meanwhile
        return bool(missing)

    def make_link(self, path: Parts, target: str) -> None:
        with remote_failures(self.shown(path)):
            self.sftp.symlink(os.fsencode(target), self.path(path))

    def remove(self, path: Parts, kind: Kind = Kind.FILE, *, missing_ok: bool = False) -> None:
        with remote_failures(self.shown(path)):
            try:
                if kind is Kind.DIRECTORY:
                    self.sftp.rmdir(self.path(path))
                else:
                    self.sftp.remove(self.path(path))
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def replace(self, old: Parts, new: Parts) -> None:
        with remote_failures(self.shown(new)):
            self.sftp.replace(self.path(old), self.path(new))

    def replace_all(self, pairs: list[tuple[Parts, Parts]]) -> dict[Parts, OperationError]:
        from paramiko import sftp as wire

        failed: dict[Parts, OperationError] = {}
        if "posix-rename@openssh.com" not in self.sftp.extensions:
            for old, new in pairs:
                try:
                    self.replace(old, new)
                except OperationError as exc:
                    failed[new] = exc
            return failed
        asked: dict[int, Parts] = {}
        waiting = deque(pairs)
        with remote_failures(self.shown()):
            while waiting or asked:
                while waiting and len(asked) < _IN_FLIGHT:
                    old, new = waiting.popleft()
                    number = self.sftp.ask(wire.CMD_EXTENDED, "posix-rename@openssh.com", self.path(old), self.path(new))
                    asked[number] = new
                number, _, message = self.sftp.answer()
                if number not in asked:
                    continue
                new = asked.pop(number)
                try:
                    self.sftp._convert_status(message)
                except OSError as exc:
                    failed[new] = of_remote(exc, self.shown(new)) or refused(f"{self.shown(new)}: {exc}")
        return failed

    def pipeline(self, requests: list[tuple[Any, ...]]) -> list[tuple[int, Message]]:
        """The answers to many requests, in their order, whatever they say."""
        found: dict[int, tuple[int, Message]] = {}
        order: list[int] = []
        waiting: set[int] = set()
        with remote_failures(self.shown()):
            for request in requests:
                while len(waiting) >= _IN_FLIGHT:
                    self._take(waiting, found)
                number = self.sftp.ask(*request)
                order.append(number)
                waiting.add(number)
            while waiting:
                self._take(waiting, found)
        return [found[number] for number in order]

    def _take(self, waiting: set[int], found: dict[int, tuple[int, Message]]) -> None:
        number, kind, message = self.sftp.answer()
        if number in waiting:
            waiting.discard(number)
            found[number] = kind, message

    def is_ok(self, answer: tuple[int, Message]) -> bool:
        from paramiko import sftp as wire

        kind, message = answer
        return kind == wire.CMD_STATUS and message.get_int() == wire.SFTP_OK

    def attributes_of(self, answer: tuple[int, Message]) -> SFTPAttributes | None:
        from paramiko import sftp as wire

        from avtomatika.operations.ssh.sftp import read_attributes

        kind, message = answer
        return read_attributes(message) if kind == wire.CMD_ATTRS else None

    def touch(self, path: Parts, mode: int | None, mtime: int | None) -> None:
        from paramiko import sftp as wire

        with remote_failures(self.shown(path)):
            self.sftp._request(wire.CMD_SETSTAT, self.path(path), attributes(mode, mtime))

    def sha256(self, path: Parts, length: int | None = None) -> str:
        if self.peer.tools.have("sha256sum", "head"):
            with suppress(ToolFailed), remote_failures(self.shown(path)):
                return self.peer.tools.sha256(self.path(path), length)
        reader = self.reader(path)
        try:
            return hash_of(reader.blocks(0), length, self.peer.op.checkpoint)
        finally:
            reader.close()

    def free(self, path: Parts = ()) -> int | None:
        with suppress(Exception):
            space = self.sftp.space(self.path(path))
            return None if space is None else space.free
        return None

    def clone(self) -> RemotePlace:
        return RemotePlace(self.peer, self.top, self.peer.sftp(patient=False))

    def cleaner(self) -> RemotePlace:
        self.close()  # an answer may be half read, and some hosts open one channel only
        return RemotePlace(self.peer, self.top, self.peer.sftp(cleaning=True))

    def close(self) -> None:
        with suppress(Exception):
            self.sftp.close()


def attributes(mode: int | None, mtime: int | None) -> SFTPAttributes:
    from paramiko import SFTPAttributes

    found = SFTPAttributes()
    found.st_mode = mode
    found.st_atime = found.st_mtime = mtime
    return found


def entry_of(path: Parts, found: SFTPAttributes, target: str | None = None) -> Entry:
    mode = found.st_mode or 0
    return Entry(
        path, Kind.of(mode), found.st_size or 0, stat.S_IMODE(mode), int(found.st_mtime or 0), found.st_uid, found.st_gid, target
    )


def missing(what: str) -> OperationError:
    return OperationError(TaskErrorCode.SCP_FILE_NOT_FOUND, f"{what}: no such file or directory")
