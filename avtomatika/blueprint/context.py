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
