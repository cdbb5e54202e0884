"""The queue's commands over HTTP: ``POST /api/v1/queue/{command}``, with the command's params as the body."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from avtomatika.api.access import client_of
from avtomatika.api.answers import answer
from avtomatika.api.bodies import CreationHeaders, read_object
from avtomatika.api.client import creation_key
from avtomatika.api.describe import describe
from avtomatika.api.keys import REPEATED, SERVICE
from avtomatika.api.middleware import AWAY, RequestError
from avtomatika.api.models import JobId, JSONObject, Timestamp
from avtomatika.api.quota import takes_attempt
from avtomatika.jobs import JSON
from avtomatika.operations.types import TaskStatus
from avtomatika.queue.command import (
    ACTION_FAILED,
    FORBIDDEN,
    TASK_NOT_FOUND,
    VALIDATION_ERROR,
    Command,
    ErrorResult,
    RefusedError,
)
from avtomatika.queue.commands import QueueCancelCommand, QueueManageCommand, QueueStatusCommand, QueueTaskStatusCommand
from avtomatika.queue.pushing import QueuePushCommand, SCPClientCommand, SSHClientCommand
from avtomatika.queue.taskqueue import TaskQueue

logger = logging.getLogger(__name__)

_STATUS = {VALIDATION_ERROR: 400, FORBIDDEN: 403, TASK_NOT_FOUND: 404, ACTION_FAILED: 409}
_PREFIX = "/api/v1/queue"


class QueueError(BaseModel):
    """Why a command was not carried out. `details` of a VALIDATION_ERROR: `code`, a TaskErrorCode, and `misfits`."""

    error: str = Field(examples=["what is wrong; what to do about it"])
    code: str = Field(examples=["VALIDATION_ERROR", "TASK_NOT_FOUND", "ACTION_FAILED", "FORBIDDEN"])
    details: JSONObject


class TaskView(BaseModel):
    """A queue task."""

    id: JobId
    task_type: str
    status: TaskStatus
    status_description: str
    command: str
    params: JSONObject
    created_at: Timestamp | None
    started_at: Timestamp | None
    completed_at: Timestamp | None
    progress: int = Field(ge=0, le=100)
    current_step: str
    result: Any
    error: str | None
    error_code: str | None
    error_details: JSONObject | None
    logs: list[str]
    duration: float | None
    timeout_seconds: float | None
    retry_count: int
    max_retries: int | None
    can_retry: bool
    priority: float
    category: str
    tags: list[str]


class Answered(BaseModel):
    status: Literal["success", "warning"]
    message: str
    timestamp: Timestamp


class Queued(Answered):
    """The task is stored and cannot be lost. `note`: no live worker offers its type now."""

    task_id: JobId
    task_type: str
    command: str
    queue_position: int | None
    note: str | None


class QueueShown(Answered):
    queue_status: JSONObject


class TaskCancelled(Answered):
    task_id: str
    cancelled: bool


class TaskShown(Answered):
    task: TaskView
    task_summary: JSONObject | None
    error_info: JSONObject | None
    logs: list[str] | None
    queue_position: int | None


class TaskManaged(Answered):
    action: str
    task_id: str
    task_status: TaskView | None


Handler = Callable[[web.Request], Awaitable[web.Response]]


def _handler(kind: type[Command[Any]], shown: type[Answered], example: JSON, *, adds: bool = False) -> Handler:
    """What serves a command.

    Args:
        adds: it makes a task: it takes an idempotency key, and counts for the quota.
    """

    async def handle(request: web.Request) -> web.Response:
        command = kind(TaskQueue(request.app[SERVICE], client_of(request)))
        more: JSON = {}
        try:
            if adds:
                more = {"idempotency_key": creation_key(request), "repeated": partial(request.__setitem__, REPEATED, True)}
            return answer(await command.run(await read_object(request), repeatable=more))
        except RefusedError as exc:
            return _refused(exc.result)
        except RequestError as exc:
            if exc.status != 400:
                raise
            return _refused(ErrorResult(str(exc), VALIDATION_ERROR))
        except AWAY:
            raise
        except Exception:
            logger.exception("%s failed", kind.name, extra={"action": "request_failed", "path": request.path})
            return _refused(ErrorResult("this request failed here; the server's log says why", kind.other_error))

    handle.__name__ = kind.name
    refused = dict.fromkeys((*_STATUS.values(), 500), QueueError)
    described = describe(
        kind.summary,
        "queue",
        description=(kind.__doc__ or "").strip(),
        body=kind.params,
        headers=CreationHeaders if adds else None,
        answers={200: shown, **refused},
        example=example,
        operation_id=kind.name,
    )(handle)
    return takes_attempt(described) if adds else described


def _refused(result: ErrorResult) -> web.Response:
    return answer(result.to_dict(), status=_STATUS.get(result.code, 500))


@describe("Refuse a command that there is none of", "queue", listed=False)
async def unknown_command(request: web.Request) -> web.Response:
    """Says which commands there are."""
    known = ", ".join(sorted(_HANDLERS))
    said = f"there is no command {request.match_info['command']!r}; there are {known}"
    return answer({"error": said, "code": "COMMAND_NOT_FOUND", "details": {"commands": sorted(_HANDLERS)}}, status=404)


_TASK = "82f44c9f-b764-43ee-a1d2-d8d1d816b843"
_HANDLERS = {
    "queue_push": _handler(
        QueuePushCommand,
        Queued,
        {"task_type": "network_test", "params": {"host": "gpu-box", "port": 22}, "priority": 5, "tags": ["checks"]},
        adds=True,
    ),
    "queue_status": _handler(QueueStatusCommand, QueueShown, {"status": "failed", "limit": 10}),
    "queue_cancel": _handler(QueueCancelCommand, TaskCancelled, {"task_id": _TASK}),
    "queue_task_status": _handler(QueueTaskStatusCommand, TaskShown, {"task_id": _TASK, "include_logs": True}),
    "queue_manage": _handler(QueueManageCommand, TaskManaged, {"action": "retry", "task_id": _TASK}),
    "scp_client": _handler(
        SCPClientCommand,
        Queued,
        {"action": "upload", "host": "gpu-box", "local_path": "/srv/data/model.bin", "remote_path": "/srv/models/model.bin"},
        adds=True,
    ),
    "ssh_client": _handler(
        SSHClientCommand, Queued, {"action": "execute", "group": "gpu", "command": ["nvidia-smi"], "serial": "50%"}, adds=True
    ),
}

ROUTES = (
    *(web.post(f"{_PREFIX}/{name}", handler) for name, handler in _HANDLERS.items()),
    web.post(f"{_PREFIX}/{{command}}", unknown_command),
)
