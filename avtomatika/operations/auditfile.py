"""A file of JSON lines that only grows, each bound to the one before by a hash: what is changed or taken out later shows."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avtomatika.errors import AvtomatikaError
from avtomatika.results import JSON

#: The hash before the first line's.
BEGINNING = "0" * 64
#: Seconds to wait for the other processes that write.
_PATIENCE = 5.0
_BLOCK = 64 * 1024
#: The longest line that is looked for at the end of a file.
_LONGEST = 16 * 1024 * 1024


class AuditError(AvtomatikaError):
    """A line of the audit could not be written; the message says where and why."""


def append(path: Path, record: JSON, *, durable: bool = False) -> JSON:
    """Writes one line, whole, after that of whatever process wrote last; returns it with ``seq``, ``prev`` and ``hash``.

    Args:
        durable: it is on the disk when this returns.

    Raises:
        AuditError: it could not be written.
    """
    try:
        with _locked(path) as file:
            last = _last(file)
            line = {**record, "seq": last.seq + 1, "prev": last.hash}
            line["hash"] = _hash(line)
            raw = (b"" if last.whole else b"\n") + json.dumps(line).encode() + b"\n"
            size = os.fstat(file).st_size
            if os.write(file, raw) != len(raw):
                with contextlib.suppress(OSError):
                    os.ftruncate(file, size)
                raise AuditError(f"the audit {path} took a part of a line only: is its disk full?")
            if durable:
                os.fdatasync(file)
            return line
    except OSError as exc:
        raise AuditError(f"the audit {path} cannot be written: {exc.strerror or exc}") from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, open and locked; where it was put away in the meantime (logrotate), the new one."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    end = time.monotonic() + _PATIENCE
    while True:
        file = os.open(path, flags, 0o600)
        try:
            _lock(file, path, end)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    yield file
                    return
        finally:
            os.close(file)  # which unlocks it


def _lock(file: int, path: Path, end: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise AuditError(f"the audit {path} is locked by another process for more than {_PATIENCE:g} s") from None
            time.sleep(0.005)


@dataclass(frozen=True)
class _Last:
    """The end of a file: its last readable line, and whether the file ends with a line's end."""

    seq: int = 0
    hash: str = BEGINNING
    whole: bool = True


def _last(file: int) -> _Last:
    size = os.fstat(file).st_size
    tail, begin = b"", size
    while begin > 0 and len(tail) < _LONGEST:
        begin = max(0, begin - _BLOCK)
        tail = os.pread(file, size - begin, begin)
        lines = tail.split(b"\n")
        for raw in reversed(lines if begin == 0 else lines[1:]):
            line = _read(raw)
            if line is not None:
                return _Last(line["seq"], line["hash"], tail.endswith(b"\n"))
    return _Last(whole=tail == b"" or tail.endswith(b"\n"))


def _read(raw: bytes) -> dict[str, Any] | None:
    """A line, where it is one of ours."""
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(line, dict) or not isinstance(line.get("seq"), int):
        return None
    return line if isinstance(line.get("hash"), str) and isinstance(line.get("prev"), str) else None


def _hash(line: JSON) -> str:
    body = {key: value for key, value in line.items() if key != "hash"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Problem:
    """What does not fit, and in which line of the file."""

    line: int
    what: str


@dataclass
class Verified:
    """What `verify` has seen: how many lines, and the hash of the last one, to be kept elsewhere."""

    lines: int = 0
    last_hash: str = BEGINNING
    expected_found: bool = False


def verify(path: Path, seen: Verified, expected: str | None = None) -> Iterator[Problem]:
    """Goes through a file link by link.

    Args:
        seen: grows with what was looked at.
        expected: a hash noted earlier, which must be that of one of the lines: nothing was cut off since.

    Raises:
        AuditError: the file cannot be read.
    """
    seq, prev = 0, BEGINNING
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                line = _read(raw)
                if line is None or not raw.endswith(b"\n"):
                    yield Problem(number, "is no whole record: its process was killed in the midst of it, or it was edited")
                    if line is None:
                        continue
                if line["hash"] != _hash(line):
                    yield Problem(number, "was edited: its hash is not that of what it says")
                if (line["seq"], line["prev"]) != (seq + 1, prev):
                    yield Problem(number, f"does not follow the one before: it is number {line['seq']}, not {seq + 1}")
                seq, prev = line["seq"], line["hash"]
                seen.lines, seen.last_hash = seen.lines + 1, prev
                seen.expected_found = seen.expected_found or prev == expected
    except OSError as exc:
        raise AuditError(f"the audit {path} cannot be read: {exc.strerror}") from None
    if expected is not None and not seen.expected_found:
        yield Problem(seen.lines, f"is the last one, and none has the hash {expected}: lines were cut off or written anew")
