"""A session with a server: logged in, protected, with its questions and their answers."""

from __future__ import annotations

import contextlib
import ftplib
import hashlib
import posixpath
import re
import socket
import ssl
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ftp.client import Client
from avtomatika.operations.ftp.family import digits, meaning, shown
from avtomatika.operations.ftp.listing import Entry, parse_facts
from avtomatika.operations.ftp.params import FtpParams
from avtomatika.operations.reach import connect

BLOCK = 65536
#: The best first. What a server calls it -> what hashlib does.
_HASHES = {"SHA-512": "sha512", "SHA-256": "sha256", "SHA-1": "sha1", "MD5": "md5"}
_OLD_HASHES = {"XSHA512": "sha512", "XSHA256": "sha256", "XSHA1": "sha1", "XSHA": "sha1", "XMD5": "md5", "MD5": "md5"}
#: Seconds that a server may take for the hash of a file.
_HASH_SECONDS = 600.0
#: Seconds for the end of TLS on a data connection, which not every server answers.
_GOODBYE_SECONDS = 5.0


@dataclass(frozen=True)
class HashCommand:
    """How this server is asked for a file's hash."""

    command: str
    algorithm: str
    options: str = ""


class Session:
    """What operations ask a server. Where it refuses, they raise what ftplib does; `asking` makes an OperationError of that."""

    def __init__(self, client: Client, op: OperationContext) -> None:
        self.client = client
        self.op = op
        self.features = self._features()
        if "UTF8" in self.features and client.encoding == "utf-8":
            with contextlib.suppress(ftplib.Error):
                client.sendcmd("OPTS UTF8 ON")
        client.voidcmd("TYPE I")

    def _features(self) -> dict[str, str]:
        """What FEAT says: the name of a command -> its options."""
        try:
            answer = self.client.sendcmd("FEAT")
        except (ftplib.error_perm, ftplib.error_temp):
            return {}
        words = [line.strip().partition(" ") for line in answer.split("\n")[1:-1]]
        return {name.upper(): rest.strip() for name, _, rest in words}

    @property
    def tls(self) -> str | None:
        """The version of TLS; None without it."""
        return self.client.sock.version() if isinstance(self.client.sock, ssl.SSLSocket) else None

    # Questions

    def stat(self, path: str) -> Entry | None:
        """What the server says of one path; None where it says nothing, be it missing or hidden."""
        if "MLST" in self.features:
            with contextlib.suppress(ftplib.error_perm):
                lines = self.client.sendcmd(f"MLST {path}").split("\n")
                found = parse_facts(lines[1].strip() if len(lines) > 1 else "", posixpath.basename(path))
                return found or Entry(posixpath.basename(path))
            return None
        size = self._number(f"SIZE {path}")
        if size is None:
            return None
        return Entry(posixpath.basename(path), "file", size, self._modified(path))

    def size(self, path: str) -> int | None:
        """A file's size; None where the server says none."""
        size = self._number(f"SIZE {path}")
        if size is None and "MLST" in self.features:
            found = self.stat(path)
            size = None if found is None or found.type != "file" else found.size
        return size

    def _number(self, command: str) -> int | None:
        with contextlib.suppress(ftplib.error_perm):
            found = re.match(r"213 +(\d+)", self.client.sendcmd(command))
            return None if found is None else int(found[1])
        return None

    def _modified(self, path: str) -> str | None:
        with contextlib.suppress(ftplib.error_perm):
            return self.client.sendcmd(f"MDTM {path}")[4:].strip()
        return None

    def exists(self, path: str) -> bool | None:
        """Whether there is something of this name; None where this account cannot know."""
        if path in ("/", "", ".") or self.stat(path) is not None:
            return True
        parent, name = posixpath.split(path)
        try:
            names = {posixpath.basename(line) for line in self.lines(f"NLST {parent or '.'}")}
        except (ftplib.error_perm, ftplib.error_temp):
            return False if self.exists(parent) is False else None
        if name in names:
            return True
        # Some answer for a folder that is not there with an empty list.
        return False if names or self.exists(parent) is not None else None

    # Refusals

    @contextlib.contextmanager
    def asking(
        self, path: str, otherwise: TaskErrorCode = TaskErrorCode.EXTERNAL_SERVICE_ERROR, *, creates: bool = False
    ) -> Iterator[None]:
        """Makes an OperationError of a refusal. For 550 and 553 the server is asked once more: is it missing, or forbidden?

        Args:
            creates: it is the folder of the path that must be there.
        """
        try:
            yield
        except (ftplib.error_perm, ftplib.error_temp, ftplib.error_reply) as exc:
            raise self._refusal(exc, path, otherwise, creates) from exc

    def _refusal(self, exc: ftplib.Error, path: str, otherwise: TaskErrorCode, creates: bool) -> OperationError:
        number = digits(exc)
        if number not in (501, 550, 553):
            return meaning(exc, otherwise)
        subject = posixpath.dirname(path) if creates or number == 553 else path
        details = {"reply": number, "path": subject}
        with contextlib.suppress(ftplib.Error, OSError, EOFError):
            if self.exists(subject) is False:
                return OperationError(TaskErrorCode.FTP_FILE_NOT_FOUND, f"{subject} is not on the server", details=details)
        if number == 501:  # MLSD of a folder that is missing, and anything that is badly written
            return meaning(exc, otherwise)
        return OperationError(
            TaskErrorCode.FTP_PERMISSION_DENIED, f"the server does not allow it for {path}: {shown(str(exc))}", details=details
        )

    # Data

    @contextlib.contextmanager
    def transfer(self, command: str, rest: int | None = None) -> Iterator[socket.socket]:
        """A data connection. When the block ends well, so has the transfer: the server has said it."""
        conn = self.client.transfercmd(command, rest or None)
        try:
            yield conn
            if isinstance(conn, ssl.SSLSocket):
                # It also reads what the server has still to say: a close with that unread would reset what was sent.
                conn.settimeout(_GOODBYE_SECONDS)
                with contextlib.suppress(OSError, ValueError):
                    conn.unwrap()
        finally:
            conn.close()
        self.client.voidresp()

    def abandon(self) -> None:
        """After a transfer that was left half-way: takes the server's word on it, whatever it is."""
        with contextlib.suppress(ftplib.Error):
            self.client.voidresp()

    def lines(self, command: str, most: int = 100_000) -> Generator[str, None, None]:
        """The lines of a listing; after `most` the connection is closed."""
        try:
            with self.transfer(command) as conn, conn.makefile("rb") as file:
                for _ in range(most):
                    line = file.readline(self.client.maxline + 1)
                    if not line:
                        break
                    self.op.checkpoint()
                    if len(line) > self.client.maxline:
                        raise ftplib.Error("a line without an end")
                    yield line.decode(self.client.encoding, "backslashreplace").rstrip("\r\n")
        except GeneratorExit:
            self.abandon()
            raise

    # Hashes

    @property
    def hash_command(self) -> HashCommand | None:
        """The best that the server offers."""
        offered = {name.rstrip("*").upper() for name in self.features.get("HASH", "").split(";")}
        for name, algorithm in _HASHES.items():
            if name in offered:
                return HashCommand("HASH", algorithm, name)
        for command, algorithm in _OLD_HASHES.items():
            if command in self.features:
                return HashCommand(command, algorithm)
        return None

    def hash(self, path: str) -> tuple[str, str] | None:
        """A whole file's hash, as (algorithm, hexadecimal digits); None where the server has none to give."""
        found = self.hash_command
        if found is None:
            return None
        length = hashlib.new(found.algorithm, usedforsecurity=False).digest_size * 2
        if self.client.sock is not None:
            self.client.sock.settimeout(self.op.seconds_left(_HASH_SECONDS))
        try:
            if found.options:
                self.client.voidcmd(f"OPTS HASH {found.options}")
            quoted = f'"{path}"' if found.command.startswith("X") and " " in path else path
            answer = self.client.voidcmd(f"{found.command} {quoted}")
        except (ftplib.error_perm, ftplib.error_temp):
            return None
        finally:
            if self.client.sock is not None:
                self.client.sock.settimeout(self.client.timeout)
        digests: list[str] = re.findall(rf"(?<![0-9A-Za-z])[0-9A-Fa-f]{{{length}}}(?![0-9A-Za-z])", answer)
        if not digests:
            return None
        # HASH names the file after the hash, MD5 before it: a name may look like a hash, too.
        return found.algorithm, digests[0 if found.command == "HASH" else -1].lower()


def _user(params: FtpParams, op: OperationContext) -> tuple[str, str]:
    """Who logs in; anonymous without a credential."""
    host = op.host(params.host)
    name = params.credential or host.credential
    credential = op.credential(name) if name is not None else None
    username = params.username or (credential and credential.username) or host.username or "anonymous"
    password = (credential and credential.password) or ""
    if any(char in password for char in "\r\n\0"):
        raise OperationError(
            TaskErrorCode.CONFIGURATION_ERROR, f"the password of {name!r} has a line's end in it: FTP cannot send it"
        )
    return username, password


@contextlib.contextmanager
def session(params: FtpParams, op: OperationContext, *, stoppable: bool = True) -> Iterator[Session]:
    """Connects and logs in; while the block runs, a stop closes the connection.

    Args:
        stoppable: without it a stop is not looked at: for what is cleared away after one.
    """
    host = op.host(params.host)
    port = params.port or host.port or (990 if params.tls == "implicit" else 21)
    op.progress(0.1, f"connecting to {host.name}:{port}")
    username, password = _user(params, op)
    client = Client(host, timeout=params.timeout, encoding=params.encoding)
    client.passiveserver = params.passive_mode
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        if stoppable:
            stack.enter_context(op.on_stop(client.stop))
        stack.callback(client.close)
        try:
            sock = connect(op.permit, host, port, params.connect_timeout, client.watch)
            client.begin(sock, implicit=params.tls == "implicit")
            if params.tls == "explicit":
                _protect(client)
            client.login(username, password, secure=False)  # the TLS is there, or is not wanted
            if params.tls != "none":
                client.prot_p()
            opened = Session(client, op)
            op.progress(0.2, "logged in")
            took = time.monotonic() - began
            op.log(f"logged in to {host.name}:{port} as {username} ({opened.tls or 'without TLS'}) in {took:.2f} s")
            yield opened
        except (ftplib.Error, OSError, EOFError, ValueError, OperationError):
            if stoppable:
                op.checkpoint()  # a stop closed the connection: that is why it failed
            raise
        with contextlib.suppress(ftplib.Error, OSError, EOFError):
            client.sendcmd("QUIT")


def _protect(client: Client) -> None:
    try:
        client.auth()
    except (ftplib.error_perm, ftplib.error_temp) as exc:
        raise OperationError(
            TaskErrorCode.FTP_CONNECTION_FAILED,
            "the server offers no TLS: use another server, or tls = none where the policy has plain_ftp = true",
            details={"reply": digits(exc)},
            kind=ErrorCode.PERMANENT,
        ) from exc
