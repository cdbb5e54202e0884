"""The hash chain over a job's events. Pure.

Each event's hash covers its place, its body and the hash before, so that whoever edits, removes or moves one has to rewrite every
later one and the job's own row.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from avtomatika.jobs import Event

#: What an attempt's end is called in its event.
_ENDS = {"task_finished": None, "branch_finished": None, "branch_retry": "retried", "task_lost": "lost", "branch_lost": "lost"}


def body_of(event: Event) -> str:
    """The event as JSON in ASCII, always the same for the same event."""
    return json.dumps(event.to_dict(), sort_keys=True, separators=(",", ":"))


def link(previous: str, seq: int, body: str) -> str:
    """The hash of an event; `previous` is "" for the first."""
    return sha256(f"{previous}\n{seq}\n{body}".encode()).hexdigest()


def columns_of(event: Event) -> dict[str, Any]:
    """The columns that are copies of an event's parts."""
    task_type = event.details.get("type")
    return {
        "job_id": event.job_id,
        "id": words(event.id),
        "event_type": words(event.event_type),
        "at": float(event.timestamp),
        "state": words(event.state),
        "next_state": words(event.next_state),
        "task_id": words(event.task_id),
        "task_type": words(task_type) if isinstance(task_type, str) else None,
        "worker_id": words(event.worker_id),
        "attempt": event.attempt,
        "duration_ms": float(event.duration_ms) if event.duration_ms is not None else None,
        "outcome": words(_outcome(event)),
    }


def _outcome(event: Event) -> str | None:
    if event.event_type not in _ENDS:
        return None
    said = event.details.get("status")
    return said if isinstance(said, str) else _ENDS[event.event_type] or "unknown"


def words(text: str | None) -> str | None:
    """Text as every database takes it: no NUL, no half of a surrogate pair."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
