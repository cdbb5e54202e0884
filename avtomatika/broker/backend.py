"""Celery's result backend where results are not stored: a step's result travels in its chain, and the store counts a join.

So a chord is a real Celery chord whose join is the state store's: `apply_chord` has nothing to set up, since the commit that
made the fan-out has registered its branches, and `on_chord_part_return` has nothing to count, since each branch's resume does.
"""

from __future__ import annotations

from typing import Any

from celery import states
from celery.backends.base import BaseBackend


class JoinBackend(BaseBackend):
    """Keeps nothing. `AsyncResult.get` has no answer here; ask the job instead."""

    supports_native_join = False
    supports_autoexpire = True
    persistent = False

    def store_result(self, *args: Any, **kwargs: Any) -> None:
        """Results are the orchestrator's."""

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        return {"status": states.PENDING, "result": None}

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        return self._get_task_meta_for(task_id)

    def wait_for(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("avtomatika stores no Celery results: ask the job for its state instead")

    def ensure_chords_allowed(self) -> None:
        """They are: the join is the store's."""

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """The commit that made the fan-out has registered its branches."""

    def on_chord_part_return(self, request: Any, state: Any, result: Any, **kwargs: Any) -> None:
        """The branch's resume counts it."""

    def cleanup(self) -> None:
        """There is nothing to clean."""

    def as_uri(self, include_password: bool = False) -> str:
        return "join://"
