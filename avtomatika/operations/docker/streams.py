"""What a daemon says while it pulls, pushes or builds: one JSON object after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from avtomatika.operations.context import OperationContext
from avtomatika.operations.types import TaskStatus

#: Layers that are followed, and lines that are kept.
MAX_LAYERS = 1000
MAX_LINES = 200
#: Of a layer's work, how much is its transfer; the rest is what the daemon does with it on its disk.
_PHASES = {"Downloading": (0.0, 0.7), "Extracting": (0.7, 0.3), "Pushing": (0.0, 1.0)}
_STEP = re.compile(r"^Step (\d+)/(\d+) :")


class StreamError(Exception):
    """The daemon has ended a stream with an error.

    Attributes:
        code: its number, where the daemon gives one.
    """

    def __init__(self, message: str, code: object) -> None:
        super().__init__(message)
        self.code = code


def entries(stream: Iterator[Any], op: OperationContext) -> Iterator[dict[str, Any]]:
    """The objects of a stream, until it ends. Raises StreamError for an error in it."""
    for entry in stream:
        op.checkpoint()
        if not isinstance(entry, dict):
            continue
        if "errorDetail" in entry or "error" in entry:
            detail = entry.get("errorDetail") or {}
            raise StreamError(str(detail.get("message") or entry.get("error")), detail.get("code"))
        yield entry
    op.checkpoint()  # a stop has closed the stream


class Layers:
    """Progress of an image, layer by layer.

    Attributes:
        sizes: bytes of each layer that was transferred.
    """

    def __init__(self, op: OperationContext, status: TaskStatus, *, begin: float = 0.05, quiet: bool = False) -> None:
        self._op = op
        self._status = status
        self._begin = begin
        self._quiet = quiet
        self._done: dict[str, float] = {}
        self._said: dict[str, str] = {}
        self.sizes: dict[str, int] = {}

    def take(self, entry: dict[str, Any]) -> None:
        layer, said = str(entry.get("id") or ""), str(entry.get("status") or "")
        if not said:
            return
        if self._said.get(layer) != said and len(self._said) < MAX_LAYERS:
            self._said[layer] = said
            if not self._quiet:
                self._op.log(f"{layer}: {said}" if layer else said)
        if not layer or len(self._done) >= MAX_LAYERS:
            return
        detail = entry.get("progressDetail") or {}
        total, current = detail.get("total") or 0, detail.get("current") or 0
        if total > 0:
            begin, share = _PHASES.get(said, (0.0, 0.7))
            self._done[layer] = max(self._done.get(layer, 0.0), begin + share * min(1.0, current / total))
            if begin == 0.0:
                self.sizes[layer] = total
        elif layer in self._done or "progressDetail" in entry:
            # Without numbers a layer waits, or is done with what had some.
            self._done[layer] = max(self._done.get(layer, 0.0), 1.0 if self._done.get(layer, 0.0) >= 0.7 else 0.0)
        if self._done:
            share = sum(self._done.values()) / len(self._done)
            self._op.progress(self._begin + (0.95 - self._begin) * share, said, self._status)

    @property
    def size_info(self) -> list[dict[str, Any]]:
        return [{"layer": layer, "bytes": size} for layer, size in self.sizes.items()]


class BuildLog:
    """What a build says.

    Attributes:
        lines: the last ones.
        image_id: of the image that was built; None until then.
    """

    def __init__(self, op: OperationContext) -> None:
        self._op = op
        self._rest = ""
        self.lines: list[str] = []
        self.image_id: str | None = None

    def take(self, entry: dict[str, Any]) -> None:
        aux = entry.get("aux")
        if isinstance(aux, dict) and "ID" in aux:
            self.image_id = str(aux["ID"])
        *lines, self._rest = (self._rest + str(entry.get("stream") or "")).split("\n")
        if entry.get("status"):
            lines.append(" ".join(str(entry[key]) for key in ("id", "status") if entry.get(key)))
        for line in filter(None, map(str.rstrip, lines)):
            self._add(line)
        self._rest = self._rest[-10_000:]

    def _add(self, line: str) -> None:
        line = line[:10_000]
        self.lines = [*self.lines[-(MAX_LINES - 1) :], line]
        self._op.log(line)
        step = _STEP.match(line)
        if step and int(step[2]) > 0:
            share = (int(step[1]) - 1) / int(step[2])
            self._op.progress(0.2 + 0.75 * min(1.0, share), line, TaskStatus.BUILDING)
