"""Programs of a host that make transfers faster, where its account has a shell: tar, sha256sum. Only these, with quoted names."""

from __future__ import annotations

import math
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paramiko import Channel, Transport

_POLL = 0.5
#: Seconds in which a shell says what it has; a host without one never says it.
_PROBE_SECONDS = 10.0
_ANSWER = "avtomatika-tools:"
_WANTED = ("head", "sha256sum", "tar", "xargs")  # and "gnu-tar", where tar is that one
#: The first packet of SFTP. An account that is bound to SFTP answers it at once, and a shell's ``</dev/null`` never sees it.
_SFTP_HELLO = b"\0\0\0\5\1\0\0\0\3"
_PIECE = 32768
_MOST_OUTPUT = 64 << 20


class ToolFailed(Exception):
    """A program ended with another status than 0, or its connection did not outlive it."""

    def __init__(self, status: int, stderr: str) -> None:
        super().__init__(f"status {status}: {stderr[-500:]}")
        self.status = status
        self.stderr = stderr


class Running:
    """A program that runs on the host. It reads as many bytes as it was told of: its input is never closed, since paramiko may
    say so after the peer has closed the channel, and the peer then drops the connection."""

    def __init__(self, channel: Channel, check: Callable[[], None], idle: float) -> None:
        self._channel = channel
        self._check = check
        self._idle = idle
        self._stderr = bytearray()
        channel.settimeout(_POLL)

    def send(self, data: bytes) -> None:
        view, sent = memoryview(data), 0
        since = time.monotonic()
        while sent < len(view):
            self._drain()
            try:
                done = self._channel.send(bytes(view[sent : sent + _PIECE]))
            except TimeoutError:
                self._wait(since)
                if self._channel.exit_status_ready():
                    raise ToolFailed(self.wait(), self.stderr) from None
                continue
            if not done:
                raise ToolFailed(self.wait(), self.stderr)
            sent += done
            since = time.monotonic()

    def read(self, most: int) -> bytes:
        """What has come, at most so many bytes; nothing at the end."""
        since = time.monotonic()
        while True:
            self._drain()
            try:
                return self._channel.recv(most)
            except TimeoutError:
                self._wait(since)

    def wait(self) -> int:
        """The exit status; -1 where the program, or the connection, ended without one."""
        since = time.monotonic()
        while not self._channel.status_event.wait(_POLL):
            self._drain()
            self._wait(since)
        self._drain()
        return self._channel.exit_status

    @property
    def stderr(self) -> str:
        return self._stderr.decode("utf-8", "replace").strip()

    def _drain(self) -> None:
        while self._channel.recv_stderr_ready():
            self._stderr += self._channel.recv_stderr(65536)
            del self._stderr[:-65536]

    def _wait(self, since: float) -> None:
        self._check()
        if time.monotonic() - since > self._idle:
            raise TimeoutError(f"the host was silent for {self._idle:g} s")


class Tools:
    """Of one connection. One program runs at a time: a transport that many short commands share loses them.

    Args:
        allowed: without it, there are none.
    """

    def __init__(self, transport: Transport, check: Callable[[], None], idle: float, *, allowed: bool = True) -> None:
        self._transport = transport
        self._check = check
        self._idle = idle
        self._lock = threading.Lock()
        self._names: frozenset[str] | None = None if allowed else frozenset()

    def have(self, *names: str) -> bool:
        """Whether the host has all of these. The first call asks it."""
        with self._lock:
            if self._names is None:
                self._names = self._probe()
            return self._names.issuperset(names)

    @contextmanager
    def running(self, script: str, *, idle: float | None = None) -> Iterator[Running]:
        """A POSIX shell script. At the end of the block it is over, or its channel is closed."""
        with self._lock, self._open(script, self._idle if idle is None else idle) as running:
            yield running

    def output(self, script: str, data: bytes = b"") -> bytes:
        """What a script prints, however long it takes: the hash of a large file is one line after a long silence.

        It reads `data` as its first bytes. Raises ToolFailed.
        """
        found = bytearray()
        with self.running(script, idle=math.inf) as running:
            running.send(data)
            while chunk := running.read(1 << 18):
                found += chunk
                if len(found) > _MOST_OUTPUT:
                    raise ToolFailed(-1, "too much output")
            status = running.wait()
            if status != 0:
                raise ToolFailed(status, running.stderr)
        return bytes(found)

    def sha256(self, path: bytes, length: int | None = None) -> str:
        """Of a file, or of its beginning. Raises ToolFailed."""
        name = quoted(path)
        script = f"sha256sum < {name}" if length is None else f"head -c {length} < {name} | sha256sum"
        return self.output(script).decode("ascii").split()[0]

    def sha256_of_all(self, paths: list[bytes]) -> list[str]:
        """Of many files, in their order. Raises ToolFailed where any of them cannot be read."""
        names = b"\0".join(paths) + b"\0"
        said = self.output(f"head -c {len(names)} | xargs -0 sha256sum --", names)
        found = [line.lstrip(b"\\")[:64].decode("ascii") for line in said.splitlines()]
        if len(found) != len(paths):
            raise ToolFailed(0, f"{len(found)} sums of {len(paths)} files")
        return found

    @contextmanager
    def _open(self, script: str, idle: float) -> Iterator[Running]:
        channel = self._transport.open_session(timeout=min(idle, 30.0))
        try:
            channel.settimeout(min(idle, 30.0))
            channel.exec_command(os.fsencode(f"exec sh -c {shlex.quote(script)}"))
            yield Running(channel, self._check, idle)
        finally:
            channel.close()

    def _probe(self) -> frozenset[str]:
        from paramiko import SSHException

        script = (
            f"printf '{_ANSWER}'; for t in {' '.join(_WANTED)}; do command -v $t >/dev/null && printf ' %s' $t; done; "
            "case $(tar --version 2>/dev/null) in *GNU*) printf ' gnu-tar';; esac; echo"
        )
        said = b""
        with (
            suppress(SSHException, TimeoutError, EOFError, ToolFailed, OSError),  # whatever it is: there is no shell
            self._open(f"({script}) </dev/null", _PROBE_SECONDS) as running,
        ):
            running.send(_SFTP_HELLO)
            while not said.endswith(b"\n") and not said.startswith(b"\0") and len(said) < 4096:
                chunk = running.read(4096)
                if not chunk:
                    break
                said += chunk
        _, found, names = said.decode("ascii", "replace").partition(_ANSWER)
        return frozenset(names.split()) if found else frozenset()


def quoted(path: bytes) -> str:
    """A path as a word of a POSIX shell; encode the script by `os.fsencode`."""
    return shlex.quote(os.fsdecode(path))
