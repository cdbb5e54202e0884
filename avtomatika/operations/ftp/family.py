"""The family, and what a server's reply means: by its three digits, never by its words."""

from __future__ import annotations

import ftplib
import socket
import ssl

from avtomatika.errors import ErrorCode
from avtomatika.operations.base import Family
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError

#: What is known from the digits alone. What is not here depends on what was asked.
_MEANINGS = {
    421: TaskErrorCode.FTP_CONNECTION_FAILED,
    430: TaskErrorCode.FTP_AUTHENTICATION_FAILED,
    452: TaskErrorCode.SYSTEM_DISK_SPACE,
    501: TaskErrorCode.FTP_INVALID_PATH,
    530: TaskErrorCode.FTP_AUTHENTICATION_FAILED,
    532: TaskErrorCode.FTP_AUTHENTICATION_FAILED,
    552: TaskErrorCode.SYSTEM_DISK_SPACE,
}
#: Refusals that have other causes than that a file is not to be gone on with: ProFTPD says 451 for that, others 501, 502, 550.
_OF_OTHER_CAUSES = frozenset({421, 425, 426, 430, 452, 530, 532, 552})
_MOST_TEXT = 300


def digits(exc: BaseException) -> int:
    """The three digits of a refusal; 0 for what is no reply of FTP."""
    text = str(exc)[:3]
    return int(text) if text.isascii() and text.isdigit() else 0


def refuses_resume(exc: BaseException) -> bool:
    """Whether a server that was asked to go on with a file may do so from the file's beginning."""
    return digits(exc) not in _OF_OTHER_CAUSES


def shown(text: str) -> str:
    """A server's text as it may be shown: without control characters, and short."""
    return "".join(char if char.isprintable() else " " for char in text)[:_MOST_TEXT].strip()


def meaning(exc: ftplib.Error, otherwise: TaskErrorCode) -> OperationError:
    """What a refusal means; `otherwise` where its digits do not say: of those, 4xx may work at another time, 5xx will not."""
    number = digits(exc)
    code = _MEANINGS.get(number, otherwise)
    kind = None
    if number not in _MEANINGS:
        kind = ErrorCode.TRANSIENT if isinstance(exc, ftplib.error_temp) else ErrorCode.PERMANENT
    return OperationError(code, f"the server answered: {shown(str(exc))}", details={"reply": number}, kind=kind)


def judge(exc: BaseException) -> OperationError | None:
    match exc:
        case ftplib.error_temp() | ftplib.error_perm() | ftplib.error_reply():
            return meaning(exc, TaskErrorCode.EXTERNAL_SERVICE_ERROR)
        case ftplib.Error():
            return OperationError(TaskErrorCode.FTP_CONNECTION_FAILED, f"this is no FTP: {shown(str(exc))}")
        case ssl.SSLCertVerificationError():
            why = getattr(exc, "verify_message", "it is not trusted")
            return OperationError(TaskErrorCode.NETWORK_SSL_ERROR, f"the certificate of the server is refused: {why}")
        case socket.gaierror():
            return OperationError(TaskErrorCode.FTP_CONNECTION_FAILED, f"the name of the host cannot be resolved: {exc.strerror}")
        case TimeoutError():
            return OperationError(TaskErrorCode.FTP_CONNECTION_FAILED, "the server did not answer in time")
        case EOFError():
            return OperationError(TaskErrorCode.FTP_CONNECTION_FAILED, "the server closed the connection")
        case OSError():
            return OperationError(TaskErrorCode.FTP_CONNECTION_FAILED, f"the connection failed: {exc.strerror or exc}")
    return None


family = Family("ftp", judge=judge)
