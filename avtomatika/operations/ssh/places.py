"""What both sides of a transfer are: a tree of files, here or on a host. Paths in it are tuples of names; ``()`` is its top."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError

if TYPE_CHECKING:
    from avtomatika.operations.context import OperationContext

Parts = tuple[str, ...]

#: Names of what is not complete yet; see `part_name`.
_PART = re.compile(r"\.(?:.*\.)?part-[0-9a-f]{16}\Z", re.DOTALL)
_LONGEST_NAME = 255


class Kind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"  # a device, a pipe, a socket

    @classmethod
    def of(cls, mode: int) -> Kind:
        if stat.S_ISREG(mode):
            return cls.FILE
        if stat.S_ISDIR(mode):
            return cls.DIRECTORY
        return cls.LINK if stat.S_ISLNK(mode) else cls.OTHER


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies at a path.

    Attributes:
        mode: permission bits.
        mtime: seconds since 1970, whole ones: SFTP knows no others.
        real: where it is opened; another path than `path` where a link is followed.
    """

    path: Parts
    kind: Kind
    size: int = 0
    mode: int = 0
    mtime: int = 0
    uid: int | None = None
    gid: int | None = None
    target: str | None = None
    real: Parts | None = None

    @property
    def place(self) -> Parts:
        return self.path if self.real is None else self.real


class Reader(Protocol):
    """An open file.

    Attributes:
        entry: as it was when it was opened.
    """

    entry: Entry

    def blocks(self, offset: int) -> Iterator[bytes]: ...

    def changed(self) -> bool:
        """Whether it is another one than when it was opened."""

    def close(self) -> None: ...


class Writer(Protocol):
    """An open file that is filled from an offset on."""

    def write(self, data: bytes) -> None: ...

    def settle(self, mode: int, mtime: int | None) -> None:
        """All of it is written when this returns, but the disk is not waited for."""

    def finish(self, mode: int, mtime: int | None) -> None:
        """All of it is on the disk when this returns."""

    def close(self) -> None: ...


class Place(Protocol):
    """A tree. Its failures are OperationErrors; one object belongs to one thread."""

    remote: bool

    def shown(self, path: Parts = ()) -> str:
        """For people."""

    def stat(self, path: Parts, *, follow: bool = False) -> Entry | None:
        """None where nothing is."""

    def entries(self, path: Parts) -> Iterator[Entry]:
        """What a directory holds, each name checked."""

    def resolve(self, path: Parts) -> Parts | None:
        """Where a link leads, as a path of this tree; None where it leads out of it, or nowhere."""

    def reader(self, path: Parts) -> Reader: ...

    def writer(self, path: Parts, offset: int) -> Writer: ...

    def make_directory(self, path: Parts) -> bool:
        """False where it is there already; an error where something else is."""

    def make_top(self) -> bool:
        """The directory ``()`` and all above it, as far as the policy goes; whether it is new."""

    def make_link(self, path: Parts, target: str) -> None: ...

    def remove(self, path: Parts, kind: Kind = Kind.FILE, *, missing_ok: bool = False) -> None: ...

    def replace(self, old: Parts, new: Parts) -> None: ...

    def replace_all(self, pairs: list[tuple[Parts, Parts]]) -> dict[Parts, OperationError]:
        """Many at once; what could not be moved, by its new path."""

    def touch(self, path: Parts, mode: int | None, mtime: int | None) -> None: ...

    def sha256(self, path: Parts, length: int | None = None) -> str:
        """Of the first `length` bytes, or of all of it."""

    def free(self, path: Parts = ()) -> int | None:
        """Bytes; None where that is not known."""

    def clone(self) -> Place:
        """The same tree for another thread."""

    def cleaner(self) -> Place:
        """The same tree for what is to be done after a stop; this object is of no more use then."""

    def close(self) -> None: ...


@contextmanager
def cleaning(place: Place, op: OperationContext) -> Iterator[Place]:
    """The place itself, or one that works although the operation is to stop."""
    if op.stop_reason is None:
        yield place
        return
    cleaner = place.cleaner()
    try:
        yield cleaner
    finally:
        if cleaner is not place:
            cleaner.close()


def component(name: str) -> str:
    """A name out of a listing. Raises OperationError for what is no name: the peer would have us write somewhere else."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise OperationError(
            TaskErrorCode.SCP_TRANSFER_FAILED,
            f"the peer listed {printable(name)!r}, which is no name of a file: nothing of it is taken",
            kind=ErrorCode.PERMANENT,
        )
    return name


def printable(name: str) -> str:
    """A name without control characters, and as valid UTF-8."""
    plain = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def shown_path(path: Parts) -> str:
    return printable("/".join(path)) or "."


def part_name(name: str, key: str) -> str:
    """What a file is called until it is complete: in its own directory, the same for every attempt of a task."""
    tail = f".part-{key}"
    head = name
    while len(f".{head}{tail}".encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        head = head[:-1]
    return f".{head}{tail}"


def is_part(name: str) -> bool:
    """Whether a name is one of `part_name`, of any task."""
    return _PART.match(name) is not None
