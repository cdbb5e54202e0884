"""The schedules that a blueprint's own module gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from avtomatika.blueprint.handlers import Handler
from avtomatika.blueprint.sites import Site, refuse
from avtomatika.schedules.definition import MisfitError, make_schedule
from avtomatika.schedules.records import Schedule

F = TypeVar("F", bound=Callable[..., Any])


class Planned:
    """The schedules of one blueprint, by name."""

    def __init__(self, blueprint: str) -> None:
        self._blueprint = blueprint
        self._schedules: dict[str, Schedule] = {}
        self._decorated: list[tuple[Callable[..., Any], Site]] = []

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        return tuple(self._schedules.values())

    def add(self, name: str | None, options: Mapping[str, Any], site: Site) -> Callable[[F], F]:
        """Takes a schedule in, at once, and returns a decorator that leaves its function as it is; BlueprintError."""
        name = self._blueprint if name is None else name
        if name in self._schedules:
            raise refuse(
                site,
                f"blueprint {self._blueprint!r} has a second schedule {name!r}, the first is in {self._schedules[name].origin}",
                "give it another name=",
            )
        try:
            self._schedules[name] = make_schedule(name, self._blueprint, options, str(site))
        except MisfitError as exc:
            message, _, fix = str(exc).partition("; ")
            raise refuse(site, f"schedule {name!r} of blueprint {self._blueprint!r}: {message}", fix) from None

        def decorate(func: F) -> F:
            self._decorated.append((func, site))
            return func

        return decorate

    def check(self, start_handlers: Iterable[Handler]) -> None:
        """BlueprintError where a schedule stands on what a job does not begin with."""
        starts = {handler.func for handler in start_handlers}
        for func, site in self._decorated:
            if func not in starts:
                raise refuse(
                    site,
                    f"a schedule of blueprint {self._blueprint!r} stands on {getattr(func, '__name__', func)!s}, with which no "
                    "job begins",
                    "put it on the handler of the start state, or call schedule(…) by itself",
                )
