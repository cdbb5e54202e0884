"""The last bytes of an output that may be endless."""

from __future__ import annotations

from collections import deque

from avtomatika.operations.context import OperationContext

#: Bytes of a line in the task's log.
_LONGEST = 10_000


class Tail:
    """The last bytes of a stream; its lines go to the task's log as they come, unless it is `quiet`.

    Attributes:
        truncated: there was more.
    """

    def __init__(self, op: OperationContext, limit: int, *, quiet: bool = False) -> None:
        self._op = op
        self._limit = limit
        self._quiet = quiet
        self._blocks: deque[bytes] = deque()
        self._size = 0
        self._line = b""
        self.truncated = False

    def add(self, block: bytes) -> None:
        self._log(block)
        self._blocks.append(block)
        self._size += len(block)
        while self._size > self._limit and self._blocks:
            over = self._size - self._limit
            first = self._blocks.popleft()
            kept = first[over:]
            self._size -= len(first) - len(kept)
            self.truncated = True
            if kept:
                self._blocks.appendleft(kept)

    def _log(self, block: bytes) -> None:
        if self._quiet:
            return
        *lines, rest = (self._line + block).split(b"\n")
        for line in lines:
            self._op.log(line[:_LONGEST].decode("utf-8", "replace").rstrip("\r"))
        self._line = rest[-_LONGEST:]

    def close(self) -> None:
        """The stream has ended: what is left is a line."""
        if self._line:
            self._op.log(self._line.decode("utf-8", "replace").rstrip("\r"))
            self._line = b""

    @property
    def text(self) -> str:
        kept = b"".join(self._blocks)
        if self.truncated and b"\n" in kept:  # a line without its beginning might hold half a secret, which no mask knows
            kept = kept.partition(b"\n")[2]
        return kept.decode("utf-8", "replace")
