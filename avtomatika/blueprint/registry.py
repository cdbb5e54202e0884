"""All blueprints of one process, by name."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from difflib import get_close_matches

from avtomatika import integrations
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.blueprint.sites import Problem, Report, refuse
from avtomatika.errors import BlueprintError, UnknownBlueprintError
from avtomatika.schedules.records import Schedule

logger = logging.getLogger(__name__)


class BlueprintRegistry:
    """Blueprints that passed their check. A name, an API endpoint and a schedule's name are given once."""

    def __init__(self) -> None:
        self._by_name: dict[str, Blueprint] = {}
        self._by_endpoint: dict[tuple[str | None, str], Blueprint] = {}
        self._by_schedule: dict[str, Schedule] = {}

    def register(self, blueprint: Blueprint) -> None:
        """Checks and freezes a blueprint and takes it in; BlueprintError leaves everything as it was."""
        name, endpoint = blueprint.name, blueprint.api_endpoint
        other = self._by_name.get(name)
        if other is blueprint:
            return
        if other is not None:
            raise refuse(
                blueprint.site, f"a blueprint named {name!r} is there already, from {other.site}", "give one of them another name"
            )
        key = None if endpoint is None else (blueprint.api_version, endpoint.rstrip("/"))
        if key is not None and key in self._by_endpoint:
            other = self._by_endpoint[key]
            raise refuse(
                blueprint.site,
                f"blueprint {name!r} has the API endpoint {key[0] or ''}{endpoint} of {other.name!r}, from {other.site}",
                "change api_endpoint or api_version of one of them",
            )
        for schedule in blueprint.schedules:
            if schedule.name in self._by_schedule:
                raise BlueprintError(
                    f"{schedule.origin}: a schedule named {schedule.name!r} is there already, from "
                    f"{self._by_schedule[schedule.name].origin}; give one of them another name"
                )
        blueprint.freeze()
        self._by_schedule.update((schedule.name, schedule) for schedule in blueprint.schedules)
        for problem in blueprint.check().warnings:
            logger.warning("%s", problem, extra={"action": "blueprint_check", "blueprint": name})
        self._by_name[name] = blueprint
        if key is not None:
            self._by_endpoint[key] = blueprint

    def get(self, name: str) -> Blueprint:
        """The blueprint of a name; UnknownBlueprintError names those that there are."""
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownBlueprintError(name, self.names) from None

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._by_name))

    @property
    def task_names(self) -> frozenset[str]:
        """The literal names of all tasks that the blueprints dispatch."""
        return frozenset().union(*(blueprint.task_names for blueprint in self))

    def check(self, known_tasks: Collection[str] | None = None) -> Report:
        """What the blueprints' own checks find, and child blueprints and integrations that nobody here registers."""
        errors: list[Problem] = []
        warnings: list[Problem] = []
        for blueprint in self:
            report = blueprint.check(known_tasks)
            errors.extend(report.errors)
            errors.extend(self._unknown_children(blueprint))
            warnings.extend(report.warnings)
            warnings.extend(self._unknown_integrations(blueprint))
        return Report(tuple(errors), tuple(warnings))

    def _unknown_children(self, blueprint: Blueprint) -> Iterator[Problem]:
        for reading, decision in blueprint.analysis().decisions():
            if decision.kind != "blueprint" or reading.file is None:
                continue
            for name in decision.names:
                if name not in self._by_name:
                    near = get_close_matches(name, self._by_name, 1)
                    fix = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.names)}"
                    yield Problem(reading.file, decision.line, f"run_blueprint names the unknown blueprint {name!r}", fix)

    def warn(self) -> None:
        """Logs what only all files together show and what stops no start: integrations that none of them adds."""
        for blueprint in self:
            for problem in self._unknown_integrations(blueprint):
                logger.warning("%s", problem, extra={"action": "blueprint_check", "blueprint": blueprint.name})

    @staticmethod
    def _unknown_integrations(blueprint: Blueprint) -> Iterator[Problem]:
        known = integrations.known()
        for reading, decision in blueprint.analysis().decisions():
            if decision.kind != "approval" or reading.file is None:
                continue
            for name in decision.names:
                if name not in known:
                    near = get_close_matches(name, known, 1)
                    fix = (
                        f"did you mean {near[0]!r}?"
                        if near
                        else f"there are {', '.join(known)}; add it with @integration({name!r})"
                    )
                    message = f"await_human_approval names the unknown integration {name!r}"
                    yield Problem(reading.file, decision.line, message, fix)

    def __iter__(self) -> Iterator[Blueprint]:
        return iter(tuple(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name
