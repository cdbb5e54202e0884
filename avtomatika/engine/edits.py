"""What is changed about a job before it is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from avtomatika.jobs import JSON, Job


@dataclass(frozen=True, slots=True)
class Edit:
    """
    Attributes:
        initial_data, state_history: merge patches (RFC 7386): null removes a key, objects are merged, everything else replaces.
        state: with which the job goes on; None means where it went wrong.
    """

    initial_data: JSON | None = None
    state_history: JSON | None = None
    state: str | None = None

    @property
    def details(self) -> JSON:
        """For the history: which keys were changed, without what they hold."""
        out: JSON = {}
        for name in ("initial_data", "state_history"):
            patch = getattr(self, name)
            if patch:
                out[f"edited_{name}"] = sorted(patch)
        return out

    def applied(self, job: Job) -> dict[str, Any]:
        """The fields of the job that change."""
        out: dict[str, Any] = {}
        if self.initial_data:
            out["initial_data"] = merged(job.initial_data, self.initial_data)
        if self.state_history:
            out["state_history"] = merged(job.state_history, self.state_history)
        return out


NO_EDIT = Edit()


def merged(value: Any, patch: Any) -> Any:
    """A JSON value with a merge patch laid over it (RFC 7386)."""
    if not isinstance(patch, Mapping):
        return patch
    out = dict(value) if isinstance(value, Mapping) else {}
    for key, item in patch.items():
        if item is None:
            out.pop(key, None)
        else:
            out[key] = merged(out.get(key), item)
    return out
