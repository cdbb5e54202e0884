"""k8s_deploy: manifests, applied by the server, and their rollout."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from avtomatika.operations.context import OperationContext
from avtomatika.operations.k8s import manifests
from avtomatika.operations.k8s.cluster import MANAGER, Cluster, InNamespace, Resource, Waiting, cluster, family
from avtomatika.operations.k8s.rollout import wait_for
from avtomatika.operations.policy import Permit
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

#: Kinds whose rollout is waited for.
_ROLLED_OUT = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod"})


class Deploy(InNamespace, Waiting):
    """
    Attributes:
        manifests: the objects themselves.
        manifest_file: instead of them, a YAML file of the worker, beneath the policy's local_roots.
        namespace: of objects that name none.
        force_conflicts: takes over fields that somebody else manages.
        dry_run: the server checks everything, and changes nothing.
    """

    manifests: list[dict[str, Any]] | None = Field(None, min_length=1, max_length=manifests.MAX_OBJECTS)
    manifest_file: str | None = Field(None, min_length=1)
    force_conflicts: bool = False
    dry_run: bool = False

    @model_validator(mode="after")
    def _one(self) -> Deploy:
        if (self.manifests is None) == (self.manifest_file is None):
            raise ValueError("give either manifests or a manifest_file")
        return self

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        if self.manifest_file is not None:
            permit.local_path(self.manifest_file)
        if self.manifests is not None:
            objects = manifests.checked(self.manifests)
            manifests.refuse_secrets(objects)
            for item in objects:
                manifests.allow(item, self.namespace, permit)


@family.operation("k8s_deploy", timeout_seconds=1800, guard=lambda params, permit: params.guard(permit))
def k8s_deploy(params: Deploy, op: OperationContext) -> JSON:
    """Applies manifests to a cluster, and waits until what they describe runs."""
    op.progress(0.0, "reading the manifests", TaskStatus.VALIDATING)
    objects = _objects(params, op)
    with cluster(params, op) as found:
        resources = []
        for item in objects:  # all is looked at before anything is changed
            resource = found.resource(item["kind"], item["apiVersion"])
            manifests.allow_across(item, resource, op.permit)
            resources.append(resource)
        applied = []
        for number, (item, resource) in enumerate(zip(objects, resources, strict=True)):
            op.progress(0.5 * number / len(objects), f"applying {item['kind']} {item['metadata']['name']}", TaskStatus.RUNNING)
            applied.append(_apply(found, params, item, resource, op))
        if params.wait and not params.dry_run:
            _rolled_out(found, params, list(zip(applied, resources, strict=True)), op)
    return {"objects": applied, "count": len(applied), "namespace": params.namespace, "dry_run": params.dry_run}


def _objects(params: Deploy, op: OperationContext) -> list[JSON]:
    if params.manifests is not None:
        return manifests.checked(params.manifests)
    objects = manifests.checked(list(manifests.read(op.permit.local_path(params.manifest_file or ""))))
    for item in objects:  # what is in a file of the worker is known here only
        manifests.allow(item, params.namespace, op.permit)
    return objects


def _apply(found: Cluster, params: Deploy, item: JSON, resource: Resource, op: OperationContext) -> JSON:
    name, namespace = item["metadata"]["name"], manifests.namespace_of(item, params.namespace)
    query: dict[str, object] = {"fieldManager": MANAGER, "force": params.force_conflicts}
    if params.dry_run:
        query["dryRun"] = "All"
    done = found.call(
        "PATCH", resource.path(namespace, name), query, item, content_type="application/apply-patch+yaml"
    )  # JSON is YAML, and the server takes it
    created = bool(done.get("_created"))
    op.log(f"{item['kind']} {name}: {'created' if created else 'configured'}")
    return {
        "kind": item["kind"],
        "api_version": item["apiVersion"],
        "name": name,
        "namespace": namespace if resource.namespaced else None,
        "created": created,
        "uid": done["metadata"].get("uid"),
        "resource_version": done["metadata"].get("resourceVersion"),
    }


def _rolled_out(found: Cluster, params: Deploy, applied: list[tuple[JSON, Resource]], op: OperationContext) -> None:
    waited = [pair for pair in applied if pair[1].kind in _ROLLED_OUT]
    for number, (item, resource) in enumerate(waited):
        span = (0.5 + 0.45 * number / len(waited), 0.5 + 0.45 * (number + 1) / len(waited))
        wait_for(found, resource, item["namespace"] or "", item["name"], op, params.wait_seconds, progress=span)
