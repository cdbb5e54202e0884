"""A real FTP server with TLS, on a thread, with faults to choose from."""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import TLS_DTPHandler, TLS_FTPHandler
from pyftpdlib.log import config_logging
from pyftpdlib.servers import ThreadedFTPServer

PASSWORD = "pass-word-of-the-tests"

config_logging(level=logging.ERROR)


@dataclass(frozen=True)
class Certificate:
    """Of 127.0.0.1, signed by itself: a PEM file with its key, and the SHA-256 of it in hexadecimal digits."""

    file: Path
    fingerprint: str


def make_certificate(folder: Path, name: str = "127.0.0.1", *, days: int = 30) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        alternative = x509.DNSName(name)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}-{days}.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Certificate(file, certificate.fingerprint(hashes.SHA256()).hex())


class _Limited:
    """A file on a disk that becomes full."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, chunk: bytes) -> None:
        self._room -= len(chunk)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._file.write(chunk)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Data(TLS_DTPHandler):
    """Remembers whether its session is the control channel's; has a full disk where it is told."""

    def handle_ssl_established(self) -> None:
        self.cmd_channel.reused.append(bool(SSL._lib.SSL_session_reused(self.socket._ssl)))

    def enable_receiving(self, type: str, cmd: str) -> None:
        if self.cmd_channel.full_at is not None:
            self.file_obj = _Limited(self.file_obj, self.cmd_channel.full_at)
        super().enable_receiving(type, cmd)

    def handle_error(self) -> None:
        if isinstance(self.file_obj, _Limited):
            self._resp = ("552 No room.", lambda *_: None)
            self._error = True
            self.close()
        else:
            super().handle_error()


class Handler(TLS_FTPHandler):
    """One class for each server: what it does is on the class.

    Attributes:
        seen: every command, with its argument.
        reused: of each data connection: whether it went on with the control channel's TLS session.
        unknown: commands that it does not know.
        answers: to commands, instead of what they do.
        full_at: bytes after which a disk is full.
        hashes: that it offers: none, ``HASH`` or ``XSHA256``.
        no_resume: its answer to a transfer that is to begin in the middle of a file.
        implicit: TLS from the first byte.
        pasv_lie: an address that PASV names.
    """

    seen: list[str]
    reused: list[bool]
    unknown: set[str] = set()
    answers: dict[str, str] = {}
    full_at: int | None = None
    hashes: str = ""
    no_resume: str | None = None
    implicit = False
    pasv_lie: str | None = None
    dtp_handler = Data
    auth_failed_timeout = 0
    proto_cmds = {
        **TLS_FTPHandler.proto_cmds,
        "HASH": {"perm": "r", "auth": True, "arg": True, "help": ""},
        "XSHA256": {"perm": "r", "auth": True, "arg": True, "help": ""},
    }

    def handle(self) -> None:
        if self.implicit:
            self.secure_connection(self.ssl_context)
        else:
            super().handle()

    def handle_ssl_established(self) -> None:
        if self.implicit:
            super().handle()

    def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
        self.seen.append("PASS" if cmd == "PASS" else line)
        if cmd in self.unknown:
            self.respond(f"502 {cmd} is not known here.")
        elif self.no_resume is not None and cmd in ("STOR", "RETR") and self._restart_position:
            self._restart_position = 0
            self.respond(self.no_resume)
        elif cmd in self.answers:
            self.respond(self.answers[cmd])
        else:
            super().pre_process_command(line, cmd, arg)

    def push(self, data: str) -> None:
        if data.startswith(" ") and " UTF8" in data:  # the lines of FEAT
            kept = [line for line in data.splitlines(keepends=True) if line.split()[0] not in self.unknown]
            data = "".join(kept) + {"HASH": " HASH SHA-1;SHA-256*;MD5\r\n", "XSHA256": " XSHA256\r\n"}.get(self.hashes, "")
        super().push(data)

    def respond(self, resp: str, *args: Any, **kwargs: Any) -> None:
        if resp.startswith("227") and self.pasv_lie is not None:
            numbers = resp[resp.index("(") + 1 : resp.index(")")].split(",")
            resp = f"227 Entering passive mode ({self.pasv_lie.replace('.', ',')},{numbers[4]},{numbers[5]})."
        super().respond(resp, *args, **kwargs)

    def ftp_HASH(self, path: str) -> None:
        data = Path(path).read_bytes()
        self.respond(f"213 SHA-256 0-{len(data)} {hashlib.sha256(data).hexdigest()} {Path(path).name}")

    def ftp_XSHA256(self, path: str) -> None:
        self.respond(f"250 {hashlib.sha256(Path(path).read_bytes()).hexdigest().upper()}")

    def ftp_OPTS(self, line: str) -> None:
        if line.startswith("HASH"):
            self.respond("200 SHA-256")
        else:
            super().ftp_OPTS(line)


@dataclass
class FtpServer:
    """
    Attributes:
        root: what its account sees as ``/``.
        handler: this server's own class, to be changed as a test likes.
    """

    port: int
    root: Path
    handler: type[Handler]

    def commands(self, *names: str) -> list[str]:
        return [line for line in self.handler.seen if line.split(" ", 1)[0].upper() in names]


@contextmanager
def ftp_server(root: Path, certificate: Certificate, *, perm: str = "elradfmwMT", **behaviour: Any) -> Iterator[FtpServer]:
    """Runs until the block ends. `behaviour` is what `Handler` has as attributes."""
    authorizer = DummyAuthorizer()
    authorizer.add_user("ada", PASSWORD, str(root), perm=perm)
    values = {
        "seen": [],
        "reused": [],
        "authorizer": authorizer,
        "certfile": str(certificate.file),
        "banner": "Welcome.",
        "ssl_context": None,
        "tls_control_required": not behaviour.pop("plain", False),
    }
    handler = type("OwnHandler", (Handler,), {**values, **behaviour})
    server = ThreadedFTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"timeout": 0.05}, name="ftp", daemon=True)
    thread.start()
    try:
        yield FtpServer(server.socket.getsockname()[1], root, handler)
    finally:
        server.close_all()
        thread.join(10)
