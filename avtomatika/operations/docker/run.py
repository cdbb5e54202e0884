"""docker_run: a container from its beginning to its end."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.docker.engine import connect, engine, family
from avtomatika.operations.docker.images import image_id, pull
from avtomatika.operations.docker.options import Run
from avtomatika.operations.docker.output import Follower
from avtomatika.operations.errors import OperationError
from avtomatika.operations.tail import Tail
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The label that says which task a container belongs to.
LABEL = "avtomatika.task-key"
#: Seconds that the last output of a container that has ended may take.
_LAST_OUTPUT = 10.0


@family.operation("docker_run", timeout_seconds=3600, max_retries=1, guard=lambda params, permit: params.guard(permit))
def docker_run(params: Run, op: OperationContext) -> JSON:
    """Runs a container, waits for its end, and returns its exit code and output."""
    name = params.name or f"avtomatika-{op.key}"
    with engine(params, op) as api:
        op.progress(0.0, f"preparing {params.full_name}", TaskStatus.PREPARING)
        if params.pull == "always" or (params.pull == "missing" and image_id(api, params.full_name) is None):
            pull(api, params, op, platform=params.platform)
        began = time.monotonic()
        with _ended(params, op, name):
            container = _create(api, params, op, name)
            if api.inspect_container(container)["State"]["Status"] == "created":
                api.start(container)
            if params.detach:
                op.log(f"{name} runs as {container[:12]}")
                return {**_about(params, api.inspect_container(container)), "running": True}
            found, tails = _to_its_end(api, params, op, container)
    result = {
        **_about(params, found),
        "exit_code": found["State"]["ExitCode"],
        "oom_killed": bool(found["State"].get("OOMKilled")),
        **{stream: tail.text for stream, tail in tails.items()},
        "truncated": any(tail.truncated for tail in tails.values()),
        "duration": round(time.monotonic() - began, 3),
        "removed": params.remove,
    }
    return _judged(params, result)


def _to_its_end(api: Any, params: Run, op: OperationContext, container: str) -> tuple[JSON, dict[str, Tail]]:
    """The container after its end, and what it has said."""
    from docker.errors import DockerException

    streams = {name: Follower(params, op, container, name, params.max_output) for name in ("stdout", "stderr")}
    patience = 0.0
    try:
        found = _until_exit(api, params, op, container)
        patience = _LAST_OUTPUT
    except OperationError as exc:  # its time is over: what it has said until its end belongs to the failure
        with suppress(DockerException):
            api.stop(container, timeout=params.stop_timeout)
        for name, stream in streams.items():
            stream.close(_LAST_OUTPUT)
            exc.details[name] = stream.tail.text
        raise
    finally:
        for stream in streams.values():
            stream.close(patience)
    return found, {name: stream.tail for name, stream in streams.items()}


def _judged(params: Run, result: JSON) -> JSON:
    """The result, where it is a success."""
    code = result["exit_code"]
    if result["oom_killed"]:
        limit = f" of {params.memory}" if params.memory else ""
        raise OperationError(
            TaskErrorCode.SYSTEM_MEMORY_LIMIT, f"the container was killed at its memory limit{limit}", details=result
        )
    if code not in params.ok_codes:
        raise OperationError(
            TaskErrorCode.DOCKER_CONTAINER_STOPPED, f"the container stopped with exit code {code}", details=result
        )
    return result


def _create(api: Any, params: Run, op: OperationContext, name: str) -> str:
    """A container that is ready to start; that of an earlier attempt, where there is one."""
    from docker.errors import APIError, NotFound

    secrets = {secret.variable: op.credential(secret.credential) for secret in params.env_from_credentials}
    env = {**params.env, **{variable: found.password or found.token or "" for variable, found in secrets.items()}}
    try:
        created = api.create_container(
            params.full_name,
            command=params.command,
            entrypoint=params.entrypoint,
            name=name,
            environment=env,
            working_dir=params.working_dir,
            user=params.user,
            hostname=params.hostname,
            labels={**params.labels, LABEL: op.key},
            platform=params.platform,
            ports=[(port.container_port, port.protocol) for port in params.ports] or None,
            host_config=params.host_config(api, op.permit),
            use_config_proxy=False,
        )
        return str(created["Id"])
    except APIError as exc:
        if exc.status_code != 409:
            raise
    try:
        found = api.inspect_container(name)
    except NotFound:  # gone in the meantime
        found = {}
    if not _is_own(found, op):
        raise OperationError(
            TaskErrorCode.DOCKER_CONTAINER_ALREADY_RUNNING,
            f"there is a container named {name!r} already: choose another name, or remove it",
            details={"container_name": name, "container_id": found.get("Id")},
        )
    op.log(f"an earlier attempt has created {name}: going on with it")
    return str(found["Id"])


def _is_own(container: JSON, op: OperationContext) -> bool:
    return ((container.get("Config") or {}).get("Labels") or {}).get(LABEL) == op.key


@contextmanager
def _ended(params: Run, op: OperationContext, name: str) -> Iterator[None]:
    """Whatever happens in the block, nothing of the container goes on afterwards, but one that is detached."""
    try:
        yield
    except BaseException:
        _end(params, name, op)
        raise
    if params.remove and not params.detach:
        _end(params, name, op)


def _end(params: Run, name: str, op: OperationContext) -> None:
    """Stops it, and removes it where that is wanted; with a client of its own, since a stop has closed the other one.

    It goes by the name: a stop may have come before the answer with the id.
    """
    from docker.errors import DockerException, NotFound
    from requests import RequestException

    try:
        with closing(connect(params)) as api, suppress(NotFound):
            found = api.inspect_container(name)
            if not _is_own(found, op):
                return
            with suppress(DockerException):
                api.stop(found["Id"], timeout=0 if op.stop_reason else params.stop_timeout)
            if params.remove:
                api.remove_container(found["Id"], force=True, v=True)
    except (DockerException, RequestException) as exc:
        op.log(f"the container {name} may still be there: {exc}")


def _until_exit(api: Any, params: Run, op: OperationContext, container: str) -> JSON:
    """Looks until it has ended."""
    op.progress(0.5, f"the container {container[:12]} runs", TaskStatus.RUNNING)
    end = None if params.timeout is None else time.monotonic() + params.timeout
    pause = 0.05
    while True:
        found: JSON = api.inspect_container(container)
        if found["State"]["Status"] in ("exited", "dead"):
            op.log(f"{_name(found)} ended with exit code {found['State']['ExitCode']}")
            return found
        if end is not None and time.monotonic() >= end:
            raise OperationError(
                TaskErrorCode.SYSTEM_TIMEOUT,
                f"the container ran for more than {params.timeout:g} s, and was stopped",
                details=_about(params, found),
            )
        op.wait(pause)
        pause = min(1.0, pause * 1.5)


def _name(container: JSON) -> str:
    return str(container.get("Name", "")).lstrip("/")


def _about(params: Run, container: JSON) -> JSON:
    return {
        "container_id": container["Id"],
        "container_name": _name(container),
        "image_name": params.image_name,
        "tag": params.tag,
        "full_image_name": params.full_name,
        "image_id": container.get("Image"),
    }
