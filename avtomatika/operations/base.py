"""How an operation is declared: a family, its parameters, its function, and which failure means what."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from avtomatika.errors import RegistrationError
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError
from avtomatika.results import JSON

if TYPE_CHECKING:
    from avtomatika.operations.context import OperationContext
    from avtomatika.operations.policy import Permit

Run = Callable[[Any, "OperationContext"], JSON | Awaitable[JSON]]
F = TypeVar("F", bound=Callable[..., Any])
Guard = Callable[[Any, "Permit"], Any]
#: Says what an exception means, by its TYPE and numbers; None where it is unknown to the family.
Judge = Callable[[BaseException], OperationError | None]

#: What a pydantic error's type means; everything else is VALIDATION_INVALID_PARAMS.
_MISFITS = {
    "missing": TaskErrorCode.VALIDATION_MISSING_REQUIRED,
    "string_pattern_mismatch": TaskErrorCode.VALIDATION_INVALID_FORMAT,
    "url_parsing": TaskErrorCode.VALIDATION_INVALID_FORMAT,
    "greater_than": TaskErrorCode.VALIDATION_OUT_OF_RANGE,
    "greater_than_equal": TaskErrorCode.VALIDATION_OUT_OF_RANGE,
    "less_than": TaskErrorCode.VALIDATION_OUT_OF_RANGE,
    "less_than_equal": TaskErrorCode.VALIDATION_OUT_OF_RANGE,
}


def misfits(what: str, exc: ValidationError, code: TaskErrorCode | None = None) -> OperationError:
    """What does not fit, as the queue says it: each misfit by its field, and a VALIDATION code for the first of them."""
    found = exc.errors(include_url=False, include_input=False, include_context=False)
    named = [{"field": ".".join(str(part) for part in error["loc"]), "message": error["msg"]} for error in found]
    said = "; ".join(f"{misfit['field'] or 'params'}: {misfit['message']}" for misfit in named)
    code = code or _MISFITS.get(found[0]["type"], TaskErrorCode.VALIDATION_INVALID_PARAMS)
    return OperationError(code, f"{what} do{'' if ' of ' in what else 'es'} not fit: {said}", details={"misfits": named})


class Params(BaseModel):
    """The parameters of an operation. What it does not know is refused: a misspelt option would be no option."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


@dataclass(frozen=True)
class Operation:
    """One kind of task.

    Attributes:
        name: such as ``scp_upload``.
        capability: the queue family of the workers that run it.
        run: gets the checked parameters and the context; a plain function runs in a thread, a coroutine function on the loop.
        timeout_seconds: of an attempt, unless the task says otherwise.
        max_retries: the same.
        pausable: it looks at `OperationContext.checkpoint` often, and goes on where it stopped.
        privileged: a policy has to name it in full: no pattern with ``*`` allows it.
        guard: asks the permit for all that the parameters name: hosts, paths, commands. It is called when the task is queued, and
            again where it runs.
        judge: what exceptions mean in this operation, where that is not what they mean in its family.
    """

    name: str
    family: Family
    capability: str
    params: type[Params]
    run: Run
    timeout_seconds: float = 300.0
    max_retries: int = 3
    pausable: bool = False
    privileged: bool = False
    guard: Guard | None = None
    judge: Judge | None = None

    @cached_property
    def summary(self) -> str:
        return (inspect.getdoc(self.run) or "").split("\n", 1)[0]

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.run)

    def allow(self, params: Params, permit: Permit) -> None:
        """Raises PolicyError where the permit does not allow this operation, or something that its parameters name."""
        permit.check(self)
        if self.guard is not None:
            self.guard(params, permit)

    def meaning(self, exc: BaseException) -> OperationError | None:
        """The failure that an exception stands for; None where nobody knows it."""
        return (self.judge or self.family.judge)(exc)

    def parse(self, params: JSON) -> Params:
        """The parameters, checked. Raises OperationError with a VALIDATION code that names each misfit."""
        try:
            return self.params.model_validate(params)
        except ValidationError as exc:
            raise misfits(f"params of {self.name}", exc) from None


@dataclass(eq=False)
class Family:
    """Operations that belong together, on one library.

    Args:
        name: such as ``docker``.
        capability: of its operations, unless one names its own; the family's name without it.
        extra: what to install: ``pip install avtomatika[<extra>]``.
        modules: what it imports, when it runs.
        programs: what it calls, found on PATH.
        judge: what the library's exceptions mean.
        slots: how many of its operations a worker runs at once.
    """

    name: str
    capability: str = ""
    extra: str | None = None
    modules: Collection[str] = ()
    programs: Collection[str] = ()
    judge: Judge = lambda exc: None
    slots: int = 4
    slots_of: dict[str, int] = field(default_factory=dict)  # of further capabilities
    operations: dict[str, Operation] = field(default_factory=dict)

    def operation(
        self,
        name: str,
        *,
        capability: str = "",
        timeout_seconds: float = 300.0,
        max_retries: int = 3,
        pausable: bool = False,
        privileged: bool = False,
        guard: Guard | None = None,
        judge: Judge | None = None,
    ) -> Callable[[F], F]:
        """Declares a function ``(params: SomeParams, op: OperationContext) -> dict`` as an operation."""

        def declare(func: F) -> F:
            params = inspect.get_annotations(func, eval_str=True).get(next(iter(inspect.signature(func).parameters)))
            if not isinstance(params, type) or not issubclass(params, Params):
                raise RegistrationError(f"operation {name!r}: annotate its first parameter with a subclass of Params")
            if name in self.operations:
                raise RegistrationError(f"operation {name!r} is declared twice in the family {self.name!r}")
            self.operations[name] = Operation(
                name,
                self,
                capability or self.capability or self.name,
                params,
                func,
                timeout_seconds=timeout_seconds,
                max_retries=max_retries,
                pausable=pausable,
                privileged=privileged,
                guard=guard,
                judge=judge,
            )
            return func

        return declare

    def lacks(self) -> str | None:
        """Why this machine cannot run the family, with the fix; None where it can."""
        missing = [name for name in self.modules if find_spec(name) is None]
        if missing:
            return f"{', '.join(missing)} cannot be imported: pip install 'avtomatika[{self.extra or self.name}]'"
        missing = [name for name in self.programs if shutil.which(name) is None]
        if missing:
            return f"{', '.join(missing)} is not on PATH: install it"
        return None
