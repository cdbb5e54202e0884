"""What a state store promises about the log of a job: what the operations that run for it have said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class LogLine(NamedTuple):
    """`at`: seconds since the epoch, UTC, by the worker's clock."""

    at: float
    text: str


class LogStore(Protocol):
    async def append_log(self, job_id: str, lines: Sequence[tuple[float, str]], most: int) -> None:
        """Adds (time, text) lines; the latest `most` are kept, until the job is forgotten."""

    async def job_log(self, job_id: str, limit: int = 1000) -> Sequence[LogLine]:
        """The latest lines, oldest first."""
