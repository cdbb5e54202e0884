"""k8s_get, k8s_scale and k8s_delete: objects of any kind."""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import Field, model_validator

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.k8s.cluster import (
    AnyName,
    ApiVersion,
    Cluster,
    InNamespace,
    Kind,
    Name,
    Resource,
    Waiting,
    cluster,
    family,
)
from avtomatika.operations.k8s.rollout import wait_for
from avtomatika.operations.policy import Permit
from avtomatika.operations.secrets import HIDDEN
from avtomatika.results import JSON

_SELECTOR = r"^[A-Za-z0-9_./,=!()\- ]+$"


class OfKind(InNamespace):
    """
    Attributes:
        kind: such as ``Pod``, ``Deployment``.
        api_version: such as ``apps/v1``; known kinds need none.
    """

    kind: Kind
    api_version: ApiVersion | None = None

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        if permit.option("kinds") is not None:
            permit.matches("kinds", self.kind)

    def resource(self, found: Cluster, op: OperationContext) -> Resource:
        resource = found.resource(self.kind, self.api_version)
        if not resource.namespaced:
            op.permit.matches("cluster_kinds", self.kind)
        return resource


class Get(OfKind):
    name: AnyName | None = None
    label_selector: str | None = Field(None, pattern=_SELECTOR, max_length=2000)
    field_selector: str | None = Field(None, pattern=_SELECTOR, max_length=2000)
    limit: int = Field(100, ge=1, le=1000)

    @model_validator(mode="after")
    def _fits(self) -> Get:
        if self.name is not None and (self.label_selector or self.field_selector):
            raise ValueError("a name and a selector exclude each other")
        return self


class Scale(InNamespace, Waiting):
    kind: Literal["Deployment", "StatefulSet", "ReplicaSet"] = "Deployment"
    name: Name
    replicas: int = Field(ge=0, le=10_000)

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        if permit.option("kinds") is not None:
            permit.matches("kinds", self.kind)


class Delete(OfKind, Waiting):
    """
    Attributes:
        missing_ok: one that is not there is a success.
        propagation_policy: what becomes of the objects that it owns.
    """

    name: AnyName
    missing_ok: bool = False
    grace_period_seconds: int | None = Field(None, ge=0, le=86_400)
    propagation_policy: Literal["Foreground", "Background", "Orphan"] = "Background"

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        if self.kind == "Namespace":
            permit.matches("namespaces", self.name)


@family.operation("k8s_get", timeout_seconds=120, guard=lambda params, permit: params.guard(permit))
def k8s_get(params: Get, op: OperationContext) -> JSON:
    """Reads one object, or those that selectors choose. The values of Secrets are not shown."""
    with cluster(params, op) as found:
        resource = params.resource(found, op)
        if params.name is not None:
            items, more = [found.call("GET", resource.path(params.namespace, params.name))], False
        else:
            query = {
                "labelSelector": params.label_selector,
                "fieldSelector": params.field_selector,
                "limit": params.limit,
            }
            answer = found.call(
                "GET", resource.path(params.namespace), {key: value for key, value in query.items() if value is not None}
            )
            items, more = answer.get("items") or [], bool((answer.get("metadata") or {}).get("continue"))
    return {
        "kind": params.kind,
        "api_version": resource.api_version,
        "namespace": params.namespace if resource.namespaced else None,
        "items": [_shown(item, resource) for item in items],
        "count": len(items),
        "more": more,
    }


def _shown(item: JSON, resource: Resource) -> JSON:
    """Without what only the server's bookkeeping needs, and without secrets."""
    item = {"apiVersion": resource.api_version, "kind": resource.kind, **item}
    metadata = {key: value for key, value in item["metadata"].items() if key != "managedFields"}
    if resource.kind == "Secret":
        for field in ("data", "stringData"):
            if field in item:
                item[field] = dict.fromkeys(item[field] or {}, HIDDEN)
        # `kubectl apply` keeps a copy of the values there.
        annotations = metadata.get("annotations") or {}
        metadata["annotations"] = {
            key: HIDDEN if key.endswith("last-applied-configuration") else value for key, value in annotations.items()
        }
    return {**item, "metadata": metadata}


@family.operation("k8s_scale", timeout_seconds=900, guard=lambda params, permit: params.guard(permit))
def k8s_scale(params: Scale, op: OperationContext) -> JSON:
    """Sets the number of replicas, and waits until there are so many."""
    with cluster(params, op) as found:
        resource = found.resource(params.kind)
        path = resource.path(params.namespace, params.name)
        before = found.call("GET", f"{path}/scale")
        body = {"spec": {"replicas": params.replicas}}
        found.call("PATCH", f"{path}/scale", {"fieldManager": "avtomatika"}, body, content_type="application/merge-patch+json")
        current: JSON = {}
        if params.wait:
            current = wait_for(found, resource, params.namespace, params.name, op, params.wait_seconds, progress=(0.1, 0.95))
    status = current.get("status") or {}
    return {
        "kind": params.kind,
        "name": params.name,
        "namespace": params.namespace,
        "replicas": params.replicas,
        "previous_replicas": (before.get("spec") or {}).get("replicas", 0),
        "ready_replicas": status.get("readyReplicas", 0) if params.wait else None,
    }


@family.operation("k8s_delete", timeout_seconds=900, guard=lambda params, permit: params.guard(permit))
def k8s_delete(params: Delete, op: OperationContext) -> JSON:
    """Deletes an object, and waits until it is gone."""
    with cluster(params, op) as found:
        deleted = delete(found, params.resource(found, op), params, op)
    return {"kind": params.kind, "name": params.name, "namespace": params.namespace, "deleted": deleted}


def delete(found: Cluster, resource: Resource, params: Any, op: OperationContext) -> bool:
    """True where the object was there. Raises OperationError where it is not gone in time."""
    path = resource.path(params.namespace, params.name)
    current = _or_none(found, path)
    if current is None:
        if params.missing_ok or op.attempt > 1:  # an earlier attempt may have done it
            return False
        raise OperationError(
            TaskErrorCode.K8S_RESOURCE_NOT_FOUND, f"there is no {resource.kind} {params.name} in {params.namespace}"
        )
    uid = current["metadata"].get("uid")
    options: JSON = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": params.propagation_policy}
    if params.grace_period_seconds is not None:
        options["gracePeriodSeconds"] = params.grace_period_seconds
    if uid:
        options["preconditions"] = {"uid": uid}  # this one, not one that has taken its name since
    found.call("DELETE", path, None, options)
    end, pause = time.monotonic() + params.wait_seconds, 0.1
    while params.wait:
        current = _or_none(found, path)
        if current is None or current["metadata"].get("uid") != uid:
            op.log(f"{resource.kind} {params.name} is gone")
            break
        if time.monotonic() >= end:
            raise OperationError(
                TaskErrorCode.K8S_API_ERROR,
                f"{resource.kind} {params.name} was not gone after {params.wait_seconds:g} s",
                details={"finalizers": current["metadata"].get("finalizers") or []},
            )
        op.progress(0.5, f"{resource.kind} {params.name} is going")
        op.wait(pause)
        pause = min(2.0, pause * 1.5)
    return True


def _or_none(found: Cluster, path: str) -> JSON | None:
    from kubernetes.client import ApiException

    try:
        return found.call("GET", path)
    except ApiException as exc:
        if exc.status == 404:
            return None
        raise
