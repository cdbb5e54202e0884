"""The static check of a blueprint: its handlers are read, not run, and what cannot work is named with file, line and fix."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from avtomatika.blueprint.decisions import Decision, FactoryUse, find_decisions, find_misuse
from avtomatika.blueprint.flow import FlowResult, analyze_flow
from avtomatika.blueprint.handlers import Handler, State
from avtomatika.blueprint.sites import Problem, Report, Site
from avtomatika.blueprint.source import Scope, Sources, Target

_ANYWHERE = Decision("unknown", 0, is_open=True, targets=(Target(None, None, 0),))


@dataclass(frozen=True, slots=True)
class Reading:
    """What one handler's source says. Without a source (`file` is None) it may decide anything."""

    handler: Handler
    decisions: tuple[Decision, ...]
    flow: FlowResult
    file: str | None = None
    line: int = 0
    misuse: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that is known of a blueprint without running it: the check, the graph and the version are made of it."""

    name: str
    site: Site
    states: Mapping[str, State]
    readings: Mapping[str, tuple[Reading, ...]] = field(default_factory=dict)

    @property
    def start_state(self) -> str | None:
        """The state in which a job starts."""
        return next((state.name for state in self.states.values() if state.is_start), None)

    @property
    def task_names(self) -> frozenset[str]:
        """The literal names of the tasks that handlers dispatch."""
        return frozenset(
            name for _, decision in self.decisions() if decision.kind in ("task", "parallel") for name in decision.names
        )

    def decisions(self) -> Iterator[tuple[Reading, Decision]]:
        """Every decision, with the handler that takes it."""
        for readings in self.readings.values():
            for reading in readings:
                for decision in reading.decisions:
                    yield reading, decision

    def reachable(self) -> frozenset[str]:
        """The states that a job can come to; a target that is no literal counts as any state."""
        found: set[str] = set()
        todo = [self.start_state] if self.start_state is not None else list(self.states)
        while todo:
            state = todo.pop()
            if state in found or state not in self.states:
                continue
            found.add(state)
            for reading in self.readings[state]:
                for target in (target for decision in reading.decisions for target in decision.targets):
                    if target.state is None:
                        return frozenset(self.states)
                    todo.append(target.state)
        return frozenset(found)

    def version(self) -> str:
        """A hash of states, flags, conditions and transitions: the same wherever the same blueprint is loaded."""
        content = [
            [
                state.name,
                state.is_start,
                state.is_end,
                [_shape(reading) for reading in self.readings[state.name]],
            ]
            for state in sorted(self.states.values(), key=lambda state: state.name)
        ]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:16]


def _shape(reading: Reading) -> list[object]:
    handler = reading.handler
    decisions = sorted(
        json.dumps([d.kind, sorted(d.names), d.is_open, sorted([t.status or "", t.state or ""] for t in d.targets)])
        for d in reading.decisions
    )
    return [handler.is_aggregator, handler.condition.text if handler.condition else None, decisions]


def analyze(name: str, site: Site, states: Mapping[str, State]) -> Analysis:
    """Reads the source of every handler."""
    sources = Sources()
    return Analysis(
        name,
        site,
        states,
        {state.name: tuple(_read(handler, sources) for handler in state.handlers) for state in states.values()},
    )


def _read(handler: Handler, sources: Sources) -> Reading:
    found = sources.find(handler.func)
    if found is None:
        return Reading(handler, (_ANYWHERE,), FlowResult(raises=True, hands_on=True, completes=True))
    node, func = found
    file = func.__code__.co_filename
    scope = Scope(node, func)
    use = FactoryUse(node, scope)
    decisions = find_decisions(node, scope, use)
    flow = analyze_flow(node, use)
    if flow.hands_on:
        decisions.append(_ANYWHERE)
    return Reading(handler, tuple(decisions), flow, file, node.lineno, tuple(find_misuse(node, file, use)))


def check(analysis: Analysis, known_tasks: Collection[str] | None = None) -> Report:
    """Every error and warning of a blueprint, sorted by place."""
    errors: list[Problem] = []
    warnings: list[Problem] = []
    errors.extend(_start(analysis))
    errors.extend(_targets(analysis))
    errors.extend(_reachability(analysis))
    for readings in analysis.readings.values():
        for reading in readings:
            errors.extend(reading.misuse)
            errors.extend(_end_actions(reading) if reading.handler.is_end else _paths(reading))
            warnings.extend(_doubts(reading))
    warnings.extend(_states(analysis))
    if known_tasks is not None:
        warnings.extend(_tasks(analysis, known_tasks))
    return Report(_sorted(errors), _sorted(warnings))


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line)))


def _start(analysis: Analysis) -> Iterator[Problem]:
    site = analysis.site
    if not analysis.states:
        yield Problem(site.file, site.line, f"blueprint {analysis.name!r} has no handlers", "add one with @….handler_for(state)")
    elif analysis.start_state is None:
        first = next(iter(analysis.states))
        yield Problem(
            site.file,
            site.line,
            f"blueprint {analysis.name!r} has no start state",
            f"mark one: handler_for({first!r}, is_start=True)",
        )


def _targets(analysis: Analysis) -> Iterator[Problem]:
    for reading, decision in analysis.decisions():
        for target in decision.targets:
            if target.state is None or reading.file is None:
                continue
            state = analysis.states.get(target.state)
            joins = decision.kind == "parallel" and target.status is None
            if state is None:
                yield Problem(reading.file, target.line, *_unknown_state(target.state, joins, analysis))
            elif joins and state.aggregator is None:
                yield Problem(
                    reading.file,
                    target.line,
                    f"state {state.name!r} has no aggregator for the results of the fan-out",
                    f"add one with aggregator_for({state.name!r})",
                )
            elif not joins and not state.step_handlers:
                yield Problem(
                    reading.file,
                    target.line,
                    f"state {state.name!r} has an aggregator only, which runs after dispatch_parallel alone",
                    f"add a handler with handler_for({state.name!r}), or go to another state",
                )


def _unknown_state(name: str, joins: bool, analysis: Analysis) -> tuple[str, str]:
    near = get_close_matches(name, analysis.states, 1)
    make = "aggregator_for" if joins else "handler_for"
    fix = f"did you mean {near[0]!r}? Otherwise" if near else "correct the name, or"
    return f"unknown state {name!r}", f"{fix} add a handler with {make}({name!r})"


def _reachability(analysis: Analysis) -> Iterator[Problem]:
    if analysis.start_state is None:
        return
    reachable = analysis.reachable()
    for state in analysis.states.values():
        if state.name in reachable:
            continue
        what = "aggregator of state" if not state.step_handlers else "state"
        fix = "fan out into it with dispatch_parallel" if not state.step_handlers else "let a handler go there"
        yield Problem(
            state.site.file, state.site.line, f"{what} {state.name!r} is never reached from the start", f"{fix}, or remove it"
        )
    if not any(_can_stop(analysis, name) for name in reachable):
        site = analysis.states[analysis.start_state].site
        yield Problem(
            site.file,
            site.line,
            f"no end state is reached from the start state {analysis.start_state!r}: a job would never end",
            "let a handler go to an end state: handler_for(state, is_end=True)",
        )


def _can_stop(analysis: Analysis, name: str) -> bool:
    """Whether a job can end in a state: it is an end, its handler raises, or what it waits for leads nowhere."""
    if analysis.states[name].is_end:
        return True
    return any(
        reading.flow.raises
        or any(not decision.targets for decision in reading.decisions)
        or any(target.state is None for decision in reading.decisions for target in decision.targets)
        for reading in analysis.readings[name]
    )


def _end_actions(reading: Reading) -> Iterator[Problem]:
    handler = reading.handler
    for decision in reading.decisions:
        if reading.file is not None and decision.line:
            yield Problem(
                reading.file,
                decision.line,
                f"{handler.name} handles the end state {handler.state!r}, where nothing is decided any more",
                "remove the action, or is_end=True",
            )


def _paths(reading: Reading) -> Iterator[Problem]:
    if reading.file is None:
        return
    handler, flow = reading.handler, reading.flow
    for line in sorted(flow.missing):
        if not reading.decisions:
            message = f"{handler.name} of state {handler.state!r} decides no action"
            fix = "call one of actions' methods, or mark the state with is_end=True"
        else:
            message = f"{handler.name} of state {handler.state!r} can end without an action on a path through this line"
            fix = "decide one on every path, such as an else branch with actions.transition_to(…)"
        yield Problem(reading.file, line, message, fix)
    for second, first in sorted(flow.double):
        yield Problem(
            reading.file,
            second,
            f"{handler.name} of state {handler.state!r} decides a second action here, after that of line {first}",
            f"return after line {first}, or split the state in two: one action a step",
        )


def _doubts(reading: Reading) -> Iterator[Problem]:
    handler = reading.handler
    if reading.file is None:
        yield Problem(
            handler.site.file,
            handler.site.line,
            f"the source of {handler.name} is not at hand, so that its part of the check is left out",
            "define handlers with `def` in a module's file",
        )
        return
    if handler.is_end:
        return
    for line in sorted(reading.flow.maybe_missing):
        yield Problem(
            reading.file,
            line,
            f"{handler.name} of state {handler.state!r} may end without an action on a path through this line",
            "decide one after the loop or the last condition",
        )
    for line in sorted(reading.flow.repeated):
        yield Problem(
            reading.file,
            line,
            f"{handler.name} of state {handler.state!r} decides an action in a loop, and one step takes one only",
            "leave the loop with break or return after it, or use dispatch_parallel for many tasks",
        )
    for decision in reading.decisions:
        if decision.kind in ("task", "blueprint", "approval") and not decision.targets:
            yield Problem(
                reading.file,
                decision.line,
                "no transitions are given, so that any result fails the job",
                'name the next states: transitions={"success": …}',
            )


def _states(analysis: Analysis) -> Iterator[Problem]:
    joins = {t.state for _, d in analysis.decisions() if d.kind == "parallel" for t in d.targets if t.status is None}
    anywhere = any(t.state is None for _, d in analysis.decisions() for t in d.targets)
    for state in analysis.states.values():
        if state.conditional and state.plain is None:
            yield Problem(
                state.site.file,
                state.site.line,
                f"state {state.name!r} has conditional handlers only: a job that fits none fails there",
                f"add a plain one with handler_for({state.name!r})",
            )
        if state.aggregator is not None and state.step_handlers and not anywhere and state.name not in joins:
            site = state.aggregator.site
            message = f"the aggregator of state {state.name!r} is never called"
            yield Problem(site.file, site.line, message, "fan out into it with dispatch_parallel, or remove it")
        seen: dict[str, Handler] = {}
        for handler in state.conditional:
            assert handler.condition is not None
            first = seen.setdefault(handler.condition.text, handler)
            if first is not handler:
                message = f"{handler.name} has the condition of {first.name} ({first.site}), which is asked first"
                yield Problem(handler.site.file, handler.site.line, message, "change one condition, or remove a handler")


def _tasks(analysis: Analysis, known_tasks: Collection[str]) -> Iterator[Problem]:
    for reading, decision in analysis.decisions():
        if decision.kind not in ("task", "parallel") or decision.is_plain:
            continue
        for name in decision.names:
            if name not in known_tasks:
                near = get_close_matches(name, known_tasks, 1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                yield Problem(
                    reading.file or reading.handler.site.file,
                    decision.line,
                    f"no worker here declares the task {name!r}",
                    f"{hint}Declare it with @worker.task({name!r}), or a job waits until a worker brings it",
                )
