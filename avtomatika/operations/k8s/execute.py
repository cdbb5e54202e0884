"""k8s_exec: a command in a container that runs."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

from pydantic import Field

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.k8s.cluster import POD, Cluster, InNamespace, Label, Name, cluster, family
from avtomatika.operations.policy import Permit
from avtomatika.operations.tail import Tail
from avtomatika.results import JSON

_STDIN, _STDOUT, _STDERR, _ERROR = range(4)
#: Seconds between two looks at whether it is to stop.
_LOOK = 0.25
_CHUNK = 32_768


class Exec(InNamespace):
    """
    Attributes:
        command: the program and its arguments; no shell reads them.
        stdin: what the command reads; the server has to speak version 5 of the protocol, to be told of its end.
        timeout: seconds. The command itself cannot be killed through the API: it may go on in its container.
        max_output: bytes kept of stdout and of stderr, the last ones.
    """

    pod_name: Name
    container: Label | None = None
    command: list[str] = Field(min_length=1, max_length=1000)
    stdin: str | None = Field(None, max_length=1_048_576)
    timeout: float = Field(60, gt=0, le=86_400)
    max_output: int = Field(262_144, ge=0, le=4_194_304)
    ok_codes: list[int] = Field(default_factory=lambda: [0], max_length=256)

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        permit.command(self.command)


@family.operation("k8s_exec", timeout_seconds=600, max_retries=0, guard=lambda params, permit: params.guard(permit))
def k8s_exec(params: Exec, op: OperationContext) -> JSON:
    """Runs a command in a container, and returns its exit code and output."""
    began = time.monotonic()
    out, err = Tail(op, params.max_output), Tail(op, params.max_output)
    with cluster(params, op) as found:
        # Says in the server's own words what a refused websocket could not: no such pod, not allowed.
        pod = found.call("GET", POD.path(params.namespace, params.pod_name))
        phase = (pod.get("status") or {}).get("phase")
        if phase in ("Succeeded", "Failed"):
            raise OperationError(TaskErrorCode.K8S_POD_FAILED, f"the pod {params.pod_name} has ended: its phase is {phase}")
        socket = _connected(found, params)
        try:
            status = _run(socket, params, op, out, err)
        finally:
            with suppress(Exception):
                socket.close(timeout=1)
    result = {
        "pod_name": params.pod_name,
        "container": params.container,
        "namespace": params.namespace,
        "exit_code": _exit_code(status),
        "stdout": out.text,
        "stderr": err.text,
        "truncated": out.truncated or err.truncated,
        "duration": round(time.monotonic() - began, 3),
    }
    if result["exit_code"] not in params.ok_codes:
        raise OperationError(
            TaskErrorCode.K8S_POD_FAILED, f"the command ended with exit code {result['exit_code']}", details=result
        )
    return result


def _connected(found: Cluster, params: Exec) -> Any:
    """The websocket. Its class is used itself: the package's `stream` turns every failure into text."""
    from kubernetes.stream import ws_client

    library: Any = ws_client  # it has no types
    query = [("stdout", "true"), ("stderr", "true"), ("tty", "false"), ("stdin", str(params.stdin is not None).lower())]
    if params.container is not None:
        query.append(("container", params.container))
    query += [("command", word) for word in params.command]
    url = library.get_websocket_url(f"{found.configuration.host}{POD.path(params.namespace, params.pod_name)}/exec", query)
    return library.WSClient(found.configuration, url, found.headers(), capture_all=False, binary=True)


def _run(socket: Any, params: Exec, op: OperationContext, out: Tail, err: Tail) -> bytes:
    """Reads until the command ends; what the server then says of it."""
    op.progress(0.1, f"running {params.command[0]} in {params.pod_name}")
    if params.stdin is not None:
        _feed(socket, params.stdin.encode())
    end, said = time.monotonic() + params.timeout, b""
    while True:
        is_open = socket.is_open()
        if is_open:
            socket.update(timeout=_LOOK)
        out.add(_taken(socket, _STDOUT))
        err.add(_taken(socket, _STDERR))
        said += _taken(socket, _ERROR)
        if not is_open or said:
            break
        op.checkpoint()
        if time.monotonic() >= end:
            raise OperationError(
                TaskErrorCode.SYSTEM_TIMEOUT,
                f"the command ran for more than {params.timeout:g} s; it may go on in its container",
                details={"stdout": out.text, "stderr": err.text},
            )
    out.close()
    err.close()
    return said


def _taken(socket: Any, channel: int) -> bytes:
    """What has come on a channel; without a look for more, which would be hidden in it."""
    if channel not in socket._channels:
        return b""
    found: bytes = socket.read_channel(channel)
    return found


def _feed(socket: Any, text: bytes) -> None:
    if socket.subprotocol != "v5.channel.k8s.io":
        raise OperationError(
            TaskErrorCode.K8S_API_ERROR, "this API server cannot be told where stdin ends: it needs Kubernetes 1.30 or later"
        )
    for begin in range(0, len(text), _CHUNK):
        socket.write_channel(_STDIN, text[begin : begin + _CHUNK])
    socket.close_channel(_STDIN)


def _exit_code(said: bytes) -> int:
    """Of the Status on the error channel: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/"""
    try:
        status = json.loads(said)
    except ValueError:
        raise OperationError(
            TaskErrorCode.K8S_CLUSTER_UNAVAILABLE, "the connection ended before the command did: it may go on in its container"
        ) from None
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise OperationError(
        TaskErrorCode.K8S_POD_FAILED,
        f"the command could not be run: {status.get('message')}",
        details={"reason": status.get("reason")},
    )
