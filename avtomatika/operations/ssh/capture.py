"""The output of a remote command: kept in part where there is too much of it, and shown line by line."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

#: Of a line that has no end, more than this is not waited for.
_LONGEST_LINE = 64 * 1024
#: Of a line, as many characters are shown.
SHOWN = 4096

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])")
#: Control characters, and those that turn the direction of what is read.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Without escape sequences and control characters: what a terminal would obey."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


class Capture:
    """The first and the last half of what comes, at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._head = bytearray()
        self._tail = bytearray()
        self.size = 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    @property
    def truncated(self) -> bool:
        return self.size > 2 * self._half

    @property
    def text(self) -> str:
        """As UTF-8; what is not is replaced, and so is NUL, which no database takes. What was left out is said in the middle."""
        if not self.truncated:
            return _decode(bytes(self._head + self._tail))
        # At whole lines, where there are some: half a secret at the edge would not be found, and not be masked.
        head = bytes(self._head)
        tail = bytes(self._tail[-self._half :])
        head = head[: head.rfind(b"\n") + 1] or head
        tail = tail[tail.find(b"\n") + 1 :] or tail
        return f"{_decode(head)}\n[{self.size - len(head) - len(tail)} bytes left out]\n{_decode(tail)}"

    def end(self, most: int = 4096) -> str:
        """The last of it."""
        return self.text[-most:]


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")


class Lines:
    """Hands on each line when it is whole."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def add(self, data: bytes) -> None:
        self._rest += self._decoder.decode(data)
        *lines, self._rest = self._rest.split("\n")
        for line in lines:
            self._show(line)
        if len(self._rest) > _LONGEST_LINE:
            self.end()

    def end(self) -> None:
        """Hands on what has no end of line."""
        if self._rest:
            self._show(self._rest)
            self._rest = ""
