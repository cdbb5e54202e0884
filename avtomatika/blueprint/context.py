"""What a handler can see of its job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from avtomatika.blueprint.actions import ActionFactory
from avtomatika.jobs import JSON, Client


@dataclass(slots=True)
class JobContext:
    """The job as a handler sees it. Writes to `state_history` are committed with the step.

    Attributes:
        aggregation_results: in an aggregator, {task_id: result envelope}; else None.
        succeeded, failed: in an aggregator, those of them that did, and those that did not; else None.
        missing: in an aggregator, the ids of the attempts that had not reported when the verdict was found; else None.
    """

    job_id: str
    current_state: str
    initial_data: JSON = field(default_factory=dict)
    state_history: JSON = field(default_factory=dict)
    actions: ActionFactory = field(default_factory=ActionFactory)
    client: Client = field(default_factory=Client)
    data_stores: Any = None
    tracing_context: JSON = field(default_factory=dict)
    aggregation_results: dict[str, JSON] | None = None
    succeeded: dict[str, JSON] | None = None
    failed: dict[str, JSON] | None = None
    missing: list[str] | None = None

    @property
    def is_aggregation(self) -> bool:
        """Whether this is the context of an aggregator."""
        return self.aggregation_results is not None
