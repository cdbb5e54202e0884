"""A process, written as a state machine of handlers: the object that user modules make."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from avtomatika.blueprint import graph
from avtomatika.blueprint.conditions import Condition, parse_condition
from avtomatika.blueprint.context import JobContext
from avtomatika.blueprint.handlers import Handler, State
from avtomatika.blueprint.injection import Plan, plan
from avtomatika.blueprint.options import seconds
from avtomatika.blueprint.planned import Planned
from avtomatika.blueprint.sites import Report, Site, caller_site, function_site, refuse
from avtomatika.blueprint.stores import DataStores
from avtomatika.blueprint.validation import Analysis, analyze, check
from avtomatika.errors import ConditionError, HandlerError, StrandedError
from avtomatika.schedules.records import CatchUp, Schedule

if TYPE_CHECKING:
    from avtomatika.jobs import Client
    from avtomatika.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_ENDPOINT = re.compile(r"(/[A-Za-z0-9_.~-]+)+/?", re.ASCII)
_MAX_STATE_LENGTH = 128


class Blueprint:
    """A state machine of handlers; each decides one action a step.

    Args:
        name: letters, digits, `_`, `.`, `-`; one blueprint of a name in a process.
        api_version: of the endpoint, e.g. ``v1``.
        api_endpoint: path under the client API at which jobs are created, e.g. ``/jobs/video``.
        data_stores: objects that the handlers share; a plain dict gets an async get/set face.
        job_timeout_seconds: how long a whole job may take, pauses left out; None means JOB_TIMEOUT_SECONDS.
    """

    def __init__(
        self,
        name: str,
        api_version: str | None = None,
        api_endpoint: str | None = None,
        data_stores: Mapping[str, Any] | None = None,
        *,
        job_timeout_seconds: float | None = None,
    ) -> None:
        self.site = caller_site()
        if api_version is not None and str(api_version).startswith("/"):
            # The original took the endpoint first; a version never begins with a slash.
            api_version, api_endpoint = api_endpoint, api_version
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise refuse(self.site, f"blueprint name {name!r} does not fit", "use letters, digits, _ . and -, 128 at most")
        if api_version is not None and not _NAME.fullmatch(str(api_version)):
            raise refuse(self.site, f"api_version {api_version!r} does not fit", 'write it like "v1"')
        if api_endpoint is not None:
            # The original's examples write it without the slash, too.
            api_endpoint = "/" + str(api_endpoint).removeprefix("/")
            if not _ENDPOINT.fullmatch(api_endpoint):
                raise refuse(self.site, f"api_endpoint {api_endpoint!r} is no path", 'write plain parts, as in "/jobs/video"')
        self.name = name
        self.api_version = api_version
        self.api_endpoint = api_endpoint
        try:
            self.job_timeout_seconds = seconds("job_timeout_seconds", job_timeout_seconds)
        except HandlerError as exc:
            raise refuse(self.site, f"blueprint {name!r}: {exc}", "write it like 3600, or leave it out") from None
        try:
            self.data_stores = DataStores(data_stores)
        except ValueError as exc:
            raise refuse(self.site, f"blueprint {name!r}: {exc}", "rename the store") from None
        #: Of a built-in blueprint: checks a new job's data for a client, and says as what it is stored.
        self.admit: Callable[[dict[str, Any], Client, Settings], dict[str, Any]] | None = None
        self._states: dict[str, State] = {}
        self._planned = Planned(name)
        self._frozen: Analysis | None = None
        self._version = ""

    def add_data_store(self, name: str, initial_data: Any) -> None:
        """Adds a data store after construction."""
        try:
            self.data_stores.add(name, initial_data)
        except ValueError as exc:
            raise refuse(caller_site(), f"blueprint {self.name!r}: {exc}", "rename the store") from None

    def handler_for(self, state: str, is_start: bool = False, is_end: bool = False) -> HandlerDecorator:
        """Decorates the handler of a state; `.when(condition)` on it makes it a conditional one.

        A function may be async or plain; it stays as it is, so that it may be registered for several states.
        """
        site = caller_site()
        return HandlerDecorator(self, self._state_name(state, "handler_for", site), is_start, is_end, site)

    def aggregator_for(self, state: str) -> Callable[[F], F]:
        """Decorates the handler that gets `aggregation_results` once the verdict on a fan-out into this state is good."""
        site = caller_site()
        name = self._state_name(state, "aggregator_for", site)

        def decorate(func: F) -> F:
            self._register(func, name, site, is_aggregator=True)
            return func

        return decorate

    def schedule(
        self,
        *,
        cron: str | None = None,
        every: float | str | timedelta | None = None,
        timezone: str | None = None,
        catch_up: CatchUp | str = CatchUp.LAST,
        name: str | None = None,
        initial_data: Mapping[str, Any] | None = None,
        tags: Collection[str] = (),
        priority: float = 0.0,
    ) -> Callable[[F], F]:
        """Makes jobs of this blueprint by the clock. Stands on a start state's handler, or by itself as a plain call.

        Args:
            cron: five fields, or ``@daily`` and the like.
            every: instead of it seconds, a timedelta, or a text such as ``15m``; counted from when it is first seen.
            timezone: in which `cron` is meant; an IANA name, UTC without one.
            catch_up: what happens about due times that nobody was there for: ``none``, ``last`` or ``all``.
            name: one of a name over all blueprints; the blueprint's own without one.
        """
        site = caller_site()
        if self._frozen is not None:
            raise refuse(site, f"blueprint {self.name!r} is registered already", "add schedules in the module that makes it")
        options = {"cron": cron, "every": every, "timezone": timezone, "catch_up": catch_up, "initial_data": initial_data}
        return self._planned.add(name, {**options, "tags": tags, "priority": priority}, site)

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """Its schedules, in the order of their registration."""
        return self._planned.schedules

    @property
    def start_state(self) -> str:
        """The state in which a job starts; BlueprintError where none is marked (a frozen blueprint has one)."""
        start = self._start()
        if start is None:
            raise refuse(self.site, f"blueprint {self.name!r} has no start state", "mark one: handler_for(state, is_start=True)")
        return start

    @property
    def start_handlers(self) -> tuple[Handler, ...]:
        """The handlers that a new job may begin with."""
        return tuple(self._states[self.start_state].step_handlers)

    @property
    def end_states(self) -> frozenset[str]:
        """The states that end a job."""
        return frozenset(state.name for state in self._states.values() if state.is_end)

    @property
    def states(self) -> tuple[str, ...]:
        """All states, in the order of their registration."""
        return tuple(self._states)

    def has_state(self, state: str) -> bool:
        """Whether a job can go on with a state: it has a handler, and not an aggregator alone."""
        found = self._states.get(state)
        return found is not None and bool(found.step_handlers)

    def has_aggregator(self, state: str) -> bool:
        """Whether a fan-out can join in a state."""
        found = self._states.get(state)
        return found is not None and found.aggregator is not None

    def has_any(self, state: str) -> bool:
        """Whether there is such a state at all."""
        return state in self._states

    @property
    def task_names(self) -> frozenset[str]:
        """The literal names of the tasks that handlers dispatch."""
        return self.analysis().task_names

    @property
    def version(self) -> str:
        """A hash of states, flags, conditions and transitions."""
        return self._version or self.analysis().version()

    @property
    def is_frozen(self) -> bool:
        """Whether it passed its check and takes no further handlers."""
        return self._frozen is not None

    def analysis(self) -> Analysis:
        """What the handlers' sources say."""
        return self._frozen or analyze(self.name, self.site, self._states)

    def check(self, known_tasks: Collection[str] | None = None) -> Report:
        """Checks the blueprint without running it; with `known_tasks`, a task that is none of those is a warning."""
        return check(self.analysis(), known_tasks)

    def freeze(self) -> None:
        """Checks the blueprint once; BlueprintError lists every error. A frozen one takes no further handlers."""
        if self._frozen is None:
            analysis = self.analysis()
            check(analysis).raise_errors(f"blueprint {self.name!r}")
            self._planned.check(self.start_handlers)
            self._frozen, self._version = analysis, analysis.version()

    def select(self, context: JobContext) -> Handler:
        """The handler of the context's state: the first whose condition holds, else the plain one.

        Raises:
            StrandedError: there is no such state here.
            HandlerError: none of its conditions holds, and it has no plain handler.
        """
        state = self._states.get(context.current_state)
        if state is None or not state.step_handlers:
            known = ", ".join(name for name, known in self._states.items() if known.step_handlers)
            raise StrandedError(
                f"blueprint {self.name!r} has no handler for state {context.current_state!r}; it has: {known}. "
                "Correct the state's name where it was decided, or add a handler"
            )
        for handler in state.conditional:
            if handler.condition is not None and handler.condition(context):
                return handler
        if state.plain is None:
            asked = "; ".join(handler.condition.text for handler in state.conditional if handler.condition)
            raise HandlerError(
                f"no condition of state {state.name!r} of blueprint {self.name!r} holds ({asked}) and it has no plain handler; "
                f"add one with handler_for({state.name!r})"
            )
        return state.plain

    def aggregator(self, state: str) -> Handler:
        """The aggregator of a state; StrandedError where it has none."""
        found = self._states.get(state)
        if found is None or found.aggregator is None:
            raise StrandedError(
                f"blueprint {self.name!r} has no aggregator for state {state!r}; add one with aggregator_for({state!r})"
            )
        return found.aggregator

    def graph(self, fmt: str = "dot") -> str:
        """The graph as dot, mermaid, json or svg."""
        return graph.render(self.analysis(), fmt)

    def __repr__(self) -> str:
        return f"<Blueprint {self.name} ({self.site})>"

    def _start(self) -> str | None:
        return next((state.name for state in self._states.values() if state.is_start), None)

    def _state_name(self, state: str, method: str, site: Site) -> str:
        if callable(state):
            raise refuse(site, f"{method} is used without a state", f'write @….{method}("name of the state")')
        if not isinstance(state, str) or not state or state != state.strip() or not state.isprintable():
            raise refuse(site, f"state name {state!r} does not fit", "use a printable text without spaces around it")
        if len(state) > _MAX_STATE_LENGTH:
            raise refuse(site, f"the state's name has {len(state)} characters", f"use {_MAX_STATE_LENGTH} at most")
        return str(state)

    def _register(
        self,
        func: Callable[..., Any],
        name: str,
        site: Site,
        is_start: bool = False,
        is_end: bool = False,
        condition: Condition | None = None,
        is_aggregator: bool = False,
    ) -> None:
        """All or nothing: whatever can be wrong is looked at before anything is changed."""
        if self._frozen is not None:
            raise refuse(site, f"blueprint {self.name!r} is registered already", "add handlers in the module that makes it")
        needs = self._plan(func, name, site)
        known = self._states.get(name)
        if known is not None:
            self._refuse_duplicate(known, site, condition, is_aggregator)
        start = self._start()
        if is_start and start is not None and start != name:
            first = self._states[start].site
            raise refuse(
                site,
                f"blueprint {self.name!r} has a second start state {name!r}, the first is {start!r} ({first})",
                "mark one of them only with is_start=True",
            )
        state = self._states.setdefault(name, State(name, site))
        handler = Handler(state, needs, site, condition, is_aggregator)
        state.is_start = state.is_start or is_start
        state.is_end = state.is_end or is_end
        if is_aggregator:
            state.aggregator = handler
        elif condition is not None:
            state.conditional.append(handler)
        else:
            state.plain = handler

    def _refuse_duplicate(self, state: State, site: Site, condition: Condition | None, is_aggregator: bool) -> None:
        if is_aggregator and state.aggregator is not None:
            what, first, fix = "aggregator", state.aggregator, "fan out into another state"
        elif not is_aggregator and condition is None and state.plain is not None:
            what, first, fix = "plain handler", state.plain, "give it a condition with .when(…), or another state"
        else:
            return
        raise refuse(site, f"state {state.name!r} has a second {what}, the first is {first.name} ({first.site})", fix)

    def _plan(self, func: Callable[..., Any], name: str, site: Site) -> Plan:
        try:
            return plan(func)
        except ValueError as exc:
            place = function_site(func) or site
            message, _, fix = str(exc).partition("; ")
            raise refuse(site, f"the handler of state {name!r} ({place}) does not fit: {message}", fix) from None


class HandlerDecorator:
    """What `handler_for` returns: a decorator, or with `.when` the maker of one."""

    __slots__ = ("_blueprint", "_is_end", "_is_start", "_site", "_state")

    def __init__(self, blueprint: Blueprint, state: str, is_start: bool, is_end: bool, site: Site) -> None:
        self._blueprint = blueprint
        self._state = state
        self._is_start = is_start
        self._is_end = is_end
        self._site = site

    def __call__(self, func: F) -> F:
        self._blueprint._register(func, self._state, self._site, self._is_start, self._is_end)
        return func

    def when(self, condition: str) -> Callable[[F], F]:
        """Decorates a handler that runs only where a condition on the job holds, e.g. ``context.initial_data.size > 10``."""
        try:
            parsed = parse_condition(condition)
        except ConditionError as exc:
            raise ConditionError(f"{self._site}: state {self._state!r}: {exc}") from None

        def decorate(func: F) -> F:
            self._blueprint._register(func, self._state, self._site, self._is_start, self._is_end, parsed)
            return func

        return decorate


StateMachineBlueprint = Blueprint
