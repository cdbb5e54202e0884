"""What goes wrong with connections, as types: paramiko says much of it in words only."""

from __future__ import annotations

from avtomatika.errors import AvtomatikaError, ErrorCode


class ConnectionFailed(AvtomatikaError):
    """No connection, or it was cut.

    Args:
        message: with host and port.
        permanent: it will be the same the next time: no common algorithm, no such service.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.kind = ErrorCode.PERMANENT if permanent else ErrorCode.TRANSIENT


class AuthenticationFailed(AvtomatikaError):
    """The peer refused the credential, or it cannot be used. It is not tried again: accounts are locked that way."""


class HostKeyMismatch(AvtomatikaError):
    """The peer is not the machine that is known under this name, or none is known.

    Attributes:
        details: host, and the fingerprints that were shown and expected.
    """

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = details
