"""An operation as a worker calls it, without a worker: checked, allowed, run, its exceptions judged."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from avtomatika.jobs import Client
from avtomatika.operations.base import Operation, Params
from avtomatika.operations.config import OperationsConfig
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import StopReason
from avtomatika.operations.policy import permit_of
from avtomatika.operations.registry import registry
from avtomatika.operations.run import Attempt


def config_of(text: str) -> OperationsConfig:
    """The text of an operations.toml, as it is read."""
    values = tomllib.loads(text)
    for table in values.values():
        for name, entry in table.items():
            entry["name"] = name
    return OperationsConfig.model_validate(values)


@dataclass
class Call:
    """One attempt at an operation.

    Attributes:
        lines: what it has logged so far.
    """

    operation: Operation
    params: Params
    op: OperationContext
    lines: list[str] = field(default_factory=list)
    _work: asyncio.Task[Any] | None = None

    async def run(self) -> dict[str, Any]:
        try:
            attempt = Attempt(cast(Any, None), self.operation, "task", "job", self.op.attempt, None)
            result = await attempt._call(self.op, self.params)
            assert isinstance(result, dict)
            return cast(dict[str, Any], self.op.mask.json(result))
        finally:
            self.log()

    def start(self) -> asyncio.Task[dict[str, Any]]:
        return asyncio.create_task(self.run())

    def stop(self, reason: StopReason = StopReason.CANCEL) -> None:
        self.op.stop(reason)

    def log(self) -> str:
        report = self.op.take_report()
        if report is not None:
            self.lines += [text for _, text in report.lines]
        return "\n".join(self.lines)


def make_call(
    name: str,
    params: Mapping[str, Any],
    config: str,
    *,
    role: str = "default",
    attempt: int = 1,
    job: str = "job",
    seconds: float | None = None,
) -> Call:
    """Raises what the queue would: for parameters that do not fit, and for what the policy refuses."""
    operation = registry().get(name)
    permit = permit_of(Client(name="tester", role=role), "operation", config_of(config))
    permit.check(operation)
    parsed = operation.parse(dict(params))
    operation.allow(parsed, permit)
    op = OperationContext(name, dict(params), permit, task_id="task", job_id=job, attempt=attempt, seconds=seconds)
    return Call(operation, parsed, op)


async def call(name: str, params: Mapping[str, Any], config: str, **options: Any) -> dict[str, Any]:
    """The result of an operation."""
    return await make_call(name, params, config, **options).run()
