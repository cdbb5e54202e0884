"""Files of this machine, as operations open them: a link that appears after the policy was asked leads nowhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_LIMITED = {errno.EFBIG, errno.EMFILE, errno.ENFILE}


def judge_os(exc: BaseException, missing: TaskErrorCode = TaskErrorCode.VALIDATION_INVALID_PARAMS) -> OperationError | None:
    """What an operating system's error means, by its number; `missing` is the code of a path that is not there."""
    if isinstance(exc, MemoryError):
        return OperationError(TaskErrorCode.SYSTEM_MEMORY_LIMIT, "there is not enough memory")
    if isinstance(exc, RecursionError):
        return OperationError(TaskErrorCode.SYSTEM_RESOURCE_LIMIT, "it is nested too deeply")
    if not isinstance(exc, OSError):
        return None
    where = f": {shown(exc.filename)}" if isinstance(exc.filename, str | bytes) else ""
    why = f"{exc.strerror or type(exc).__name__}{where}"
    match exc.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.EISDIR | errno.ELOOP:
            return OperationError(missing, why, kind=ErrorCode.INVALID_INPUT)
        case errno.EEXIST:
            return OperationError(TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, f"{why}; overwrite=true replaces it")
        case number if number in _FULL:
            return OperationError(TaskErrorCode.SYSTEM_DISK_SPACE, why)
        case number if number in _DENIED:
            return OperationError(TaskErrorCode.SYSTEM_PERMISSION_DENIED, why)
        case number if number in _LIMITED:
            return OperationError(TaskErrorCode.SYSTEM_RESOURCE_LIMIT, why)
        case errno.ENOMEM:
            return OperationError(TaskErrorCode.SYSTEM_MEMORY_LIMIT, why)
    return None


def shown(path: str | bytes | Path) -> str:
    """A path as text that any encoding can hold: what is not UTF-8 in it is written as ``\\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """A descriptor of a folder, opened one component at a time, no link followed (the path has to be a resolved one)."""
    descriptor = os.open("/", _FOLDER)
    try:
        for part in path.parts[1:]:
            try:
                inner = os.open(part, _FOLDER, dir_fd=descriptor)
            except OSError as exc:
                raise OSError(exc.errno, os.strerror(exc.errno or 0), str(path)) from None
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(name: str, folder: int, path: str | Path) -> BinaryIO:
    """A regular file of an open folder, for reading; OSError for anything else. `path` is what errors call it."""
    try:
        # Without O_NONBLOCK, a FIFO would wait for somebody who writes to it.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as exc:
        raise OSError(exc.errno, os.strerror(exc.errno or 0), str(path)) from None
    file = os.fdopen(descriptor, "rb")
    try:
        if not _is_regular(file):
            raise OSError(errno.EISDIR, "no regular file", str(path))
    except BaseException:
        file.close()
        raise
    return file


def open_file(path: Path) -> BinaryIO:
    """A regular file for reading, no link followed."""
    with open_folder(path.parent) as folder:
        return open_regular(path.name, folder, path)


def _is_regular(file: BinaryIO) -> bool:
    return os.fstat(file.fileno()).st_mode & 0o170000 == 0o100000


@contextmanager
def new_file(path: Path, key: str, *, overwrite: bool = True, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file that appears under its name when the block has ended well, whole and on the disk; else nothing of it stays.

    It is written beside it, as ``.<name>.part-<key>``; one that a killed attempt has left there is taken over.

    Raises:
        FileExistsError: it is there already, and is not to be overwritten.
    """
    with open_folder(path.parent) as folder:
        part = f".{path.name}.part-{key}"
        if not overwrite and _exists(path.name, folder):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(part, flags, mode, dir_fd=folder)
        except OSError as exc:
            raise OSError(exc.errno, os.strerror(exc.errno or 0), str(path)) from None
        try:
            with os.fdopen(descriptor, "w+b") as file:
                try:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                except BaseException:
                    with suppress(OSError):
                        file.close()  # what is still buffered may not fit, either
                    raise
            _publish(part, path, folder, overwrite)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)
            raise
        os.fsync(folder)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _publish(part: str, path: Path, folder: int, overwrite: bool) -> None:
    if overwrite:
        os.replace(part, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    # Unlike a rename, a link never takes the place of a file that has come meanwhile.
    os.link(part, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    os.unlink(part, dir_fd=folder)


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write there."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
