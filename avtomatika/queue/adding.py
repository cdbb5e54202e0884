"""A method for each type of task: the documented ones by hand, all others made of what their operation takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from avtomatika.operations.registry import registry
from avtomatika.operations.types import TaskType

if TYPE_CHECKING:
    from avtomatika.jobs import JSON

_TYPES = frozenset(TaskType)


class Adding:
    """Mixed into `QueueManager`. A type ``x_y`` has the method ``add_x_y_task``, the types of other packages, too.

    Every method returns the new task's id, and raises OperationError for params that do not fit.
    """

    if TYPE_CHECKING:

        async def _add(self, task_type: TaskType | str, params: JSON, options: JSON, *tags: str) -> str: ...

    # Transfers and commands: `host` is a name of the inventory, or `hosts` and `group` among the options name many.

    async def add_scp_upload_task(
        self, source_path: str, destination_path: str, host: str | None = None, username: str | None = None, **options: Any
    ) -> str:
        """Copies a file or a directory of the worker to a host."""
        params = {"source_path": source_path, "destination_path": destination_path, "host": host, "username": username}
        return await self._add(TaskType.SCP_UPLOAD, params, options, "scp", "upload", "file-transfer")

    async def add_scp_download_task(
        self, source_path: str, destination_path: str, host: str | None = None, username: str | None = None, **options: Any
    ) -> str:
        """Copies a file or a directory of a host to the worker."""
        params = {"source_path": source_path, "destination_path": destination_path, "host": host, "username": username}
        return await self._add(TaskType.SCP_DOWNLOAD, params, options, "scp", "download", "file-transfer")

    async def add_ssh_execute_task(
        self, command: str | list[str], host: str | None = None, username: str | None = None, **options: Any
    ) -> str:
        """Runs a command on a host."""
        params = {"command": command, "host": host, "username": username}
        return await self._add(TaskType.SSH_EXECUTE, params, options, "ssh", "command", "remote-execution")

    # Images

    async def add_push_task(self, image_name: str, tag: str = "latest", **options: Any) -> str:
        """Pushes an image to its registry. Options: all_tags, quiet, …"""
        return await self._add(TaskType.DOCKER_PUSH, {"image_name": image_name, "tag": tag}, options, "docker", "push")

    async def add_build_task(
        self, dockerfile_path: str = "Dockerfile", tag: str | None = None, context_path: str = ".", **options: Any
    ) -> str:
        """Builds an image. `tag` is its name, with or without a tag: ``app``, ``app:1.2``."""
        params: dict[str, Any] = {"dockerfile": dockerfile_path, "context_path": context_path}
        if tag is not None:
            name, colon, rest = tag.rpartition(":")
            named = (name, rest) if colon and "/" not in rest else (tag, None)  # host:5000/app has no tag
            params |= {"tag": tag} if "image_name" in options else {"image_name": named[0], "tag": named[1]}
        return await self._add(TaskType.DOCKER_BUILD, params, options, "docker", "build")

    async def add_pull_task(self, image_name: str, tag: str = "latest", **options: Any) -> str:
        """Pulls an image from its registry."""
        return await self._add(TaskType.DOCKER_PULL, {"image_name": image_name, "tag": tag}, options, "docker", "pull")

    # Models, scripts, machines

    async def add_ollama_pull_task(self, model_name: str, **options: Any) -> str:
        """Downloads a model."""
        return await self._add(TaskType.OLLAMA_PULL, {"model_name": model_name}, options, "ollama", "pull")

    async def add_ollama_run_task(
        self, model_name: str, prompt: str, max_tokens: int = 1000, temperature: float = 0.7, **options: Any
    ) -> str:
        """Has a model answer a prompt."""
        params = {"model_name": model_name, "prompt": prompt, "max_tokens": max_tokens, "temperature": temperature}
        return await self._add(TaskType.OLLAMA_RUN, params, options, "ollama", "run")

    async def add_custom_script_task(
        self, script_path: str, script_args: Collection[str] = (), working_dir: str | None = None, **options: Any
    ) -> str:
        """Runs a script on the worker, where the policy names that."""
        params = {"script_path": script_path, "script_args": list(script_args) or None, "working_dir": working_dir}
        return await self._add(TaskType.CUSTOM_SCRIPT, params, options, "custom", "script")

    async def add_custom_command_task(self, command: str, args: Collection[str] = (), shell: bool = False, **options: Any) -> str:
        """Runs a command on the worker, where the policy names that."""
        params = {"command": command, "args": list(args) or None, "shell": shell or None}
        return await self._add(TaskType.CUSTOM_COMMAND, params, options, "custom", "command")

    async def add_system_monitor_task(self, monitor_type: str = "general", **options: Any) -> str:
        """Measures the worker's machine."""
        return await self._add(TaskType.SYSTEM_MONITOR, {"monitor_type": monitor_type}, options, "system", "monitor")

    def __getattr__(self, name: str) -> Callable[..., Awaitable[str]]:
        task_type = name.removeprefix("add_").removesuffix("_task")
        if not name.startswith("add_") or not name.endswith("_task") or (task_type not in _TYPES and task_type not in registry()):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        async def add(**params: Any) -> str:
            family, _, action = task_type.partition("_")
            return await self._add(task_type, {}, params, family, *([action] if action else []))

        add.__name__ = add.__qualname__ = name
        add.__doc__, add.__signature__ = _told(task_type)  # type: ignore[attr-defined]
        return add

    def __dir__(self) -> list[str]:
        generated = {f"add_{task_type}_task" for task_type in (*_TYPES, *(operation.name for operation in registry()))}
        return sorted({*super().__dir__(), *generated})


def _told(task_type: str) -> tuple[str, Signature]:
    """What such a method does, and what it takes, for help() and editors."""
    rest = Parameter("options", Parameter.VAR_KEYWORD)
    if task_type not in registry():
        return f"Adds a task of the type {task_type}.", Signature([rest], return_annotation="str")
    operation = registry().get(task_type)
    fields = {field.alias or name: field for name, field in operation.params.model_fields.items()}
    own = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.is_required() else field.get_default(call_default_factory=True),
            annotation=field.annotation,
        )
        for name, field in fields.items()
        if name.isidentifier()
    ]
    return operation.summary or f"Adds a task of the type {task_type}.", Signature([*own, rest], return_annotation="str")
