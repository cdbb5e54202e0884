"""Logs of jobs in memory."""

from __future__ import annotations

from collections.abc import Sequence

from avtomatika.state.joblogs import LogLine


class MemoryJobLogs:
    def __init__(self) -> None:
        self._job_logs: dict[str, list[LogLine]] = {}

    async def append_log(self, job_id: str, lines: Sequence[tuple[float, str]], most: int) -> None:
        if lines:
            kept = self._job_logs.setdefault(job_id, [])
            kept.extend(LogLine(*line) for line in lines)
            del kept[:-most]

    async def job_log(self, job_id: str, limit: int = 1000) -> Sequence[LogLine]:
        return self._job_logs.get(job_id, [])[-limit:]
