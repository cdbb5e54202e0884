"""Programs of this machine: started in a process group of their own, bounded in what they say, and gone when the operation is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avtomatika.operations.context import OperationContext

#: Seconds from SIGTERM to SIGKILL.
GRACE = 5.0
#: Seconds for what a program has started, and left, to let go of its output.
_LINGER = 1.0
#: Seconds between two looks at whether it has ended while something holds its pipes.
_LOOK = 0.25
#: Bytes of a line in the log.
_MOST_LINE = 4096
_BLOCK = 65536


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        exit_code: None where a signal ended it.
        signal: its name, such as ``SIGKILL``.
        truncated: there was more output: of each stream the first and the last half of what is kept are here.
    """

    exit_code: int | None
    signal: str | None
    stdout: str
    stderr: str
    truncated: bool
    duration: float


class Output:
    """The beginning and the end of what a stream says; whole lines of it go to the task's log."""

    def __init__(self, op: OperationContext, prefix: str, most: int) -> None:
        self._op, self._prefix, self._half = op, prefix, most // 2
        self._head, self._tail = bytearray(), bytearray()
        self._line = bytearray()
        self.dropped = 0

    def add(self, block: bytes) -> None:
        self._show(block)
        room = self._half - len(self._head)
        self._head += block[:room]
        self._tail += block[max(0, room) :]
        excess = len(self._tail) - self._half
        if excess > 0:
            self.dropped += excess
            del self._tail[:excess]

    def end(self) -> None:
        if self._line:
            self._log(bytes(self._line))
            self._line.clear()

    @property
    def text(self) -> str:
        gap = f"\n[{self.dropped} bytes are left out]\n".encode() if self.dropped else b""
        return (bytes(self._head) + gap + bytes(self._tail)).decode(errors="backslashreplace")

    def _show(self, block: bytes) -> None:
        self._line += block
        *lines, rest = self._line.split(b"\n")
        for line in lines:
            self._log(bytes(line))
        self._line = bytearray(rest[-_MOST_LINE:])  # a line without an end is not kept for ever

    def _log(self, line: bytes) -> None:
        text = line[:_MOST_LINE].decode(errors="backslashreplace").rstrip("\r")
        self._op.log(self._prefix + "".join(char if char.isprintable() or char == "\t" else "?" for char in text))


def bare_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a program is told of this machine: nothing of the worker's own environment, which holds secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": "/nonexistent", **(more or {})}


async def run_program(
    argv: Sequence[str],
    op: OperationContext,
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdin: bytes = b"",
    most_output: int = 1024 * 1024,
) -> Outcome:
    """Runs a program to its end. When it is cancelled, so is the program, with all that it has started in its group.

    Raises:
        OSError: it cannot be started.
    """
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env=dict(env),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    stdout, stderr = Output(op, "", most_output), Output(op, "stderr: ", most_output)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    streams = [
        asyncio.create_task(_feed(process.stdin, stdin)),
        asyncio.create_task(_drain(process.stdout, stdout)),
        asyncio.create_task(_drain(process.stderr, stderr)),
    ]
    try:
        code = await _ended(process)
        await asyncio.wait(streams, timeout=_LINGER)
    finally:
        await _end(process)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        # What has left its group may hold the pipes for ever.
        process._transport.close()  # type: ignore[attr-defined]
        stdout.end()
        stderr.end()
    return Outcome(
        exit_code=code if code >= 0 else None,
        signal=None if code >= 0 else signal.Signals(-code).name,
        stdout=stdout.text,
        stderr=stderr.text,
        truncated=bool(stdout.dropped or stderr.dropped),
        duration=round(time.monotonic() - began, 3),
    )


async def _feed(writer: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it does not want to read it
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def _drain(reader: asyncio.StreamReader, output: Output) -> None:
    while block := await reader.read(_BLOCK):
        output.add(block)


async def _ended(process: asyncio.subprocess.Process) -> int:
    """Its return code, as soon as it has ended: wait() may wait for its pipes, too, which its children hold."""
    waiting = asyncio.ensure_future(process.wait())
    try:
        while process.returncode is None:
            await asyncio.wait({waiting}, timeout=_LOOK)
    finally:
        waiting.cancel()
    return process.returncode


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends what is left of its group: gently where it still runs itself, at once where only its children do."""
    if process.returncode is None:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_ended(process), GRACE)
    _signal(process.pid, signal.SIGKILL)
    await _ended(process)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
