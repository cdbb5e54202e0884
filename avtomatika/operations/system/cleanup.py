"""Old files are deleted: counted first, never through a link, and only when it is said that this is no rehearsal."""

from __future__ import annotations

import errno
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.files import open_folder, shown
from avtomatika.operations.policy import Permit
from avtomatika.operations.system.family import family
from avtomatika.operations.system.walk import matcher, walk
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
#: Files that a result names.
_NAMED = 1000


def seconds_of(text: str) -> int:
    """``90s``, ``15m``, ``12h``, ``7d``, ``2w`` as seconds."""
    return int(text[:-1]) * _UNITS[text[-1]]


def _checked_age(text: str) -> str:
    if re.fullmatch(r"[0-9]{1,6}[smhdw]", text) is None:
        raise ValueError("write a number and one of s, m, h, d, w: 12h, 7d")
    return text


class SystemCleanup(Params):
    """Which files may go. All paths lie beneath the policy's `local_roots`."""

    paths: list[str] = Field(min_length=1, max_length=100)
    older_than: Annotated[str, AfterValidator(_checked_age)] = Field(description="since the last change of the file's content")
    pattern: str = Field("*", min_length=1, max_length=1000, description="shell pattern of the name, or of the path below")
    exclude: list[str] = Field(default_factory=list, max_length=1000)
    recursive: bool = True
    max_delete: int = Field(1000, ge=1, le=1_000_000, description="with more than that, nothing is deleted")
    dry_run: bool = True


@dataclass(frozen=True, slots=True)
class _Old:
    """A file that is to go, as it was when it was found."""

    path: Path
    inode: tuple[int, int]
    size: int
    modified: int


def _guard(params: SystemCleanup, permit: Permit) -> None:
    for path in params.paths:
        permit.local_path(path)


@family.operation("system_cleanup", timeout_seconds=900, max_retries=1, guard=_guard)
def system_cleanup(params: SystemCleanup, op: OperationContext) -> JSON:
    """Deletes regular files that are old; links, folders and all else stay. A dry run says what it would delete."""
    now = time.time()
    op.progress(0.0, "looking for old files", TaskStatus.PREPARING)
    old = _find(params, op, now - seconds_of(params.older_than))
    found: JSON = {
        "dry_run": params.dry_run,
        "matched": len(old),
        "bytes": sum(file.size for file in old),
        "files": [
            {"path": shown(file.path), "size": file.size, "age_seconds": int(now - file.modified / 1e9)} for file in old[:_NAMED]
        ],
        "truncated": len(old) > _NAMED,
    }
    if params.dry_run:
        op.log(f"{len(old)} files would be deleted")
        return {**found, "deleted": 0, "deleted_bytes": 0, "failed": []}
    return {**found, **_delete(old, op)}


def _find(params: SystemCleanup, op: OperationContext, before: float) -> list[_Old]:
    fits, skip = matcher([params.pattern]), matcher(params.exclude)
    old: dict[Path, _Old] = {}
    for given in params.paths:
        top = op.permit.local_path(given)
        for entry in walk(top, op.checkpoint, skip, deep=params.recursive):
            state = entry.state
            if not entry.is_file or state.st_mtime >= before or not fits(entry.relative):
                continue
            if entry.path in op.permit.config.own_files:
                continue
            old[entry.path] = _Old(entry.path, (state.st_dev, state.st_ino), state.st_size, state.st_mtime_ns)
            if len(old) > params.max_delete:
                raise OperationError(
                    TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
                    f"more than {params.max_delete} files fit, so none is deleted: narrow the pattern, or raise max_delete",
                )
    return list(old.values())


def _delete(old: list[_Old], op: OperationContext) -> JSON:
    """Each file goes only where it is still the one that was found. What cannot be deleted is named, and the others go on."""
    deleted = freed = 0
    failed: list[JSON] = []
    denied = 0
    op.progress(0.5, "deleting", TaskStatus.RUNNING)
    for number, file in enumerate(old):
        op.checkpoint()
        try:
            with open_folder(file.path.parent) as folder:
                state = os.stat(file.path.name, dir_fd=folder, follow_symlinks=False)
                if ((state.st_dev, state.st_ino), state.st_mtime_ns) != (file.inode, file.modified):
                    failed.append({"path": shown(file.path), "reason": "it has changed since it was found"})
                    continue
                os.unlink(file.path.name, dir_fd=folder)
        except FileNotFoundError:
            continue  # somebody else was faster
        except OSError as exc:
            failed.append({"path": shown(file.path), "reason": exc.strerror or type(exc).__name__})
            denied += exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            continue
        deleted += 1
        freed += file.size
        op.progress(0.5 + 0.5 * (number + 1) / len(old))
    op.log(f"{deleted} files were deleted, {freed} bytes; {len(failed)} were not")
    if denied and not deleted:
        raise OperationError(
            TaskErrorCode.SYSTEM_PERMISSION_DENIED,
            "none of the files may be deleted by this user",
            details={"failed": failed[:100]},
        )
    return {"deleted": deleted, "deleted_bytes": freed, "failed": failed[:_NAMED]}
