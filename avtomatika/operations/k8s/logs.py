"""k8s_logs: what a pod has written, and what it writes for a time."""

from __future__ import annotations

import threading

from pydantic import Field

from avtomatika.operations.context import OperationContext
from avtomatika.operations.k8s.cluster import POD, InNamespace, Label, Name, cluster, family
from avtomatika.operations.tail import Tail
from avtomatika.results import JSON


class Logs(InNamespace):
    """
    Attributes:
        container: needed where the pod has several.
        tail_lines: the last ones, to begin with.
        follow_seconds: how long new lines are waited for; 0: not at all.
        previous: of the container's last run.
        max_output: bytes kept, the last ones.
    """

    pod_name: Name
    container: Label | None = None
    tail_lines: int = Field(1000, ge=0, le=100_000)
    since_seconds: int | None = Field(None, ge=1)
    timestamps: bool = False
    previous: bool = False
    follow_seconds: float = Field(0, ge=0, le=86_400)
    max_output: int = Field(1_048_576, ge=1, le=8_388_608)


@family.operation("k8s_logs", timeout_seconds=600, guard=lambda params, permit: params.guard(permit))
def k8s_logs(params: Logs, op: OperationContext) -> JSON:
    """Reads a container's log."""
    from urllib3.exceptions import HTTPError

    follow = params.follow_seconds > 0
    query: dict[str, object] = {"tailLines": params.tail_lines, "timestamps": params.timestamps, "previous": params.previous}
    if params.container is not None:
        query["container"] = params.container
    if params.since_seconds is not None:
        query["sinceSeconds"] = params.since_seconds
    if follow:
        query["follow"] = True
    tail = Tail(op, params.max_output, quiet=not follow)
    over = threading.Event()
    with cluster(params, op) as found:
        response = found.open(
            "GET", f"{POD.path(params.namespace, params.pod_name)}/log", query, seconds=None if follow else 60.0
        )

        def end() -> None:
            over.set()
            found.break_off()

        timer = threading.Timer(op.seconds_left(params.follow_seconds) or 0, end)
        if follow:
            op.progress(0.1, f"following {params.pod_name}")
            timer.start()
        try:
            while block := response.read1(65_536):
                op.checkpoint()
                tail.add(block)
        except HTTPError:
            if not over.is_set():
                raise
        finally:
            timer.cancel()
            response.close()
        tail.close()
    return {
        "pod_name": params.pod_name,
        "container": params.container,
        "namespace": params.namespace,
        "logs": tail.text,
        "truncated": tail.truncated,
    }
