"""Backups: folders become an archive, whole and read back, or nothing."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import Field

from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.files import free_bytes, new_file, open_regular, shown
from avtomatika.operations.policy import Permit
from avtomatika.operations.system.archive import BLOCK, BROKEN, Archive, Digest, create, made_by, read_back, stored_name
from avtomatika.operations.system.family import family
from avtomatika.operations.system.walk import Entry, matcher, walk
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

#: The share of the progress that writing takes; reading back takes the rest.
_WRITTEN = 0.7
#: Names in a result.
_NAMED = 100


class SystemBackup(Params):
    """What to keep, and where. All paths lie beneath the policy's `local_roots`."""

    paths: list[str] = Field(min_length=1, max_length=100)
    destination: str = Field(min_length=1, description="the archive's own path; its folder exists")
    format: Literal["tar.gz", "tar.zst", "zip"] = "tar.gz"
    exclude: list[str] = Field(default_factory=list, max_length=1000, description="shell patterns of relative paths or names")
    checksum: Literal["sha256", "sha512", "none"] = "sha256"
    level: int | None = Field(None, ge=1, le=19, description="of the compression; at most 9 but for tar.zst")
    overwrite: bool = False
    check_space: bool = Field(True, description="ask for as much free space as the files take uncompressed")


def _guard(params: SystemBackup, permit: Permit) -> None:
    for path in (*params.paths, params.destination):
        permit.local_path(path)


@dataclass
class _Work:
    """A backup as it goes on."""

    op: OperationContext
    total: int
    done: int = 0
    files: int = 0
    folders: int = 0
    links: int = 0
    skipped: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def read(self, count: int) -> None:
        self.op.checkpoint()
        self.done += count
        self.op.progress(0.05 + _WRITTEN * min(1.0, self.done / self.total if self.total else 1.0))


@family.operation("system_backup", timeout_seconds=3600, max_retries=1, guard=_guard)
def system_backup(params: SystemBackup, op: OperationContext) -> JSON:
    """Packs files and folders into an archive, reads it back, and only then gives it its name."""
    sources = [op.permit.local_path(path) for path in params.paths]
    target = op.permit.local_path(params.destination)
    if params.level is not None and params.level > 9 and params.format != "tar.zst":
        raise OperationError(TaskErrorCode.VALIDATION_OUT_OF_RANGE, f"level: {params.format} knows 1 to 9")
    if op.attempt > 1 and not params.overwrite and target.exists() and made_by(target, params.format) == op.key:
        return {
            "archive": str(target),
            "size": target.stat().st_size,
            "already_done": True,
        }  # by an attempt that could not say so
    op.progress(0.0, "looking at what there is", TaskStatus.PREPARING)
    total = _measure(sources, target, params, op)
    work = _Work(op, total)
    with new_file(target, op.key, overwrite=params.overwrite) as part:
        op.progress(0.05, "writing the archive", TaskStatus.RUNNING)
        written = Digest()
        with create(part, params.format, params.level, comment=op.key) as archive:
            for source in sources:
                _pack(source, target, part, archive, written, params, work)
        op.progress(0.05 + _WRITTEN, "reading the archive back", TaskStatus.VALIDATING)
        size = part.seek(0, os.SEEK_END)
        _verify(part, params.format, written, op)
        checksum = _checksum(part, params.checksum, op)
    op.log(f"{work.files} files of {work.done} bytes became {size} bytes in {shown(target)}")
    found = {"archive": shown(target), "format": params.format, "size": size, "files": work.files, "folders": work.folders}
    found |= {"links": work.links, "bytes": work.done, "verified": True, **checksum}
    # Neither files nor folders nor links: sockets, pipes, devices. And files that grew shorter while they were read.
    return {**found, "skipped": work.skipped[:_NAMED], "changed": work.changed[:_NAMED]}


def _measure(sources: list[Path], target: Path, params: SystemBackup, op: OperationContext) -> int:
    """The bytes of all files. Raises OperationError (SYSTEM_DISK_SPACE) where they would not fit uncompressed."""
    skip = matcher(params.exclude)
    total = 0
    for source in sources:
        total += sum(entry.state.st_size for entry in walk(source, op.checkpoint, skip) if entry.is_file and entry.path != target)
    free = free_bytes(target.parent)
    if params.check_space and total > free:
        raise OperationError(
            TaskErrorCode.SYSTEM_DISK_SPACE,
            f"the files take {total} bytes, and {free} are free in {shown(target.parent)} (check_space=false tries it)",
            details={"needed": total, "free": free},
        )
    return total


class _Content:
    """A file as it goes into the archive: hashed, counted, and exactly as long as it was said to be."""

    def __init__(self, file: BinaryIO, size: int, work: _Work) -> None:
        self._file = file
        self._left = size
        self._work = work
        self.hash = hashlib.sha256()
        self.grew_shorter = False

    def read(self, count: int = -1, /) -> bytes:
        count = self._left if count < 0 else min(count, self._left)
        if count == 0:
            return b""
        block = b"" if self.grew_shorter else self._file.read(min(count, BLOCK))
        if not block:  # as tar does: zeros take the place of what is gone
            self.grew_shorter = True
            block = bytes(min(count, BLOCK))
        self.hash.update(block)
        self._left -= len(block)
        self._work.read(len(block))
        return block


def _pack(
    source: Path, target: Path, part: BinaryIO, archive: Archive, written: Digest, params: SystemBackup, work: _Work
) -> None:
    """Puts a path, and all beneath it, into the archive; the archive itself is left out."""
    own = os.fstat(part.fileno())
    for entry in walk(source, work.op.checkpoint, matcher(params.exclude)):
        if entry.path == target or (entry.state.st_dev, entry.state.st_ino) == (own.st_dev, own.st_ino):
            continue
        if entry.path in work.op.permit.config.own_files:  # keys and the like, wherever they lie
            work.skipped.append(shown(entry.path))
            continue
        name = stored_name(str(entry.path).strip("/") or ".", params.format)
        if entry.is_folder:
            archive.folder(name, entry.state)
            written.add("folder", name)
            work.folders += 1
        elif entry.is_link:
            leads_to = os.readlink(entry.name, dir_fd=entry.folder)
            archive.link(name, entry.state, leads_to)
            written.add("link", name, os.fsencode(leads_to))
            work.links += 1
        elif entry.is_file:
            _pack_file(entry, name, archive, written, work)
        else:
            work.skipped.append(shown(entry.path))


def _pack_file(entry: Entry, name: str, archive: Archive, written: Digest, work: _Work) -> None:
    try:
        file = open_regular(entry.name, entry.folder, entry.path)
    except FileNotFoundError:
        work.skipped.append(shown(entry.path))  # gone since it was listed
        return
    with file:
        state = os.fstat(file.fileno())
        content = _Content(file, state.st_size, work)
        archive.file(name, state, content)
    written.add("file", name, content.hash.digest())
    work.files += 1
    if content.grew_shorter:
        work.changed.append(shown(entry.path))


def _verify(part: BinaryIO, format_: str, written: Digest, op: OperationContext) -> None:
    """Raises OperationError (DATA_FILE_CORRUPTED) where the archive does not give back what went into it."""
    found = Digest()
    try:
        for kind, name, content in read_back(part, format_):
            op.checkpoint()
            if isinstance(content, bytes):
                found.add(kind, name, content)
                continue
            digest = hashlib.sha256()
            while block := content.read(BLOCK):
                op.checkpoint()
                digest.update(block)
            found.add(kind, name, digest.digest())
            op.progress(0.05 + _WRITTEN + 0.2 * found.entries / max(1, written.entries))
    except BROKEN as exc:
        raise OperationError(TaskErrorCode.DATA_FILE_CORRUPTED, f"the archive cannot be read back: {exc}") from None
    if found != written:
        raise OperationError(TaskErrorCode.DATA_FILE_CORRUPTED, "the archive does not give back what went into it")


def _checksum(part: BinaryIO, name: str, op: OperationContext) -> JSON:
    if name == "none":
        return {}
    digest = hashlib.new(name)
    part.seek(0)
    while block := part.read(BLOCK):
        op.checkpoint()
        digest.update(block)
    return {"checksum": f"{name}:{digest.hexdigest()}"}
