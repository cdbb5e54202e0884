"""Where something of a blueprint is written, and what is wrong with it: file, line, message, fix."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from avtomatika.errors import BlueprintError

_ROOM = __name__.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a source file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding of the check: where it is, what is wrong, and how to mend it."""

    file: str
    line: int
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. Errors refuse the blueprint, warnings do not."""

    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def raise_errors(self, title: str) -> None:
        """Raises BlueprintError with every error in its message; does nothing where there is none."""
        if self.errors:
            lines = tuple(str(problem) for problem in self.errors)
            raise BlueprintError("\n  ".join((f"{title} is refused:", *lines)), lines)


def refuse(site: Site, message: str, fix: str) -> BlueprintError:
    """The error of a registration that is turned down."""
    return BlueprintError(str(Problem(site.file, site.line, message, fix)))


def caller_site() -> Site:
    """The line of user code that called into this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith(_ROOM + "."):
        frame = frame.f_back
    return Site(frame.f_code.co_filename, frame.f_lineno)


def function_site(func: Any) -> Site | None:
    """Where a function begins, its decorators included; None for what has no Python code."""
    code = getattr(func, "__code__", None)
    return None if code is None else Site(code.co_filename, code.co_firstlineno)
