"""The program kind: called with arguments, never through a shell, and ended with all that it has started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from avtomatika.operations.base import Family
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.tail import Tail

#: Bytes kept of stdout and of stderr.
MAX_OUTPUT = 262_144
#: Seconds between the polite signal and the other one.
_GRACE = 5.0
#: What of the worker's environment the program gets: the rest may hold secrets that are none of its business.
_PASSED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "NO_PROXY", "no_proxy")
_PASSED_PREFIXES = ("DOCKER_", "KIND_", "CONTAINER_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


def judge(exc: BaseException) -> OperationError | None:
    if isinstance(exc, FileNotFoundError | PermissionError):
        return OperationError(
            TaskErrorCode.CONFIGURATION_ERROR,
            "the program kind cannot be run on this worker: install it on PATH, https://kind.sigs.k8s.io/docs/user/quick-start/",
        )
    return None


family = Family("kind", capability="k8s", extra="k8s", modules=("kubernetes",), programs=("kind",), judge=judge, slots=2)


@dataclass(frozen=True, slots=True)
class Done:
    """What a call has come to."""

    exit_code: int
    stdout: str
    stderr: str


async def kind(
    argv: Sequence[str], op: OperationContext, *, stdin: bytes | None = None, seconds: float | None = None, quiet: bool = False
) -> Done:
    """Calls ``kind <argv>``. Cancelled, or after `seconds`, its whole process group is ended first.

    Raises:
        TimeoutError: it was not done in time.
        FileNotFoundError: it is not on PATH.
    """
    process = await asyncio.create_subprocess_exec(
        "kind",
        *argv,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
        start_new_session=True,
    )
    out, err = Tail(op, MAX_OUTPUT, quiet=True), Tail(op, MAX_OUTPUT, quiet=quiet)
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(_read(process.stdout, out), _read(process.stderr, err), _write(process, stdin))
            exit_code = await process.wait()
    except BaseException:
        await _end(process)
        raise
    finally:
        out.close()
        err.close()
    return Done(exit_code, out.text, err.text)


async def _read(stream: asyncio.StreamReader | None, tail: Tail) -> None:
    while stream is not None and (block := await stream.read(65_536)):
        tail.add(block)


async def _write(process: asyncio.subprocess.Process, text: bytes | None) -> None:
    if process.stdin is None or text is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it does not want to read: its exit code says why
        process.stdin.write(text)
        await process.stdin.drain()
    process.stdin.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Nothing of its process group is left afterwards."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        if sign is signal.SIGTERM:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _GRACE)
    await process.wait()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}


def names_in(text: str) -> list[str]:
    """The names that `kind get …` prints, one on a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]
