"""Operations as worker tasks: an attempt, from its stored parameters to its result envelope."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from avtomatika.errors import ErrorCode, InvalidInputError, PermanentError, StoreUnavailableError, TaskError, TransientError
from avtomatika.jobs import Job, Result, TaskInfo
from avtomatika.operations.audit import Trail
from avtomatika.operations.base import Operation
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import OperationsConfig, operations_config
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.policy import allows_somewhere, permit_of
from avtomatika.operations.registry import registry
from avtomatika.operations.secrets import refuse_secrets
from avtomatika.results import JSON
from avtomatika.worker.cancellation import CancelReason, current_cancel_reason
from avtomatika.worker.sdk import Worker

if TYPE_CHECKING:
    from avtomatika.runtime import Runtime

logger = logging.getLogger(__name__)

#: The status of an attempt that has paused.
PAUSED = "paused"
#: Where the job keeps how far it was then, 0..1.
PAUSED_AT = "paused_at"
#: Seconds between two reports of a running operation.
REPORT_SECONDS = 0.5
#: Seconds between two looks at whether its job is to pause.
LOOK_SECONDS = 1.0
#: Lines of a job's log that are kept.
LOG_LINES = 1000

_KINDS: dict[str, type[TaskError]] = {
    ErrorCode.TRANSIENT: TransientError,
    ErrorCode.PERMANENT: PermanentError,
    ErrorCode.INVALID_INPUT: InvalidInputError,
}
_STOPS = {
    CancelReason.SHUTDOWN: StopReason.SHUTDOWN,
    CancelReason.SOFT_TIMEOUT: StopReason.TIMEOUT,
    CancelReason.HARD_TIMEOUT: StopReason.TIMEOUT,
    None: StopReason.TIMEOUT,  # the attempt's own time, which the runner keeps
}


def offered(config: OperationsConfig) -> Iterator[Operation]:
    """The operations that this machine can run and that some policy allows."""
    if not config.policy:  # nor are the families loaded, which takes a second
        return
    for operation in registry():
        if allows_somewhere(config, operation) and operation.family.lacks() is None:
            yield operation


def operations_worker(runtime: Runtime, capabilities: Collection[str] = ()) -> Worker | None:
    """A Worker with every operation that is offered here (of these capabilities, where some are named); None without any."""
    config = operations_config(runtime.settings)
    operations = [op for op in offered(config) if not capabilities or op.capability in capabilities]
    if not operations:
        return None
    limits = {op.capability: op.family.slots_of.get(op.capability, op.family.slots) for op in operations}
    worker = Worker("operations", max_concurrent_tasks=sum(limits.values()), task_type_limits=limits)
    for operation in operations:
        worker.task(operation.name, task_type=operation.capability)(_task(runtime, operation))
    return worker


def _task(runtime: Runtime, operation: Operation) -> Any:
    async def run(params: JSON, task_id: str, job_id: str | None, attempt: int, timeout_at: float | None) -> Any:
        return await Attempt(runtime, operation, task_id, job_id, attempt, timeout_at).run()

    run.__name__ = operation.name
    return run


class Attempt:
    """One attempt at an operation. What it does comes from the store, not from the message: nobody can forge it there."""

    def __init__(
        self, runtime: Runtime, operation: Operation, task_id: str, job_id: str | None, attempt: int, timeout_at: float | None
    ) -> None:
        self._runtime = runtime
        self._operation = operation
        self._task_id = task_id
        self._job_id = job_id
        self._attempt = attempt
        self._timeout_at = timeout_at
        self._prefix = ""

    async def run(self) -> Result:
        trail = Trail(operations_config(self._runtime.settings), self._operation, self._task_id)
        try:
            info, job = await self._stored()
            op = self._context(info, job)
            trail.known(info, op.permit)
            op.permit.check(self._operation)
            refuse_secrets(info.params)
            params = self._operation.parse(info.params)
            if info.branch is not None and "host" in info.params:  # of a task on many hosts, whose log is one
                self._prefix = f"{info.params['host']}: "
            self._operation.allow(params, op.permit)
            await trail.started(op.permit)
        except OperationError as exc:
            await trail.refused(exc)
            raise raised(exc) from None
        pausable = self._operation.pausable and PAUSED in info.transitions
        reporter = asyncio.create_task(self._report(op, pausable))
        try:
            result = op.mask.json(await self._call(op, params))
            trail.succeeded(result)
            return Result.success(result)
        except OperationStopped as exc:
            if exc.reason is StopReason.PAUSE:
                return Result(PAUSED, {PAUSED_AT: round(op.progress_so_far, 4)})
            raise
        except OperationError as exc:
            trail.failed(exc)
            raise raised(exc, op) from None
        finally:
            reporter.cancel()
            await asyncio.wait({reporter})
            await self._send(op)
            await trail.ended(op)

    async def _stored(self) -> tuple[TaskInfo, Job]:
        store = self._runtime.store
        record = await store.get_task(self._task_id)
        # Whose job it is, too, is the store's to say: a message with another job's id would borrow that one's rights.
        job = await store.load(record.info.job_id) if record is not None and record.info.job_id == self._job_id else None
        if record is None or job is None or record.info.type != self._operation.name:
            raise OperationError(
                TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
                f"{self._operation.name} runs for a job only: dispatch it from a blueprint, or push it to the queue",
            )
        return record.info, job

    def _context(self, info: TaskInfo, job: Job) -> OperationContext:
        permit = permit_of(job.client, job.blueprint_name, operations_config(self._runtime.settings))
        seconds = None if self._timeout_at is None else max(0.0, self._timeout_at - self._runtime.clock())
        return OperationContext(
            self._operation.name, info.params, permit, task_id=info.id, job_id=job.id, attempt=self._attempt, seconds=seconds
        )

    async def _call(self, op: OperationContext, params: Any) -> JSON:
        """Runs it. A stop is passed on to it, and its own end is waited for: until then its slot is taken."""
        run = self._operation.run
        calling: Any = run(params, op) if self._operation.is_async else asyncio.to_thread(run, params, op)
        work: asyncio.Future[Any] = asyncio.ensure_future(calling)
        try:
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                reason = current_cancel_reason()
                op.stop(_STOPS.get(reason, StopReason.CANCEL))
                if self._operation.is_async:
                    work.cancel()
                while not work.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait({work})
                if not work.cancelled():
                    work.exception()
                raise
        except (OperationError, OperationStopped):
            raise
        except Exception as exc:
            if op.stop_reason is StopReason.PAUSE:  # what it met was the stop itself, as its library saw it
                raise OperationStopped(StopReason.PAUSE) from None
            known = self._operation.meaning(exc)
            if known is None:
                trace = op.mask("".join(traceback.format_exception(exc)))  # a library's words may hold a secret
                logger.warning("%s raised\n%s", op.type, trace, extra={"action": "operation", "job_id": op.job_id})
                known = OperationError(TaskErrorCode.UNKNOWN_ERROR, f"{type(exc).__name__}: {exc}")
            raise known from exc

    async def _report(self, op: OperationContext, pausable: bool) -> None:
        """Sends what it says, and looks whether it is to pause, until it is cancelled."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self._send(op)
            if pausable and time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                with contextlib.suppress(StoreUnavailableError):
                    job = await self._runtime.store.load(op.job_id)
                    if job is not None and job.pause_requested:
                        op.stop(StopReason.PAUSE)

    async def _send(self, op: OperationContext) -> None:
        report = op.take_report()
        if report is None:
            return
        store, boot = self._runtime.store, self._runtime.boot_id
        with contextlib.suppress(StoreUnavailableError):  # it is only shown; the work goes on
            if report.progress is not None:
                await store.task_progress(op.task_id, boot, report.progress, report.step, report.status.value)
            if report.lines:
                await store.append_log(op.job_id, [(at, f"{self._prefix}{text}") for at, text in report.lines], LOG_LINES)


def raised(exc: OperationError, op: OperationContext | None = None) -> TaskError:
    """The failure as the engine takes it: its class as the code, the operation's own code in its data."""
    mask = op.mask if op is not None else None
    message = mask(str(exc)) if mask is not None else str(exc)
    details = mask.json(exc.details) if mask is not None else exc.details
    return _KINDS[exc.kind](message, data={"error_code": exc.code.value, "error_details": details})
