"""One operation, called in this process as a worker calls it: parameters checked, policy asked, failures judged."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avtomatika.jobs import Client
from avtomatika.operations.base import Family
from avtomatika.operations.config import OperationsConfig
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.policy import Permit
from avtomatika.operations.secrets import refuse_secrets


@dataclass
class Caller:
    """A client of one family with a policy.

    Attributes:
        policy: the fields of its ``[policy.<role>]``; every operation of the family is allowed.
        credentials: the fields of each ``[credentials.<name>]``.
        op: the context of the last call.
    """

    family: Family
    policy: dict[str, Any] = field(default_factory=dict)
    credentials: dict[str, dict[str, Any]] = field(default_factory=dict)
    op: OperationContext | None = None

    def permit(self) -> Permit:
        config = OperationsConfig.model_validate(
            {
                "credentials": {name: {"name": name, **values} for name, values in self.credentials.items()},
                "policy": {"tester": {"name": "tester", "operations": list(self.family.operations), **self.policy}},
            }
        )
        return Permit(Client(name="tester", role="tester"), config, config.policy["tester"])

    def call(self, name: str, /, **params: Any) -> dict[str, Any]:
        """Its result. Raises OperationError as the engine would store it."""
        operation, op = self._prepared(name, params)
        refuse_secrets(params)
        parsed = operation.parse(params)
        operation.allow(parsed, op.permit)
        try:
            done = operation.run(parsed, op)
            result = asyncio.run(_awaited(done)) if inspect.isawaitable(done) else done
            return op.mask.json(result)
        except (OperationError, OperationStopped):
            raise
        except Exception as exc:
            known = self.family.judge(exc)
            if known is None:
                raise
            raise known from exc

    def fails(self, name: str, /, **params: Any) -> OperationError:
        """The error that it ends with."""
        try:
            result = self.call(name, **params)
        except OperationError as exc:
            return exc
        raise AssertionError(f"{name} succeeded: {result}")

    def _prepared(self, name: str, params: Mapping[str, Any]) -> tuple[Any, OperationContext]:
        self.op = OperationContext(name, dict(params), self.permit(), task_id="task", job_id="job", attempt=1, seconds=60)
        return self.family.operations[name], self.op


async def _awaited(work: Any) -> Any:
    return await work


class Running:
    """A call in a thread, to be stopped in its middle."""

    def __init__(self, caller: Caller, name: str, /, **params: Any) -> None:
        self.error: BaseException | None = None
        self.result: dict[str, Any] | None = None
        self._caller = caller
        self._thread = threading.Thread(target=self._run, args=(name, params), daemon=True)
        self._thread.start()

    def _run(self, name: str, params: dict[str, Any]) -> None:
        try:
            self.result = self._caller.call(name, **params)
        except BaseException as exc:
            self.error = exc

    def stop(self, reason: StopReason = StopReason.CANCEL) -> BaseException | None:
        """What it raised, after it was told to stop."""
        assert self._caller.op is not None
        self._caller.op.stop(reason)
        return self.end()

    def end(self) -> BaseException | None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "it goes on"
        return self.error
