"""What a failure on either side of a transfer means."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def refused(message: str, **details: object) -> OperationError:
    """What does not get better by trying again."""
    return OperationError(TaskErrorCode.SCP_TRANSFER_FAILED, message, details=details, kind=ErrorCode.PERMANENT)


def changed(what: str) -> OperationError:
    return OperationError(
        TaskErrorCode.SCP_TRANSFER_FAILED, f"{what} changed while it was copied: nothing of it is kept", details={"changed": what}
    )


def disk_full(where: str, **details: object) -> OperationError:
    return OperationError(TaskErrorCode.SCP_DISK_SPACE, f"no space is left for {where}", details=details)


def of_local(exc: OSError, what: str) -> OperationError:
    """A failure of this machine's files."""
    said = exc.strerror or str(exc)
    if exc.errno in _FULL:
        return disk_full(what, errno=exc.errno)
    if exc.errno in _FORBIDDEN:
        return OperationError(TaskErrorCode.SCP_PERMISSION_DENIED, f"{what}: {said}", details={"errno": exc.errno})
    if exc.errno == errno.ENOENT:
        return OperationError(TaskErrorCode.SCP_FILE_NOT_FOUND, f"{what}: {said}", kind=ErrorCode.INVALID_INPUT)
    if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
        return OperationError(
            TaskErrorCode.SCP_PERMISSION_DENIED, f"{what}: a symbolic link, or no directory, is in its path, and is not followed"
        )
    return refused(f"{what}: {said}", errno=exc.errno)


def of_remote(exc: BaseException, what: str) -> OperationError | None:
    """A failure of a host's files, or of the connection to it."""
    from paramiko import SSHException
    from paramiko.sftp import SFTPError

    match exc:
        case FileNotFoundError():
            return OperationError(TaskErrorCode.SCP_FILE_NOT_FOUND, f"{what}: no such file or directory")
        case PermissionError():
            return OperationError(TaskErrorCode.SCP_PERMISSION_DENIED, f"{what}: permission denied")
        case TimeoutError():
            return OperationError(TaskErrorCode.SCP_TRANSFER_FAILED, f"{what}: {exc.strerror or 'no answer in time'}")
        case EOFError() | SSHException() | ConnectionError():
            return OperationError(TaskErrorCode.SCP_TRANSFER_FAILED, f"{what}: the connection was cut")
        case SFTPError():
            return refused(f"{what}: {exc}")
        case OSError() if getattr(exc, "status", None) is not None:
            return refused(f"{what}: the server says: {exc.strerror or 'failure'}", status=getattr(exc, "status", None))
        case OSError():  # of a closed socket or channel
            return OperationError(TaskErrorCode.SCP_TRANSFER_FAILED, f"{what}: the connection was cut")
    return None


@contextmanager
def local_failures(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise of_local(exc, what) from exc


@contextmanager
def remote_failures(what: str) -> Iterator[None]:
    try:
        yield
    except OperationError:
        raise
    except Exception as exc:
        known = of_remote(exc, what)
        if known is None:
            raise
        raise known from exc
