"""k8s_pod_create, k8s_pod_status and k8s_pod_delete."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from avtomatika.operations.context import OperationContext
from avtomatika.operations.k8s.cluster import POD, InNamespace, Name, Waiting, cluster, family, taken_back
from avtomatika.operations.k8s.create import Workload, create
from avtomatika.operations.k8s.objects import delete
from avtomatika.operations.k8s.rollout import pod_state, wait_for
from avtomatika.results import JSON


class PodCreate(Workload):
    pod_name: Name
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    wait_seconds: float = Field(120, gt=0, le=86_400)


class PodStatus(InNamespace):
    pod_name: Name


class PodDelete(InNamespace, Waiting):
    name: Name = Field(validation_alias=AliasChoices("pod_name", "name"))
    missing_ok: bool = False
    grace_period_seconds: int | None = Field(None, ge=0, le=86_400)
    propagation_policy: Literal["Background"] = "Background"


@family.operation("k8s_pod_create", timeout_seconds=600, guard=lambda params, permit: params.guard(permit))
def k8s_pod_create(params: PodCreate, op: OperationContext) -> JSON:
    """Creates a pod with one container, and waits until it is ready, or has done its work."""
    spec = {**params.pod_spec(params.pod_name), "restartPolicy": params.restart_policy}
    with taken_back(params, op, POD, params.pod_name), cluster(params, op) as found:
        op.progress(0.1, f"creating the pod {params.pod_name}")
        body = {"metadata": {"labels": {"app": params.pod_name[:63], **params.labels}}, "spec": spec}
        made = create(found, POD, params.namespace, params.pod_name, body, op)
        if params.wait:
            made = wait_for(found, POD, params.namespace, params.pod_name, op, params.wait_seconds, progress=(0.2, 0.95))
    state = pod_state(made)
    return {
        "pod_name": params.pod_name,
        "namespace": params.namespace,
        "pod_phase": state["phase"],
        "pod_ip": state["pod_ip"],
        "uid": made["metadata"].get("uid"),
    }


@family.operation("k8s_pod_status", timeout_seconds=120, guard=lambda params, permit: params.guard(permit))
def k8s_pod_status(params: PodStatus, op: OperationContext) -> JSON:
    """How a pod is."""
    with cluster(params, op) as found:
        pod = found.call("GET", POD.path(params.namespace, params.pod_name))
    return {**pod_state(pod), "namespace": params.namespace}


@family.operation("k8s_pod_delete", timeout_seconds=600, guard=lambda params, permit: params.guard(permit))
def k8s_pod_delete(params: PodDelete, op: OperationContext) -> JSON:
    """Deletes a pod, and waits until it is gone."""
    with cluster(params, op) as found:
        deleted = delete(found, POD, params, op)
    return {"pod_name": params.name, "namespace": params.namespace, "deleted": deleted}
