"""The commands that add tasks: `queue_push` for any type, `scp_client` and `ssh_client` for transfers and commands."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from avtomatika.engine.webhooks import check_webhook
from avtomatika.jobs import JSON
from avtomatika.operations.admission import CATEGORY, WEEK
from avtomatika.operations.hosts import MAX_HOSTS, Serial
from avtomatika.operations.registry import registry
from avtomatika.operations.types import TaskType
from avtomatika.queue.command import Command, CommandParams

#: For connecting and for ending, beside an operation's own time.
_MORE_SECONDS = 60.0

Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class TaskOptions(CommandParams):
    """What every task may say of itself.

    Attributes:
        priority: 0 to 10; the highest goes first.
        webhook_url: is told of its end.
    """

    priority: float = Field(0.0, allow_inf_nan=False, json_schema_extra={"minimum": 0, "maximum": 10})
    category: Annotated[str, StringConstraints(min_length=1, max_length=100)] = CATEGORY
    tags: list[Word] = Field(default_factory=list, max_length=50)
    webhook_url: str | None = None


class QueuePushParams(TaskOptions):
    """A task of any type; or, by `image_name` alone, a docker_push.

    Attributes:
        params: of the operation; on many hosts also `hosts` or `group`, `serial`, `forks`, `max_fail_percentage`,
            `any_errors_fatal`, `dry_run`.
        timeout_seconds: of an attempt; the operation's own without it.
        max_retries: after failures that another try may mend; the operation's own without it.
        image_name, tag, all_tags, disable_content_trust, quiet: of a docker_push.
    """

    task_type: str | None = Field(None, min_length=1, max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)
    timeout_seconds: float | None = Field(None, gt=0, le=WEEK)
    max_retries: int | None = Field(None, ge=0, le=100)
    image_name: str | None = Field(None, min_length=1, max_length=255)
    tag: str = "latest"
    all_tags: bool = False
    disable_content_trust: bool = False
    quiet: bool = False

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.task_type is None) == (self.image_name is None):
            raise ValueError("give task_type with params; or image_name alone, for a docker_push")
        return self


async def _push(command: Command[Any], task_type: str, params: JSON, options: JSON, **more: Any) -> JSON:
    """Adds a task, and says where it stands: what the commands here share."""
    queue = command.queue
    if more.get("webhook_url") is not None:
        check_webhook(more["webhook_url"], (await queue.service()).settings)
    task = await queue.push(task_type, params, **more, **options)
    return {
        "status": "success",
        "message": f"{task_type} is queued as {task.id}",
        "task_id": task.id,
        "task_type": task_type,
        "command": task.command,
        "queue_position": await queue.get_place(task.id),
        "note": await queue.note_for(task_type),
    }


class QueuePushCommand(Command[QueuePushParams]):
    """Adds a task. Its params are checked now: whoever gets a task id has a task that fits, and that its client may run."""

    name = "queue_push"
    summary = "Add a task of any type"
    params = QueuePushParams

    async def carry_out(self, params: QueuePushParams, options: JSON) -> JSON:
        more = params.model_dump(include={"priority", "category", "tags", "webhook_url", "timeout_seconds", "max_retries"})
        if params.task_type is not None:
            return await _push(self, params.task_type, params.params, options, **more)
        given = params.model_dump(include={"image_name", "tag", "all_tags", "disable_content_trust", "quiet"}, exclude_unset=True)
        answer = await _push(self, TaskType.DOCKER_PUSH.value, {**given, "tag": params.tag}, options, **more)
        return {**answer, "image_name": params.image_name, "tag": params.tag}


class _ClientParams(TaskOptions):
    """Where a task goes, and how patiently.

    Attributes:
        host: a name of the inventory; or `hosts`, or a `group` of it.
        timeout: seconds for an attempt.
        retry_count: tries again after failures that another one may mend.
        credential: the name of a table in OPERATIONS_CONFIG_PATH: no password and no key is ever sent here.
        options: further parameters of the operation.
    """

    host: str | None = Field(None, min_length=1, max_length=253)
    hosts: list[str] | None = Field(None, min_length=1, max_length=MAX_HOSTS)
    group: str | None = None
    serial: Serial | list[Serial] | None = None
    forks: int | None = Field(None, ge=1, le=MAX_HOSTS)
    max_fail_percentage: float | None = Field(None, ge=0, le=100)
    any_errors_fatal: bool | None = None
    dry_run: bool | None = None
    port: int | None = Field(None, ge=1, le=65535)
    username: str | None = Field(None, min_length=1, max_length=64)
    credential: str | None = None
    timeout: float | None = Field(None, gt=0, le=WEEK)
    retry_count: int | None = Field(None, ge=0, le=10)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, values: Any) -> Any:
        for name in ("password", "key_file", "private_key", "passphrase"):
            if isinstance(values, dict) and values.get(name):
                raise ValueError(f"{name} is not taken: name a [credentials.…] of OPERATIONS_CONFIG_PATH by credential")
        return values

    def place(self) -> JSON:
        """The params that say where."""
        names = {"host", "hosts", "group", "serial", "forks", "max_fail_percentage", "any_errors_fatal", "dry_run", "port"}
        return {**self.model_dump(include=names | {"username", "credential"}, exclude_none=True), **self.options}

    def task(self, category: str, params: JSON, task_type: str) -> JSON:
        """The options of the task. Where the operation has a time of its own, that is meant, and the task has a little more."""
        timeout = self.timeout
        if timeout is not None and task_type in registry() and "timeout" in registry().get(task_type).params.model_fields:
            params["timeout"] = timeout
            timeout = min(WEEK, timeout + _MORE_SECONDS)
        return {
            "priority": self.priority,
            "category": self.category if "category" in self.model_fields_set else category,
            "tags": self.tags,
            "webhook_url": self.webhook_url,
            "timeout_seconds": timeout,
            "max_retries": self.retry_count,
        }


class SCPClientParams(_ClientParams):
    """A transfer. Local paths are the worker's.

    Attributes:
        direction: of a sync.
    """

    action: Literal["upload", "download", "sync", "list"]
    local_path: str | None = Field(None, min_length=1)
    remote_path: str | None = Field(None, min_length=1)
    recursive: bool | None = None
    preserve_attributes: bool | None = None
    direction: Literal["up", "down"] | None = None

    @model_validator(mode="after")
    def _paths(self) -> Self:
        if self.remote_path is None or (self.action != "list" and self.local_path is None):
            needed = "remote_path" if self.action == "list" else "local_path and remote_path"
            raise ValueError(f"{self.action} needs {needed}")
        return self


class SCPClientCommand(Command[SCPClientParams]):
    """Uploads, downloads, syncs or lists files on a host, as a task."""

    name = "scp_client"
    summary = "Add a transfer: upload, download, sync, list"
    params = SCPClientParams

    async def carry_out(self, params: SCPClientParams, options: JSON) -> JSON:
        local, remote, given = params.local_path, params.remote_path, params.place()
        match params.action:
            case "list":
                given |= {"path": remote}
            case "download":
                given |= {"source_path": remote, "destination_path": local}
            case "sync" if params.direction == "down":
                given |= {"source_path": remote, "destination_path": local, "direction": "down"}
            case "sync":
                given |= {"source_path": local, "destination_path": remote, "direction": "up"}
            case _:
                given |= {"source_path": local, "destination_path": remote}
        given |= params.model_dump(include={"recursive"}, exclude_none=True)
        if params.preserve_attributes is not None:
            given["preserve"] = params.preserve_attributes
        task_type = f"scp_{params.action}"
        answer = await _push(self, task_type, given, options, **params.task("scp", given, task_type))
        return {**answer, **_echo(params, "action", "host", "local_path", "remote_path")}


class SSHClientParams(_ClientParams):
    """A command on a host, a tunnel, or a look at whether one can log in there.

    Attributes:
        command: a text, or an argv.
        options: of a tunnel its kind, bind, port, target_host, target_port and lifetime_seconds.
    """

    action: Literal["execute", "connect", "tunnel"]
    command: Annotated[str, StringConstraints(min_length=1)] | list[str] | None = None

    @model_validator(mode="after")
    def _command(self) -> Self:
        if (self.action == "execute") != (self.command is not None):
            raise ValueError("execute needs a command; connect and tunnel take none")
        if self.action == "tunnel" and self.port is not None:
            raise ValueError("the port of a tunnel goes into options; that of its host is the inventory's")
        return self


class SSHClientCommand(Command[SSHClientParams]):
    """Runs a command on a host, opens a tunnel, or logs in and out again, as a task."""

    name = "ssh_client"
    summary = "Add a remote command or a tunnel: execute, connect, tunnel"
    params = SSHClientParams

    async def carry_out(self, params: SSHClientParams, options: JSON) -> JSON:
        given, task_type = params.place(), "ssh_tunnel" if params.action == "tunnel" else "ssh_execute"
        if task_type == "ssh_execute":
            given["command"] = params.command if params.command is not None else ["true"]
        answer = await _push(self, task_type, given, options, **params.task("ssh", given, task_type))
        return {**answer, **_echo(params, "action", "host", "username", "command")}


def _echo(params: CommandParams, *names: str) -> JSON:
    found = params.model_dump(include=set(names), exclude_none=True)
    return {"remote_command" if name == "command" else name: value for name, value in found.items()}
