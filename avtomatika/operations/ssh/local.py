"""This machine's side of a transfer: every path is opened beneath its root, one name at a time, and no link is followed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.outcomes import local_failures, of_local, refused
from avtomatika.operations.ssh.places import Entry, Kind, Parts, printable

_BLOCK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe in its place must not hold us
_WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class LocalReader:
    def __init__(self, fd: int, path: Parts, name: str) -> None:
        self._fd = fd
        self._name = name
        self._found = os.fstat(fd)
        self.entry = entry_of(path, self._found)
        if self.entry.kind is not Kind.FILE:
            os.close(fd)
            raise refused(f"{name} is no regular file")

    def blocks(self, offset: int) -> Iterator[bytes]:
        while True:
            with local_failures(self._name):
                data = os.pread(self._fd, _BLOCK, offset)
            if not data:
                return
            offset += len(data)
            yield data

    def changed(self) -> bool:
        now = os.fstat(self._fd)
        return (now.st_size, now.st_mtime_ns) != (self._found.st_size, self._found.st_mtime_ns)

    def close(self) -> None:
        os.close(self._fd)


class LocalWriter:
    def __init__(self, fd: int, name: str, offset: int) -> None:
        self._fd = fd
        self._name = name
        self._offset = offset
        try:
            with local_failures(name):
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise refused(f"{name} is no regular file")
                os.ftruncate(fd, offset)
        except BaseException:
            os.close(fd)
            raise

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        with local_failures(self._name):
            while view:
                done = os.pwrite(self._fd, view, self._offset)
                self._offset += done
                view = view[done:]

    def settle(self, mode: int, mtime: int | None) -> None:
        """Without waiting for the disk."""
        with local_failures(self._name):
            os.fchmod(self._fd, mode)
            if mtime is not None:
                os.utime(self._fd, (mtime, mtime))

    def finish(self, mode: int, mtime: int | None) -> None:
        self.settle(mode, mtime)
        with local_failures(self._name):
            os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class LocalPlace:
    """A tree on this machine.

    Args:
        root: a directory of the policy; it is resolved already. Nothing outside it is ever opened.
        top: from there to the tree.
        check: called between blocks of what takes long; see `OperationContext.checkpoint`.
    """

    remote = False

    def __init__(self, root: Path, top: Parts = (), check: Callable[[], None] = lambda: None) -> None:
        self._root = root
        self._top = top
        self._check = check

    def shown(self, path: Parts = ()) -> str:
        return printable(str(self._root.joinpath(*self._top, *path)))

    @contextmanager
    def _parent(self, path: Parts) -> Iterator[tuple[int, str]]:
        """The open directory that holds a path, and its name in there."""
        parts = self._top + path
        fd = os.open(self._root, _DIRECTORY)
        try:
            for name in parts[:-1]:
                inner = os.open(name, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd, parts[-1] if parts else "."
        finally:
            os.close(fd)

    def stat(self, path: Parts, *, follow: bool = False) -> Entry | None:
        with local_failures(self.shown(path)):
            try:
                with self._parent(path) as (fd, name):
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    target = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(found.st_mode) else None
            except FileNotFoundError:
                return None
        if target is not None and follow:
            real = self.resolve(path)
            return None if real is None else self.stat(real)
        return entry_of(path, found, target)

    def entries(self, path: Parts) -> Iterator[Entry]:
        with local_failures(self.shown(path)), self._parent(path) as (parent, own):
            fd = os.open(own, _DIRECTORY, dir_fd=parent)
            try:
                for name in sorted(os.listdir(fd)):
                    try:
                        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                        target = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(found.st_mode) else None
                    except FileNotFoundError:
                        continue  # gone since
                    yield entry_of((*path, name), found, target)
            finally:
                os.close(fd)

    def resolve(self, path: Parts) -> Parts | None:
        top = self._root.joinpath(*self._top)
        try:
            found = top.joinpath(*path).resolve(strict=True)
        except (OSError, RuntimeError):
            return None
        return found.relative_to(top).parts if found.is_relative_to(top) else None

    def reader(self, path: Parts) -> LocalReader:
        with local_failures(self.shown(path)), self._parent(path) as (fd, name):
            return LocalReader(os.open(name, _READ, dir_fd=fd), path, self.shown(path))

    def writer(self, path: Parts, offset: int) -> LocalWriter:
        with local_failures(self.shown(path)), self._parent(path) as (fd, name):
            if offset:
                return LocalWriter(os.open(name, _WRITE, dir_fd=fd), self.shown(path), offset)
            flags = _WRITE | os.O_CREAT | os.O_EXCL
            try:
                return LocalWriter(os.open(name, flags, 0o600, dir_fd=fd), self.shown(path), 0)
            except FileExistsError:
                os.unlink(name, dir_fd=fd)
                return LocalWriter(os.open(name, flags, 0o600, dir_fd=fd), self.shown(path), 0)

    def make_directory(self, path: Parts) -> bool:
        with local_failures(self.shown(path)), self._parent(path) as (fd, name):
            try:
                os.mkdir(name, 0o755, dir_fd=fd)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    raise refused(f"{self.shown(path)} is there already, and is no directory") from None
                return False
            return True

    def make_top(self) -> bool:
        new = False
        for depth in range(1, len(self._top) + 1):
            new = LocalPlace(self._root, self._top[:depth]).make_directory(())
        return new

    def make_link(self, path: Parts, target: str) -> None:
        with local_failures(self.shown(path)), self._parent(path) as (fd, name):
            os.symlink(target, name, dir_fd=fd)

    def remove(self, path: Parts, kind: Kind = Kind.FILE, *, missing_ok: bool = False) -> None:
        with local_failures(self.shown(path)):
            try:
                with self._parent(path) as (fd, name):
                    os.rmdir(name, dir_fd=fd) if kind is Kind.DIRECTORY else os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def replace(self, old: Parts, new: Parts) -> None:
        with (
            local_failures(self.shown(new)),
            self._parent(old) as (old_fd, old_name),
            self._parent(new) as (new_fd, new_name),
        ):
            os.replace(old_name, new_name, src_dir_fd=old_fd, dst_dir_fd=new_fd)

    def replace_all(self, pairs: list[tuple[Parts, Parts]]) -> dict[Parts, OperationError]:
        failed = {}
        for old, new in pairs:
            try:
                self.replace(old, new)
            except OperationError as exc:
                failed[new] = exc
        return failed

    def touch(self, path: Parts, mode: int | None, mtime: int | None) -> None:
        with local_failures(self.shown(path)), self._parent(path) as (parent, name):
            fd = os.open(name, _READ, dir_fd=parent)
            try:
                if mode is not None:
                    os.fchmod(fd, mode)
                if mtime is not None:
                    os.utime(fd, (mtime, mtime))
            finally:
                os.close(fd)

    def sha256(self, path: Parts, length: int | None = None) -> str:
        reader = self.reader(path)
        try:
            return hash_of(reader.blocks(0), length, self._check)
        finally:
            reader.close()

    def free(self, path: Parts = ()) -> int | None:
        with suppress(OSError), self._parent(path) as (fd, _):
            found = os.statvfs(fd)
            return found.f_bavail * found.f_frsize
        return None

    def clone(self) -> LocalPlace:
        return self

    def cleaner(self) -> LocalPlace:
        return self

    def close(self) -> None:
        """Nothing is kept open."""


def hash_of(blocks: Iterator[bytes], length: int | None, check: Callable[[], None]) -> str:
    """The SHA-256 of what comes, at most `length` bytes of it."""
    found = hashlib.sha256()
    left = length
    for data in blocks:
        check()
        piece = data if left is None else data[:left]
        found.update(piece)
        if left is not None:
            left -= len(piece)
            if not left:
                break
    return found.hexdigest()


def entry_of(path: Parts, found: os.stat_result, target: str | None = None) -> Entry:
    return Entry(
        path,
        Kind.of(found.st_mode),
        found.st_size,
        stat.S_IMODE(found.st_mode),
        int(found.st_mtime),
        found.st_uid,
        found.st_gid,
        target,
    )


def local_place(path: Path, roots: list[Path]) -> tuple[Path, Parts]:
    """(root, the way from there) of a resolved path; see `Permit.local_path`."""
    for root in roots:
        if path.is_relative_to(root):
            return root, path.relative_to(root).parts
    raise of_local(OSError(errno.EACCES, "outside the roots of the policy"), str(path))
