"""An operation called as a worker calls it, without a worker: its parameters checked, its permit asked, its errors judged."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from avtomatika.jobs import Client
from avtomatika.operations.config import CredentialEntry, HostEntry, OperationsConfig, PolicyEntry
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.policy import Permit
from avtomatika.operations.registry import registry
from avtomatika.results import JSON


class Bench:
    """What an operator's file says, and operations that run under it.

    Args:
        roots: where files may lie.
        credentials: and hosts: all of them may be used.
        entry: more of the policy.
    """

    def __init__(
        self,
        *roots: Path,
        credentials: Mapping[str, Mapping[str, Any]] | None = None,
        hosts: Mapping[str, Mapping[str, Any]] | None = None,
        **entry: Any,
    ) -> None:
        config = OperationsConfig(
            credentials={name: CredentialEntry(name=name, **values) for name, values in (credentials or {}).items()},
            hosts={name: HostEntry(name=name, **values) for name, values in (hosts or {}).items()},
        )
        entry.setdefault("operations", tuple(operation.name for operation in registry()))
        everything = {"hosts": tuple(config.hosts), "credentials": tuple(config.credentials), "local_roots": roots}
        self.permit = Permit(Client("tester"), config, PolicyEntry(name="default", **{**everything, **entry}))
        self.last: OperationContext | None = None

    def context(self, name: str, params: JSON, **options: Any) -> OperationContext:
        return OperationContext(name, params, self.permit, job_id="job", task_id="task", **options)

    def run(self, name: str, params: JSON, *, before: Callable[[OperationContext], Any] | None = None, **options: Any) -> JSON:
        """Its result. `before` gets its context first: to stop it, or to listen to it."""
        operation = registry().get(name)
        parsed = operation.parse(params)
        operation.allow(parsed, self.permit)
        op = self.last = self.context(name, params, **options)
        if before is not None:
            before(op)
        try:
            found: Any = operation.run(parsed, op)
            if inspect.isawaitable(found):
                found = asyncio.run(_awaited(found))
        except (OperationError, OperationStopped):
            raise
        except Exception as exc:
            known = operation.meaning(exc)
            if known is None:
                raise
            raise known from exc
        result: JSON = op.mask.json(found)
        return result

    def fails(self, name: str, params: JSON, **options: Any) -> OperationError:
        """The error that it ends with."""
        try:
            found = self.run(name, params, **options)
        except OperationError as exc:
            return exc
        raise AssertionError(f"{name} went well: {found}")


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def stop_at(count: int, reason: StopReason = StopReason.CANCEL) -> Callable[[OperationContext], None]:
    """Stops an operation at its checkpoint of this number."""

    def prepare(op: OperationContext) -> None:
        checkpoint = op.checkpoint
        left = [count]

        def counted() -> None:
            left[0] -= 1
            if left[0] <= 0:
                op.stop(reason)
            checkpoint()

        op.checkpoint = counted  # type: ignore[method-assign]

    return prepare
