"""A program that an operation waits for: its lines as they come, its group ended where the operation stops."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from avtomatika.operations.context import OperationContext
from avtomatika.processes import Process, end, signal_group, spawn

#: What a program gets of this process's environment: no secret is among these.
_KEPT = ("PATH", "HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
#: Seconds that a group has between SIGTERM and SIGKILL.
GRACE = 15.0
_BLOCK = 1 << 16
#: Seconds that are read on after a program's end: a service that it has started may hold its output open for ever.
_DRAIN = 1.0


def run(argv: Sequence[str], op: OperationContext, on_line: Callable[[str], None], **environment: str) -> int:
    """Runs a program to its end; its output, stderr too, goes line by line to `on_line`.

    Returns:
        Its exit code; minus the number of the signal that ended it.

    Raises:
        OperationStopped: the operation was to stop; the program's whole group has ended.
    """
    env = {name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C", **environment}
    process = spawn(argv, env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        _read(process, process.stdout.fileno(), op, on_line)
        while process.poll() is None:
            op.wait(0.05)
        return process.wait()
    finally:
        if process.poll() is None:
            signal_group(process, signal.SIGTERM)
        end([process], (signal.SIGTERM, GRACE))
        process.stdout.close()


def _read(process: Process, descriptor: int, op: OperationContext, on_line: Callable[[str], None]) -> None:
    rest = b""
    ended: float | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while ended is None or time.monotonic() - ended < _DRAIN:
            op.checkpoint()
            if ended is None and process.poll() is not None:
                ended = time.monotonic()
            if not selector.select(0.1):
                if ended is not None:
                    break
                continue
            block = os.read(descriptor, _BLOCK)
            if not block:
                break
            *lines, rest = (rest + block).replace(b"\r\n", b"\n").split(b"\n")
            if len(rest) > _BLOCK:  # a line without an end
                lines, rest = [*lines, rest], b""
            for line in lines:
                on_line(line.decode("utf-8", "replace"))
    if rest:
        on_line(rest.decode("utf-8", "replace"))
