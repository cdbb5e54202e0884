"""What every command of the queue is: a name, a schema, and what it answers, or why it cannot."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from avtomatika.addresses import UrlRefusedError
from avtomatika.errors import AvtomatikaError, StoreUnavailableError, WrongStateError
from avtomatika.jobs import JSON
from avtomatika.operations.base import misfits
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, PolicyError
from avtomatika.queue.errors import ActionFailedError, UnknownTaskError
from avtomatika.queue.task import iso
from avtomatika.queue.taskqueue import TaskQueue

logger = logging.getLogger(__name__)

VALIDATION_ERROR, TASK_NOT_FOUND, ACTION_FAILED = "VALIDATION_ERROR", "TASK_NOT_FOUND", "ACTION_FAILED"
#: The role's policy does not allow it.
FORBIDDEN = "FORBIDDEN"


class CommandParams(BaseModel):
    """The params of a command; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class SuccessResult:
    """What a command answers."""

    data: JSON

    def to_dict(self) -> JSON:
        return self.data


@dataclass(frozen=True, slots=True)
class ErrorResult:
    """Why a command was not carried out.

    Attributes:
        code: VALIDATION_ERROR, TASK_NOT_FOUND, ACTION_FAILED, FORBIDDEN, or the command's own for everything else.
        details: facts; for VALIDATION_ERROR `code` (a `TaskErrorCode`) and `misfits`.
    """

    message: str
    code: str
    details: JSON = field(default_factory=dict)

    def to_dict(self) -> JSON:
        return {"error": self.message, "code": self.code, "details": self.details}


class RefusedError(AvtomatikaError):
    """A command was not carried out; `result` says why."""

    def __init__(self, result: ErrorResult) -> None:
        super().__init__(result.message)
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.result,)


P = TypeVar("P", bound=CommandParams)


class Command(ABC, Generic[P]):
    """One command, on a client's queue; without one on that of this process.

    Attributes:
        name: such as ``queue_push``.
        params: the model of what it takes.
        other_error: the code of errors that have none of their own.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    other_error: ClassVar[str] = "QUEUE_ERROR"
    params: type[P]

    def __init__(self, queue: TaskQueue | None = None) -> None:
        self.queue = queue or TaskQueue()

    @property
    def schema(self) -> JSON:
        """The JSON schema of its params."""
        return self.params.model_json_schema()

    async def execute(self, **params: Any) -> SuccessResult | ErrorResult:
        """Carries it out. Nothing is raised: whatever went wrong is the result."""
        try:
            return SuccessResult(await self.run(params))
        except RefusedError as exc:
            return exc.result
        except StoreUnavailableError as exc:
            return ErrorResult(str(exc), self.other_error, {"transient": True})
        except Exception as exc:
            logger.exception("%s failed", self.name, extra={"action": "queue_command"})
            return ErrorResult(f"{self.name} failed: {type(exc).__name__}", self.other_error)

    async def run(self, params: Mapping[str, Any], *, repeatable: Mapping[str, Any] | None = None) -> JSON:
        """The same, raising RefusedError; and StoreUnavailableError while the store is away.

        Args:
            repeatable: options of `TaskQueue.push` that are no params: idempotency_key, repeated.
        """
        with self._refusals():
            try:
                checked = self.params.model_validate(dict(params))
            except ValidationError as exc:
                raise misfits(f"params of {self.name}", exc) from None
            answer = await self.carry_out(checked, dict(repeatable or {}))
        return {**answer, "timestamp": iso(datetime.now(UTC))}

    @abstractmethod
    async def carry_out(self, params: P, options: JSON) -> JSON:
        """What it answers, without the timestamp."""

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except PolicyError as exc:
            raise RefusedError(ErrorResult(str(exc), FORBIDDEN, exc.details)) from None
        except OperationError as exc:
            raise RefusedError(ErrorResult(str(exc), VALIDATION_ERROR, {"code": exc.code.value, **exc.details})) from None
        except UrlRefusedError as exc:
            details = {"code": TaskErrorCode.VALIDATION_INVALID_PARAMS.value, "field": "webhook_url"}
            raise RefusedError(ErrorResult(f"webhook_url: {exc}", VALIDATION_ERROR, details)) from None
        except UnknownTaskError as exc:
            raise RefusedError(ErrorResult(str(exc), TASK_NOT_FOUND, {"task_id": exc.task_id})) from None
        except ActionFailedError as exc:
            said = {"action": exc.action, "task_id": exc.task_id, "current_status": str(exc.current_status), "reason": exc.reason}
            raise RefusedError(ErrorResult(str(exc), ACTION_FAILED, said)) from None
        except WrongStateError as exc:  # an idempotency key of another task
            details = {"code": TaskErrorCode.QUEUE_TASK_DUPLICATE.value, "reason": str(exc)}
            raise RefusedError(ErrorResult(str(exc), ACTION_FAILED, details)) from None
