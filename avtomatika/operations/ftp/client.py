"""ftplib's client, made strict: one TLS session for both channels, checked peers, bounded replies, and a way to stop it."""

from __future__ import annotations

import base64
import contextlib
import ftplib
import hashlib
import re
import socket
import ssl

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import HostEntry
from avtomatika.operations.errors import OperationError

#: Lines of one reply; a server could go on for ever.
_MOST_LINES = 1000
#: What TLS raises when the other side is just gone.
_GONE = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def tls_context(host: HostEntry) -> ssl.SSLContext:
    """Verifies the certificate by the host's ``ca_file``, or the machine's authorities; a pinned one by its fingerprint alone."""
    context = ssl.create_default_context(cafile=None if host.ca_file is None else str(host.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if host.fingerprint is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def pin(fingerprint: str) -> bytes:
    """The SHA-256 of a certificate, out of ``SHA256:…`` in base64 or in hexadecimal digits, with colons or without.

    Raises:
        OperationError: CONFIGURATION_ERROR for anything else.
    """
    text = fingerprint.removeprefix("SHA256:")
    plain = text.replace(":", "")
    with contextlib.suppress(ValueError):
        found = bytes.fromhex(plain) if re.fullmatch("[0-9A-Fa-f]{64}", plain) else base64.b64decode(text + "=", validate=True)
        if len(found) == 32:
            return found
    raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, "the fingerprint of the host is no SHA-256: write SHA256:<base64>")


class Client(ftplib.FTP_TLS):
    """A control connection and at most one data connection.

    Args:
        host: whose certificate is expected.
    """

    def __init__(self, host: HostEntry, *, timeout: float, encoding: str) -> None:
        super().__init__(context=tls_context(host), timeout=timeout, encoding=encoding)
        self.host = host.address
        self._pin = None if host.fingerprint is None else pin(host.fingerprint)
        self._data: socket.socket | None = None
        self._busy: socket.socket | None = None
        self.is_private = False

    def watch(self, sock: socket.socket) -> None:
        """From now on `stop` ends this one, too: one that is about to be connected, or to speak TLS."""
        self._busy = sock

    def begin(self, sock: socket.socket, *, implicit: bool) -> None:
        """Takes over a connected socket, and reads the greeting."""
        sock.settimeout(self.timeout)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.af = sock.family
        self._use(self._protected(sock) if implicit else sock)
        self.welcome = self.getresp()

    def auth(self) -> str:
        """AUTH TLS. What came before it, and was not asked for, is thrown away."""
        answer = self.voidcmd("AUTH TLS")
        assert isinstance(self.sock, socket.socket)
        self._use(self._protected(self.sock))
        return answer

    def prot_p(self) -> str:
        answer = super().prot_p()
        self.is_private = True
        return answer

    def stop(self) -> None:
        """Ends both connections, from any thread: whoever waits for them wakes up."""
        for sock in (self._busy, self._data, self.sock):
            if sock is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown(), which would turn the socket into a plain one under the hands of its reader.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _use(self, sock: socket.socket) -> None:
        self.sock = sock
        # "\n" alone ends a line: a name with "\r" in it makes no second reply.
        self.file = sock.makefile("r", encoding=self.encoding, errors="replace", newline="\n")

    def _protected(self, sock: socket.socket, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        wrapped = self.context.wrap_socket(sock, server_hostname=self.host, session=session, do_handshake_on_connect=False)
        self.watch(wrapped)
        try:
            wrapped.do_handshake()
        except (ssl.SSLCertVerificationError, *_GONE):
            wrapped.close()
            raise
        except ssl.SSLError as exc:
            wrapped.close()
            raise OperationError(TaskErrorCode.NETWORK_SSL_ERROR, f"no TLS connection came about: {exc.reason}") from exc
        except OSError:
            wrapped.close()
            raise
        if self._pin is not None and hashlib.sha256(wrapped.getpeercert(True) or b"").digest() != self._pin:
            wrapped.close()
            raise OperationError(TaskErrorCode.NETWORK_SSL_ERROR, "the certificate of the server is not the one that is pinned")
        return wrapped

    # What ftplib calls

    def getmultiline(self) -> str:
        lines = [self.getline()]
        if lines[0][3:4] == "-" and lines[0][:3].isdigit():
            end = lines[0][:3] + " "
            while not (lines[-1].startswith(end) or lines[-1] == end.rstrip()) or len(lines) == 1:
                if len(lines) >= _MOST_LINES:
                    raise ftplib.Error(f"a reply of more than {_MOST_LINES} lines")
                lines.append(self.getline())
        return "\n".join(lines)

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        conn, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        self._data = conn
        assert self.sock is not None
        if conn.getpeername()[0] != self.sock.getpeername()[0]:  # active mode: anybody could have connected
            conn.close()
            raise OperationError(TaskErrorCode.FTP_CONNECTION_FAILED, "the data connection came from another machine")
        if self.is_private:
            # The control channel's session: it shows that both channels have the same two ends, and many servers insist on it.
            conn = self._data = self._protected(conn, getattr(self.sock, "session", None))
        return conn, size
