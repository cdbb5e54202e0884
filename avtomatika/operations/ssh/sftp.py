"""SFTP as transfers need it: requests in flight, names as bytes, OpenSSH extensions, and a stop that a silent peer cannot hide.

Import it inside functions: it needs paramiko.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from paramiko import Channel, Message, SFTPAttributes, SFTPClient, Transport
from paramiko import sftp as wire

#: What OpenSSH takes in one request; asked for by limits@openssh.com.
LARGE = 261120
#: What every server takes.
SMALL = 32768
#: Requests in flight: 8 MiB of a large file.
WINDOW = 32
#: Seconds between two looks at whether the operation is to stop, while nothing comes.
_POLL = 0.5
_MAX_PACKET = 1 << 20
_MAX_ENTRIES_OF_A_PACKET = 100_000


class RemoteFailure(OSError):
    """The server said only "failure" (or a code that is no errno).

    Attributes:
        status: of SFTP version 3, section 7.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(errno.EOPNOTSUPP if status == wire.SFTP_OP_UNSUPPORTED else None, text)
        self.status = status

    def __str__(self) -> str:
        return self.strerror or "failure"


@dataclass(frozen=True, slots=True)
class Space:
    """Of the file system that a path is on, in bytes."""

    free: int
    total: int


class Sftp(SFTPClient):
    """One SFTP channel. It belongs to one thread.

    Args:
        check: called about twice a second while it waits; what it raises ends the waiting, and the channel is of no more use.
        idle: seconds of silence after which TimeoutError is raised.
    """

    def __init__(self, channel: Channel, check: Callable[[], None], idle: float) -> None:
        self._check = check
        self._idle = idle
        self._inbox = bytearray()
        self.extensions: dict[str, bytes] = {}
        channel.settimeout(_POLL)
        super().__init__(channel)
        self.block = self._limits()

    if TYPE_CHECKING:  # what paramiko's stubs leave out
        _expecting: MutableMapping[int, Any]

        def _request(self, command: int, *args: Any) -> tuple[int, Message]: ...
        def _async_request(self, fileobj: type, command: int, *args: Any) -> int: ...
        def _send_packet(self, kind: int, packet: Message) -> None: ...

    # The wire

    def _patiently(self, act: Callable[[], Any]) -> Any:
        """Does what waits for the peer, for as long as it may be silent."""
        since = time.monotonic()
        while True:
            try:
                return act()
            except TimeoutError:
                self._check()
                if time.monotonic() - since > self._idle:
                    raise TimeoutError(errno.ETIMEDOUT, f"the peer was silent for {self._idle:g} s") from None

    def _read_packet(self) -> tuple[int, bytes]:
        inbox = self._inbox
        while True:
            if len(inbox) >= 4:
                size = int.from_bytes(inbox[:4], "big")
                if not 1 <= size <= _MAX_PACKET:
                    raise wire.SFTPError(f"a packet of {size} bytes")
                if len(inbox) >= 4 + size:
                    kind, data = inbox[4], bytes(memoryview(inbox)[5 : 4 + size])
                    del inbox[: 4 + size]
                    return kind, data
            chunk = self._patiently(partial(self.sock.recv, 1 << 21))
            if not chunk:
                raise EOFError("the SFTP channel was closed")
            inbox += chunk

    def _write_all(self, out: bytes) -> None:
        sent = 0
        while sent < len(out):
            piece = out[sent : sent + SMALL]
            done = self._patiently(partial(self.sock.send, piece))
            if not done:
                raise EOFError("the SFTP channel was closed")
            sent += done

    def _send_version(self) -> int:
        hello = Message()
        hello.add_int(3)
        self._send_packet(wire.CMD_INIT, hello)
        kind, data = self._read_packet()
        if kind != wire.CMD_VERSION:
            raise wire.SFTPError("the peer does not speak SFTP")
        message = Message(data)
        version = message.get_int()
        while message.get_remainder():
            name = message.get_binary().decode("ascii", "replace")
            self.extensions[name] = message.get_binary()
        return version

    def _convert_status(self, message: Message) -> None:
        status, text = message.get_int(), message.get_binary().decode("utf-8", "replace")
        match status:
            case wire.SFTP_OK:
                return
            case wire.SFTP_EOF:
                raise EOFError(text)
            case wire.SFTP_NO_SUCH_FILE:
                raise FileNotFoundError(errno.ENOENT, text)
            case wire.SFTP_PERMISSION_DENIED:
                raise PermissionError(errno.EACCES, text)
        raise RemoteFailure(status, text)

    def ask(self, command: int, *args: Any) -> int:
        """Sends a request, and does not wait for its answer. Its number."""
        return self._async_request(type(None), command, *args)

    def answer(self) -> tuple[int, int, Message]:
        """The next answer: (number of the request, kind, the rest)."""
        kind, data = self._read_packet()
        message = Message(data)
        number = message.get_int()
        self._expecting.pop(number, None)
        return number, kind, message

    # Extensions

    def _limits(self) -> int:
        """Bytes that one request may carry."""
        if "limits@openssh.com" not in self.extensions:
            return SMALL
        kind, message = self._request(wire.CMD_EXTENDED, "limits@openssh.com")
        if kind != wire.CMD_EXTENDED_REPLY:
            return SMALL
        _, most_read, most_written, _ = (message.get_int64() for _ in range(4))
        return max(1, min(LARGE, most_read or LARGE, most_written or LARGE))

    def space(self, path: bytes) -> Space | None:
        """None where the server does not tell."""
        if "statvfs@openssh.com" not in self.extensions:
            return None
        kind, message = self._request(wire.CMD_EXTENDED, "statvfs@openssh.com", path)
        if kind != wire.CMD_EXTENDED_REPLY:
            return None
        _, size, blocks, _, available, *_ = (message.get_int64() for _ in range(11))
        return Space(available * size, blocks * size)

    def fsync(self, handle: bytes) -> None:
        """Where the server offers it."""
        if "fsync@openssh.com" in self.extensions:
            self._request(wire.CMD_EXTENDED, "fsync@openssh.com", handle)

    def replace(self, old: bytes, new: bytes) -> None:
        """Renames; what is at the new place is replaced at once, or where the server cannot do that, just before."""
        if "posix-rename@openssh.com" in self.extensions:
            self._request(wire.CMD_EXTENDED, "posix-rename@openssh.com", old, new)
            return
        try:
            self._request(wire.CMD_RENAME, old, new)
        except RemoteFailure:
            self._request(wire.CMD_REMOVE, new)
            self._request(wire.CMD_RENAME, old, new)

    # Files

    def handle(self, path: bytes, flags: int, attributes: SFTPAttributes | None = None) -> bytes:
        """Opens a file."""
        kind, message = self._request(wire.CMD_OPEN, path, flags, attributes or SFTPAttributes())
        if kind != wire.CMD_HANDLE:
            _garbage("a handle")
        found: bytes = message.get_binary()
        return found

    def close_handle(self, handle: bytes) -> None:
        self._request(wire.CMD_CLOSE, handle)

    def fstat(self, handle: bytes) -> SFTPAttributes:
        return self._stat(wire.CMD_FSTAT, handle)

    def stat(self, path: bytes | str) -> SFTPAttributes:
        return self._stat(wire.CMD_STAT, path)

    def lstat(self, path: bytes | str) -> SFTPAttributes:
        return self._stat(wire.CMD_LSTAT, path)

    def _stat(self, command: int, what: bytes | str) -> SFTPAttributes:
        kind, message = self._request(command, what)
        if kind != wire.CMD_ATTRS:
            _garbage("attributes")
        return read_attributes(message)

    def fsetstat(self, handle: bytes, attributes: SFTPAttributes) -> None:
        self._request(wire.CMD_FSETSTAT, handle, attributes)

    def link_target(self, path: bytes) -> bytes:
        kind, message = self._request(wire.CMD_READLINK, path)
        if kind != wire.CMD_NAME or message.get_int() != 1:
            _garbage("one name")
        found: bytes = message.get_binary()
        return found

    def real_path(self, path: bytes) -> bytes:
        kind, message = self._request(wire.CMD_REALPATH, path)
        if kind != wire.CMD_NAME or message.get_int() != 1:
            _garbage("one name")
        found: bytes = message.get_binary()
        return found

    def entries(self, path: bytes) -> Iterator[tuple[bytes, SFTPAttributes]]:
        """What a directory holds, names as the server gives them: they are not to be trusted."""
        kind, message = self._request(wire.CMD_OPENDIR, path)
        if kind != wire.CMD_HANDLE:
            _garbage("a handle")
        handle = message.get_binary()
        try:
            while True:
                try:
                    kind, message = self._request(wire.CMD_READDIR, handle)
                except EOFError:
                    return
                count = message.get_int() if kind == wire.CMD_NAME else 0
                if not 1 <= count <= _MAX_ENTRIES_OF_A_PACKET:
                    _garbage("names")
                for _ in range(count):
                    if not message.get_remainder():
                        _garbage("as many names as it says")
                    name = message.get_binary()
                    message.get_binary()
                    attributes = read_attributes(message)
                    if name not in (b".", b".."):
                        yield name, attributes
        finally:
            self.ask(wire.CMD_CLOSE, handle)

    def read_blocks(self, handle: bytes, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end` in order, with `WINDOW` requests in flight; less where the file ends before."""
        asked: dict[int, tuple[int, int]] = {}
        found: dict[int, bytes] = {}
        ahead, at, ended = start, start, False
        while at < end and not (ended and at not in found and not asked):
            while ahead < end and len(asked) + len(found) < WINDOW and not ended:
                size = min(self.block, end - ahead)
                asked[self.ask(wire.CMD_READ, handle, wire.int64(ahead), size)] = (ahead, size)
                ahead += size
            if at not in found:
                number, kind, message = self.answer()
                if number not in asked:
                    continue  # of a request that nobody waits for any more
                offset, size = asked.pop(number)
                if kind != wire.CMD_DATA:
                    try:
                        self._convert_status(message)
                    except EOFError:
                        ended = True
                        continue
                    _garbage("data")
                data = message.get_binary()
                if not data or len(data) > size:
                    _garbage(f"{size} bytes of data")
                found[offset] = data
                if len(data) < size:  # a short answer: ask for the rest of it
                    rest = (offset + len(data), size - len(data))
                    asked[self.ask(wire.CMD_READ, handle, wire.int64(rest[0]), rest[1])] = rest
                continue
            data = found.pop(at)
            at += len(data)
            yield data


class BlockWriter:
    """Writes one after the other, `WINDOW` of them in flight."""

    def __init__(self, sftp: Sftp, handle: bytes, offset: int) -> None:
        self._sftp = sftp
        self._handle = handle
        self._asked: deque[int] = deque()
        self._offset = offset

    def write(self, data: bytes) -> None:
        block = self._sftp.block
        for start in range(0, len(data), block):
            piece = data[start : start + block] if len(data) > block else data
            while len(self._asked) >= WINDOW:
                self._settle()
            self._asked.append(self._sftp.ask(wire.CMD_WRITE, self._handle, wire.int64(self._offset), piece))
            self._offset += len(piece)

    def flush(self) -> None:
        """Waits until the server has taken everything; raises what it says of any of it."""
        while self._asked:
            self._settle()

    def _settle(self) -> None:
        number, kind, message = self._sftp.answer()
        if number not in self._asked:
            return  # of a request that nobody waits for any more
        self._asked.remove(number)
        if kind != wire.CMD_STATUS:
            _garbage("a status")
        self._sftp._convert_status(message)


def read_attributes(message: Message) -> SFTPAttributes:
    """As paramiko reads them, but that a server may not claim four thousand million extensions."""
    found = SFTPAttributes()
    flags = message.get_int()
    if flags & SFTPAttributes.FLAG_SIZE:
        found.st_size = message.get_int64()
    if flags & SFTPAttributes.FLAG_UIDGID:
        found.st_uid, found.st_gid = message.get_int(), message.get_int()
    if flags & SFTPAttributes.FLAG_PERMISSIONS:
        found.st_mode = message.get_int()
    if flags & SFTPAttributes.FLAG_AMTIME:
        found.st_atime, found.st_mtime = message.get_int(), message.get_int()
    if flags & SFTPAttributes.FLAG_EXTENDED:
        for _ in range(message.get_int()):
            if not message.get_remainder():
                _garbage("as many attributes as it says")
            message.get_binary()
            message.get_binary()
    return found


def _garbage(wanted: str) -> NoReturn:
    raise wire.SFTPError(f"the server answered with something else than {wanted}")


def open_sftp(transport: Transport, check: Callable[[], None], idle: float) -> Sftp:
    """A channel of its own on a connection."""
    channel = transport.open_session(timeout=min(idle, 30.0))
    try:
        channel.settimeout(idle)
        channel.invoke_subsystem("sftp")
        return Sftp(channel, check, idle)
    except BaseException:
        channel.close()
        raise
