"""Waiting until an object is what was asked for: by watching it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.k8s.cluster import POD, Cluster, Resource
from avtomatika.operations.k8s.failures import failed_code
from avtomatika.results import JSON

#: Seconds of one watch; the server ends it then, and a next one begins.
_WATCH = 60
#: Bytes of one event.
_MAX_EVENT = 8 * 1024**2
#: Why a container that waits will not start by itself.
_HOPELESS = frozenset(
    {
        "ImagePullBackOff",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "CrashLoopBackOff",
        "RunContainerError",
    }
)


@dataclass(frozen=True, slots=True)
class Stand:
    """How far an object is."""

    done: bool
    share: float
    text: str


def watched(found: Cluster, resource: Resource, namespace: str, name: str, op: OperationContext, end: float) -> Iterator[JSON]:
    """The object as it is, and after each change, until `end` (of the monotonic clock)."""
    from kubernetes.client import ApiException

    while True:
        current = found.call("GET", resource.path(namespace, name))
        yield current
        left = end - time.monotonic()
        if left <= 0:
            return
        seconds = max(1, min(_WATCH, int(left)))
        query = {
            "watch": True,
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": current["metadata"].get("resourceVersion", ""),
            "timeoutSeconds": seconds,
        }
        try:
            response = found.open("GET", resource.path(namespace), query, seconds=seconds + 10)
        except ApiException as exc:
            if exc.status != 410:
                raise
            op.wait(0.1)
            continue  # what happened since is forgotten: it is read anew
        try:
            for line in _lines(response):
                event = json.loads(line)
                if event.get("type") not in ("ADDED", "MODIFIED"):
                    break  # gone, or forgotten, as above
                yield event["object"]
                if time.monotonic() >= end:
                    return
        finally:
            response.close()
        op.wait(0.1)


def _lines(response: Any) -> Iterator[bytes]:
    rest = b""
    for block in response.stream(65_536):
        *lines, rest = (rest + block).split(b"\n")
        yield from filter(None, lines)
        if len(rest) > _MAX_EVENT:
            raise OperationError(TaskErrorCode.K8S_API_ERROR, f"an event is larger than {_MAX_EVENT} bytes")


def wait_for(
    found: Cluster,
    resource: Resource,
    namespace: str,
    name: str,
    op: OperationContext,
    seconds: float,
    *,
    stand_of: Callable[[JSON], Stand] | None = None,
    progress: tuple[float, float] = (0.5, 0.95),
) -> JSON:
    """The object, as soon as it is ready. Raises OperationError where it fails, or is not ready in time."""
    look = stand_of or stand_of_kind(resource.kind)
    current: JSON = {}
    last, begin, end = "", *progress
    for current in watched(found, resource, namespace, name, op, time.monotonic() + seconds):
        op.checkpoint()
        try:
            stand = look(current)
        except OperationError as exc:
            exc.details.update(_explained(found, current, namespace))
            raise
        if stand.text != last:
            last = stand.text
            op.log(f"{resource.kind} {name}: {last}")
        op.progress(begin + (end - begin) * stand.share, f"{resource.kind} {name}: {last}")
        if stand.done:
            return current
    raise OperationError(
        failed_code(resource.kind),
        f"{resource.kind} {name} was not ready after {seconds:g} s: {last}",
        details=_explained(found, current, namespace),
    )


def _explained(found: Cluster, current: JSON, namespace: str) -> JSON:
    """What its conditions and pods say."""
    status = current.get("status") or {}
    labels = ((current.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    explained: JSON = {"conditions": status.get("conditions") or []}
    if current.get("kind") == "Pod":
        explained["pods"] = [pod_state(current)]
    elif labels:
        query = {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items()), "limit": 10}
        explained["pods"] = [pod_state(pod) for pod in found.call("GET", POD.path(namespace), query).get("items") or ()]
    return explained


def stand_of_kind(kind: str) -> Callable[[JSON], Stand]:
    """How to see that an object of a kind is ready; those of other kinds are as soon as they are there."""
    known = {
        "Deployment": _deployment,
        "StatefulSet": _stateful_set,
        "ReplicaSet": _replica_set,
        "DaemonSet": _daemon_set,
        "Pod": pod_ready,
    }
    return known.get(kind, lambda current: Stand(True, 1.0, "there"))


def _counted(current: JSON, updated: int, ready: int, wanted: int) -> Stand:
    status = current.get("status") or {}
    seen = status.get("observedGeneration", 0) >= current["metadata"].get("generation", 0)
    done = seen and updated >= wanted and ready >= wanted
    share = 0.0 if not seen else 1.0 if wanted == 0 else min(updated, ready, wanted) / wanted
    return Stand(done, share, f"{ready} of {wanted} ready, {updated} up to date" if seen else "not seen yet")


def _deployment(current: JSON) -> Stand:
    status, wanted = current.get("status") or {}, (current.get("spec") or {}).get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= current["metadata"].get("generation", 0)
    for condition in status.get("conditions") or () if seen else ():  # else it is about the rollout before this one
        late = condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded"
        if late and condition.get("status") == "False":
            raise OperationError(
                TaskErrorCode.K8S_DEPLOYMENT_FAILED,
                f"the deployment {current['metadata']['name']} makes no progress: {condition.get('message')}",
            )
    stand = _counted(current, status.get("updatedReplicas", 0), status.get("availableReplicas", 0), wanted)
    old = status.get("replicas", 0) - status.get("updatedReplicas", 0)
    return Stand(False, stand.share, f"{stand.text}, {old} old ones left") if stand.done and old > 0 else stand


def _stateful_set(current: JSON) -> Stand:
    status, wanted = current.get("status") or {}, (current.get("spec") or {}).get("replicas", 1)
    return _counted(current, status.get("updatedReplicas", status.get("replicas", 0)), status.get("readyReplicas", 0), wanted)


def _replica_set(current: JSON) -> Stand:
    status, wanted = current.get("status") or {}, (current.get("spec") or {}).get("replicas", 1)
    return _counted(current, status.get("replicas", 0), status.get("readyReplicas", 0), wanted)


def _daemon_set(current: JSON) -> Stand:
    status = current.get("status") or {}
    wanted = status.get("desiredNumberScheduled", 0)
    return _counted(current, status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0), wanted)


def pod_ready(current: JSON) -> Stand:
    """A pod that is ready, or has done its work."""
    status = current.get("status") or {}
    phase, name = status.get("phase", "Pending"), current["metadata"]["name"]
    if phase == "Failed":
        raise OperationError(TaskErrorCode.K8S_POD_FAILED, f"the pod {name} has failed: {status.get('message') or 'see pods'}")
    for container in _containers(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _HOPELESS:
            raise OperationError(
                TaskErrorCode.K8S_POD_FAILED,
                f"the pod {name} cannot start {container['name']}: {waiting['reason']}: {waiting.get('message', '')}",
            )
    ready = any(item.get("type") == "Ready" and item.get("status") == "True" for item in status.get("conditions") or ())
    return Stand(phase == "Succeeded" or (phase == "Running" and ready), {"Pending": 0.2, "Running": 0.7}.get(phase, 1.0), phase)


def _containers(status: JSON) -> list[JSON]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def pod_state(pod: JSON) -> JSON:
    """A pod, as results show it."""
    status = pod.get("status") or {}
    return {
        "pod_name": pod["metadata"]["name"],
        "namespace": pod["metadata"].get("namespace"),
        "phase": status.get("phase"),
        "pod_ip": status.get("podIP"),
        "host_ip": status.get("hostIP"),
        "start_time": status.get("startTime"),
        "container_statuses": [
            {
                "name": item["name"],
                "ready": bool(item.get("ready")),
                "restart_count": item.get("restartCount", 0),
                "state": item.get("state") or {},
            }
            for item in _containers(status)
        ],
    }
