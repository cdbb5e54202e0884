"""What a blueprint consists of: states, and the handlers that run in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from avtomatika.blueprint.conditions import Condition
from avtomatika.blueprint.context import JobContext
from avtomatika.blueprint.injection import Plan
from avtomatika.blueprint.sites import Site


class Handler:
    """One registered function of one state."""

    __slots__ = ("_owner", "_who", "condition", "func", "is_aggregator", "name", "plan", "site")

    def __init__(
        self, owner: State, plan: Plan, site: Site, condition: Condition | None = None, is_aggregator: bool = False
    ) -> None:
        self._owner = owner
        self.plan = plan
        self.func: Callable[..., Any] = plan.func
        self.site = site
        self.condition = condition
        self.is_aggregator = is_aggregator
        self.name: str = getattr(plan.func, "__name__", None) or type(plan.func).__name__
        self._who = f"handler {self.name} of state {owner.name!r} ({site})"

    @property
    def state(self) -> str:
        """The name of its state."""
        return self._owner.name

    @property
    def is_end(self) -> bool:
        """Whether its state ends the job, so that it decides no action."""
        return self._owner.is_end

    async def call(self, context: JobContext) -> Any:
        """Injects the arguments, runs the function (a plain one in a thread), returns what it returns."""
        return await self.plan.call(context, self._who)

    def __repr__(self) -> str:
        return f"<{self._who}>"


@dataclass(slots=True)
class State:
    """A state: its flags, its conditional handlers in their order, at most one plain one, at most one aggregator."""

    name: str
    site: Site
    is_start: bool = False
    is_end: bool = False
    conditional: list[Handler] = field(default_factory=list)
    plain: Handler | None = None
    aggregator: Handler | None = None

    @property
    def step_handlers(self) -> list[Handler]:
        """The handlers that a transition can choose from, in the order in which they are tried."""
        return [*self.conditional, self.plain] if self.plain is not None else list(self.conditional)

    @property
    def handlers(self) -> list[Handler]:
        """All of them, the aggregator included."""
        return [*self.step_handlers, self.aggregator] if self.aggregator is not None else self.step_handlers
