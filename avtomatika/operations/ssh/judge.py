"""What the exceptions of SSH mean, by their types; never by their words."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.failures import AuthenticationFailed, ConnectionFailed, HostKeyMismatch


@dataclass(frozen=True, slots=True)
class Codes:
    """Which code each cause has in a group of operations."""

    connection: TaskErrorCode
    authentication: TaskErrorCode
    timeout: TaskErrorCode
    not_found: TaskErrorCode
    permission: TaskErrorCode
    failed: TaskErrorCode


SSH_CODES = Codes(
    connection=TaskErrorCode.SSH_CONNECTION_FAILED,
    authentication=TaskErrorCode.SSH_AUTHENTICATION_FAILED,
    timeout=TaskErrorCode.SSH_CONNECTION_FAILED,
    not_found=TaskErrorCode.SSH_COMMAND_FAILED,
    permission=TaskErrorCode.SSH_COMMAND_FAILED,
    failed=TaskErrorCode.SSH_CONNECTION_FAILED,
)
SCP_CODES = Codes(
    connection=TaskErrorCode.SCP_CONNECTION_FAILED,
    authentication=TaskErrorCode.SCP_AUTHENTICATION_FAILED,
    timeout=TaskErrorCode.SCP_TRANSFER_FAILED,
    not_found=TaskErrorCode.SCP_FILE_NOT_FOUND,
    permission=TaskErrorCode.SCP_PERMISSION_DENIED,
    failed=TaskErrorCode.SCP_TRANSFER_FAILED,
)


def judge(codes: Codes) -> Callable[[BaseException], OperationError | None]:
    """The judge of the operations with these codes."""

    def meaning(exc: BaseException) -> OperationError | None:
        return _own(exc, codes) or _of_paramiko(exc, codes) or _of_the_system(exc, codes)

    return meaning


def _own(exc: BaseException, codes: Codes) -> OperationError | None:
    match exc:
        case HostKeyMismatch():
            return OperationError(TaskErrorCode.SSH_HOST_KEY_MISMATCH, str(exc), details=dict(exc.details))
        case AuthenticationFailed():
            return OperationError(codes.authentication, str(exc))
        case ConnectionFailed():
            return OperationError(codes.connection, str(exc), kind=exc.kind)
    return None


def _of_paramiko(exc: BaseException, codes: Codes) -> OperationError | None:
    from paramiko import ssh_exception as ssh

    match exc:
        case ssh.BadHostKeyException():
            return OperationError(TaskErrorCode.SSH_HOST_KEY_MISMATCH, "the host key is not the one that is known")
        case ssh.AuthenticationException():
            return OperationError(codes.authentication, f"the authentication failed: {exc}")
        case ssh.IncompatiblePeer():
            return OperationError(codes.connection, f"no algorithm in common: {exc}", kind=ErrorCode.PERMANENT)
        case ssh.ChannelException():
            return OperationError(codes.connection, f"the peer opens no channel: {exc.text}", details={"reason": exc.code})
        case ssh.SSHException() | EOFError():
            return OperationError(codes.connection, f"the connection was cut: {exc or 'end of file'}")
    return None


def _of_the_system(exc: BaseException, codes: Codes) -> OperationError | None:
    match exc:
        case socket.gaierror():
            return OperationError(codes.connection, f"the name cannot be resolved: {exc.strerror}")
        case FileNotFoundError():
            return OperationError(codes.not_found, f"no such file or directory: {exc.filename or exc.strerror or exc}")
        case PermissionError():
            return OperationError(codes.permission, f"permission denied: {exc.filename or exc.strerror or exc}")
        case TimeoutError():
            return OperationError(codes.timeout, "no answer in time")
        case ConnectionError():
            return OperationError(codes.connection, f"the connection was cut: {exc.strerror or exc}")
        case OSError():
            return OperationError(codes.failed, f"{exc.strerror or exc}")
    return None
