"""The commands that look at the queue and steer its tasks. Those that add tasks are in `pushing.py`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from avtomatika.jobs import JSON
from avtomatika.operations.admission import LOGS
from avtomatika.operations.codes import INFO, TaskErrorCode
from avtomatika.operations.types import TaskStatus
from avtomatika.queue.command import Command, CommandParams
from avtomatika.queue.errors import ActionFailedError
from avtomatika.queue.task import DESCRIPTIONS, Task

TaskId = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


#: Tasks of which `include_logs` shows the logs, at most.
_WITH_LOGS = 100


class QueueStatusParams(CommandParams):
    """What the queue holds.

    Attributes:
        status, task_type, category, tag: lists the tasks that fit as `tasks`, newest first.
        limit: of that list.
    """

    include_logs: bool = False
    detailed: bool = True
    status: TaskStatus | None = None
    task_type: str | None = None
    category: str | None = None
    tag: str | None = None
    limit: int = Field(100, ge=1, le=1000)


class QueueStatusCommand(Command[QueueStatusParams]):
    """The queue in numbers, its newest tasks, and those that run."""

    name = "queue_status"
    summary = "Show the queue: numbers, the newest tasks, those that run"
    other_error = "QUEUE_STATUS_ERROR"
    params = QueueStatusParams

    async def carry_out(self, params: QueueStatusParams, options: JSON) -> JSON:
        found = await self.queue.get_queue_status()
        if params.include_logs:
            tasks = await self.queue.get_tasks(limit=min(params.limit, _WITH_LOGS))
            found["all_tasks_with_logs"] = list(await asyncio.gather(*map(self._with_log, tasks)))
        if params.detailed:
            found["status_descriptions"] = {status.value: text for status, text in DESCRIPTIONS.items()}
        wanted = params.model_dump(include={"status", "task_type", "category", "tag"}, exclude_none=True)
        if wanted:
            found["tasks"] = [task.to_dict() for task in await self.queue.get_tasks(**wanted, limit=params.limit)]
        summary = found["summary"]
        message = f"{summary['current_running']} running, {summary['queue_size']} waiting, {summary['total_tasks']} in all"
        return {"status": "success", "message": message, "queue_status": found}

    async def _with_log(self, task: Task) -> JSON:
        return {**task.to_dict(), "logs": await self.queue.get_task_logs(task.id) or []}


class QueueCancelParams(CommandParams):
    """
    Attributes:
        force: ends it at once, without waiting for its operation to stop.
    """

    task_id: TaskId
    force: bool = False


class QueueCancelCommand(Command[QueueCancelParams]):
    """Cancels a task. One that has ended is no error: `cancelled` is false then."""

    name = "queue_cancel"
    summary = "Cancel a task"
    other_error = "CANCEL_ERROR"
    params = QueueCancelParams

    async def carry_out(self, params: QueueCancelParams, options: JSON) -> JSON:
        try:
            task = await self.queue.cancel(params.task_id, force=params.force)
        except ActionFailedError as exc:
            return {"status": "warning", "message": str(exc), "task_id": params.task_id, "cancelled": False}
        said = "is cancelled" if task.status.is_final else "is told to stop"
        return {"status": "success", "message": f"task {task.id} {said}", "task_id": task.id, "cancelled": True}


class QueueTaskStatusParams(CommandParams):
    """
    Attributes:
        detailed: with the summary and, where it failed, what its error code means and what to try.
    """

    task_id: TaskId
    include_logs: bool = True
    detailed: bool = True


class QueueTaskStatusCommand(Command[QueueTaskStatusParams]):
    """One task: where it stands, its log, and what its error means."""

    name = "queue_task_status"
    summary = "Show a task, with its log"
    other_error = "TASK_STATUS_ERROR"
    params = QueueTaskStatusParams

    async def carry_out(self, params: QueueTaskStatusParams, options: JSON) -> JSON:
        with_logs = params.include_logs and await self.queue.may(LOGS)
        task = await self.queue.find(params.task_id, logs=with_logs)
        return {
            "status": "success",
            "message": f"task {task.id}: {DESCRIPTIONS[task.status]}",
            "task": task.to_dict(),
            "task_summary": task.summary() if params.detailed else None,
            "error_info": error_info(task.error_code) if params.detailed else None,
            "logs": list(task.logs) if with_logs else None,
            "queue_position": await self.queue.get_task_position(task.id),
        }


def error_info(code: str | None) -> JSON | None:
    """What an error code means, and what to try; of a code of another package its name alone."""
    if code is None:
        return None
    info = INFO.get(TaskErrorCode(code)) if code in TaskErrorCode.__members__ else None
    if info is None:
        return {"code": code, "description": "An error code of another package", "suggestions": ["Look at the task's log"]}
    return {"code": code, "description": info.description, "suggestions": list(info.suggestions)}


class QueueManageParams(CommandParams):
    """
    Attributes:
        action: retry runs a failed task again, one on many hosts on those that have not succeeded; remove forgets an ended one.
    """

    action: Literal["pause", "resume", "retry", "cancel", "remove"]
    task_id: TaskId


class QueueManageCommand(Command[QueueManageParams]):
    """Pauses, resumes, retries, cancels or removes a task."""

    name = "queue_manage"
    summary = "Pause, resume, retry, cancel or remove a task"
    other_error = "MANAGEMENT_ERROR"
    params = QueueManageParams

    async def carry_out(self, params: QueueManageParams, options: JSON) -> JSON:
        task_id, action = params.task_id, params.action
        answer = {"status": "success", "action": action, "task_id": task_id}
        if action == "remove":
            await self.queue.remove(task_id)
            return {**answer, "message": f"task {task_id} is removed", "task_status": None}
        orders = {
            "pause": self.queue.pause,
            "resume": self.queue.resume,
            "retry": self.queue.retry,
            "cancel": self.queue.cancel,
        }
        task = await orders[action](task_id)
        return {**answer, "message": f"{action}: task {task_id} is {task.status.value} now", "task_status": task.to_dict()}
