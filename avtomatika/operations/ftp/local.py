"""Files on this machine: opened without following links, failures told apart by errno, names taken at once."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP)
#: Of file systems without hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


@contextlib.contextmanager
def naming(path: Path, otherwise: TaskErrorCode) -> Iterator[None]:
    """Says of an OSError what it means for this file: it is none of the connection's."""
    try:
        yield
    except OSError as exc:
        raise _failure(exc, path, otherwise) from exc


def _failure(exc: OSError, path: Path, otherwise: TaskErrorCode) -> OperationError:
    said = f"{path} on the worker: {exc.strerror or exc}"
    details = {"path": str(path), "errno": exc.errno}
    if isinstance(exc, FileNotFoundError):
        return OperationError(TaskErrorCode.FTP_FILE_NOT_FOUND, said, details=details, kind=ErrorCode.INVALID_INPUT)
    if exc.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
        return OperationError(TaskErrorCode.FTP_INVALID_PATH, said, details=details, kind=ErrorCode.INVALID_INPUT)
    if exc.errno in _FULL:
        return OperationError(TaskErrorCode.SYSTEM_DISK_SPACE, said, details=details)
    if exc.errno in _FORBIDDEN:
        return OperationError(TaskErrorCode.SYSTEM_PERMISSION_DENIED, said, details=details)
    return OperationError(otherwise, said, details=details)


def open_source(path: Path) -> BinaryIO:
    """A regular file to read; nothing else is waited for, such as a FIFO."""
    with naming(path, TaskErrorCode.FTP_UPLOAD_FAILED):
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return _regular(number, path, "rb")


def open_target(path: Path) -> BinaryIO:
    """A file to write, made where it is missing; what is in it stays."""
    with naming(path, TaskErrorCode.FTP_DOWNLOAD_FAILED):
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    return _regular(number, path, "r+b")


def _regular(number: int, path: Path, mode: str) -> BinaryIO:
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OperationError(TaskErrorCode.FTP_INVALID_PATH, f"{path} is no regular file", kind=ErrorCode.INVALID_INPUT)
    # Without a buffer: a full disk is met where it is written to, not when the file is closed.
    return cast(BinaryIO, open(number, mode, buffering=0))


def write(file: BinaryIO, block: bytes) -> None:
    """All of it."""
    left = memoryview(block)
    while left:
        left = left[file.write(left) :]


def size_of(path: Path) -> int | None:
    """None where there is nothing."""
    with naming(path, TaskErrorCode.FTP_DOWNLOAD_FAILED):
        try:
            return path.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return None


def check_space(folder: Path, wanted: int) -> None:
    """Raises OperationError (SYSTEM_DISK_SPACE) where so much does not fit: better said before than after hours."""
    with naming(folder, TaskErrorCode.FTP_DOWNLOAD_FAILED):
        free = shutil.disk_usage(folder).free
    if free < wanted:
        raise OperationError(
            TaskErrorCode.SYSTEM_DISK_SPACE,
            f"{folder} on the worker has {free} bytes left, and {wanted} are to come",
            details={"free": free, "wanted": wanted},
        )


def take_name(part: Path, final: Path, *, replace: bool) -> None:
    """Gives the part its name, at once, and makes that last.

    Raises:
        FileExistsError: there is a file of this name, and it is not to be replaced.
    """
    if replace:
        os.replace(part, final)
    else:
        try:
            os.link(part, final)
        except FileExistsError:
            raise
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            if os.path.lexists(final):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            os.replace(part, final)
        else:
            part.unlink()
    folder = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
