"""All families of operations: this package's, and those of other packages, by the entry point ``avtomatika.operations``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import entry_points

from avtomatika.errors import RegistrationError
from avtomatika.operations.base import Family, Operation
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError

logger = logging.getLogger(__name__)

GROUP = "avtomatika.operations"


class Registry:
    """Families by name, and their operations by type; each given once.

    Attributes:
        broken: families that could not be loaded: name -> why.
    """

    def __init__(self, families: Iterable[Family] = ()) -> None:
        self.families: dict[str, Family] = {}
        self.broken: dict[str, str] = {}
        self._operations: dict[str, Operation] = {}
        for family in families:
            self.add(family)

    def add(self, family: Family) -> None:
        """Takes a family in, all or nothing."""
        if family.name in self.families:
            raise RegistrationError(f"there are two families of operations named {family.name!r}: uninstall one of them")
        for type_ in family.operations:
            if type_ in self._operations:
                other = self._operations[type_].family.name
                raise RegistrationError(f"operation {type_!r} is in the families {other!r} and {family.name!r}: rename one")
        self.families[family.name] = family
        self._operations.update(family.operations)

    def get(self, type_: str) -> Operation:
        """The operation of a type; OperationError (VALIDATION_INVALID_PARAMS) suggests a near one."""
        found = self._operations.get(type_)
        if found is None:
            near = get_close_matches(type_, self._operations, 1)
            hint = f"did you mean {near[0]!r}?" if near else "`avtomatika queue operations` lists those that there are"
            raise OperationError(TaskErrorCode.VALIDATION_INVALID_PARAMS, f"unknown task type {type_!r}: {hint}")
        return found

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._operations.values())

    def __contains__(self, type_: object) -> bool:
        return type_ in self._operations


@lru_cache(maxsize=1)
def registry() -> Registry:
    """What is installed. A family that cannot be loaded is logged and left out: the others go on."""
    found = Registry()
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.dist is None or point.dist.name, point.name)):
        try:
            family = point.load()
            if not isinstance(family, Family):
                raise RegistrationError(f"{point.value} is no avtomatika.operations.Family")
            found.add(family)
        except Exception as exc:
            found.broken[point.name] = f"{type(exc).__name__}: {exc}"
            logger.warning(
                "the operations %r of %s are left out: %s", point.name, point.value, exc, extra={"action": "family_broken"}
            )
    return found
