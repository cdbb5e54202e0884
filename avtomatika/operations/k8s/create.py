"""k8s_deployment_create, k8s_service_create, k8s_configmap_create and k8s_namespace_create."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.k8s.cluster import (
    CONFIG_MAP,
    DEPLOYMENT,
    MANAGER,
    NAMESPACE,
    SERVICE,
    TASK_KEY,
    Cluster,
    InCluster,
    InNamespace,
    Label,
    Name,
    Resource,
    Waiting,
    cluster,
    family,
    is_own,
    taken_back,
)
from avtomatika.operations.k8s.rollout import wait_for
from avtomatika.operations.policy import Permit
from avtomatika.results import JSON

#: An amount: ``500m``, ``2``, ``512Mi``.
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(?:\.[0-9]+)?(?:m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
Image = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=512)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]
_KEY = r"^(?:[a-z0-9.-]+/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
LabelKey = Annotated[str, StringConstraints(pattern=_KEY)]
LabelValue = Annotated[str, StringConstraints(pattern=r"^(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")]
ConfigKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$", max_length=253)]
#: Characters of a ConfigMap: the server takes no more than 1 MiB.
_MAX_CONFIG = 1_048_576


class PullSecret(Params):
    """A Secret of the namespace, by its name."""

    name: Name


class Workload(InNamespace, Waiting):
    """What a container of a pod is made of. The image has to be one that the policy's `images` allow."""

    image: Image
    command: list[str] | None = Field(None, max_length=1000)
    args: list[str] | None = Field(None, max_length=1000)
    env: dict[Variable, str] = Field(default_factory=dict, max_length=1000)
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=100)
    port: int | None = Field(None, ge=1, le=65_535)
    cpu_limit: Quantity = "500m"
    memory_limit: Quantity = "512Mi"
    cpu_request: Quantity = "100m"
    memory_request: Quantity = "128Mi"
    gpus: int = Field(0, ge=0, le=64)
    image_pull_secrets: list[PullSecret] = Field(default_factory=list, max_length=10)

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        permit.matches("images", self.image)

    def pod_spec(self, name: str) -> JSON:
        """A pod with one container, which may not gain rights."""
        limits = {"cpu": self.cpu_limit, "memory": self.memory_limit}
        if self.gpus:
            limits["nvidia.com/gpu"] = str(self.gpus)
        container: JSON = {
            "name": name[:63].strip("-."),
            "image": self.image,
            "resources": {"limits": limits, "requests": {"cpu": self.cpu_request, "memory": self.memory_request}},
            "securityContext": {"allowPrivilegeEscalation": False},
        }
        if self.command is not None:
            container["command"] = self.command
        if self.args is not None:
            container["args"] = self.args
        if self.env:
            container["env"] = [{"name": key, "value": value} for key, value in self.env.items()]
        if self.port is not None:
            container["ports"] = [{"containerPort": self.port}]
        spec: JSON = {"containers": [container]}
        if self.image_pull_secrets:
            spec["imagePullSecrets"] = [{"name": secret.name} for secret in self.image_pull_secrets]
        return spec


class DeploymentCreate(Workload):
    """`project_path` is a project's folder; its last part names the deployment, where `deployment_name` does not."""

    deployment_name: Label | None = None
    project_path: str | None = Field(None, min_length=1, max_length=4096)
    port: int | None = Field(8060, ge=1, le=65_535)
    replicas: int = Field(1, ge=0, le=1000)

    @model_validator(mode="after")
    def _named(self) -> DeploymentCreate:
        if not self.name:
            raise ValueError("give a deployment_name, or a project_path whose last part can be a name")
        return self

    @property
    def name(self) -> str:
        if self.deployment_name is not None:
            return self.deployment_name
        last = PurePath(self.project_path or "").name.lower()
        return re.sub(r"[^a-z0-9-]+", "-", last)[:63].strip("-")


class ServicePort(Params):
    port: int = Field(ge=1, le=65_535)
    target_port: int | None = Field(None, ge=1, le=65_535)
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?$")] | None = None


class ServiceCreate(InNamespace):
    """A service in front of the pods with these labels. Types that are reached from outside need the policy."""

    service_name: Label
    selector: dict[LabelKey, LabelValue] = Field(min_length=1, max_length=50)
    ports: list[ServicePort] = Field(min_length=1, max_length=100)
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=100)

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        if self.service_type != "ClusterIP":
            permit.matches("service_types", self.service_type)


class ConfigMapCreate(InNamespace):
    configmap_name: Name
    data: dict[ConfigKey, str] = Field(default_factory=dict, max_length=1000)
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=100)
    immutable: bool = False

    @model_validator(mode="after")
    def _fits(self) -> ConfigMapCreate:
        if sum(len(key) + len(value) for key, value in self.data.items()) > _MAX_CONFIG:
            raise ValueError(f"data is larger than {_MAX_CONFIG} characters")
        return self


class NamespaceCreate(InCluster):
    namespace: Label
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=100)

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        permit.matches("namespaces", self.namespace)


def create(found: Cluster, resource: Resource, namespace: str, name: str, body: JSON, op: OperationContext) -> JSON:
    """Creates an object; one that an earlier attempt at the same task has created is as good."""
    from kubernetes.client import ApiException

    metadata = body.setdefault("metadata", {})
    metadata |= {"name": name, "annotations": {TASK_KEY: op.key}}
    metadata["labels"] = {"app.kubernetes.io/managed-by": MANAGER, **metadata.get("labels", {})}
    body |= {"apiVersion": resource.api_version, "kind": resource.kind}
    try:
        made = found.call("POST", resource.path(namespace), {"fieldManager": MANAGER}, body)
        op.log(f"{resource.kind} {name}: created")
        return made
    except ApiException as exc:
        if exc.status != 409:
            raise
        current = found.call("GET", resource.path(namespace, name))
        if not is_own(current["metadata"], op):
            raise OperationError(
                TaskErrorCode.K8S_RESOURCE_ALREADY_EXISTS,
                f"there is a {resource.kind} {name} already: choose another name, or use k8s_deploy to change it",
                details={"kind": resource.kind, "name": name, "uid": current["metadata"].get("uid")},
            ) from None
        op.log(f"{resource.kind} {name}: created by an earlier attempt")
        return current


@family.operation("k8s_deployment_create", timeout_seconds=900, guard=lambda params, permit: params.guard(permit))
def k8s_deployment_create(params: DeploymentCreate, op: OperationContext) -> JSON:
    """Creates a deployment of one image, and waits until its pods are there."""
    name = params.name
    selector = {"app": name}
    body: dict[str, Any] = {
        "metadata": {"labels": {**selector, **params.labels}},
        "spec": {
            "replicas": params.replicas,
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": {**params.labels, **selector}}, "spec": params.pod_spec(name)},
        },
    }
    with taken_back(params, op, DEPLOYMENT, name), cluster(params, op) as found:
        op.progress(0.1, f"creating the deployment {name}")
        made = create(found, DEPLOYMENT, params.namespace, name, body, op)
        if params.wait:
            made = wait_for(found, DEPLOYMENT, params.namespace, name, op, params.wait_seconds, progress=(0.2, 0.95))
    return {
        "deployment_name": name,
        "namespace": params.namespace,
        "available_replicas": (made.get("status") or {}).get("availableReplicas", 0),
        "replicas": params.replicas,
        "uid": made["metadata"].get("uid"),
        "creation_timestamp": made["metadata"].get("creationTimestamp"),
    }


@family.operation("k8s_service_create", timeout_seconds=120, guard=lambda params, permit: params.guard(permit))
def k8s_service_create(params: ServiceCreate, op: OperationContext) -> JSON:
    """Creates a service in front of pods."""
    ports = [_without_none(port.model_dump(), {"target_port": "targetPort"}) for port in params.ports]
    body = {
        "metadata": {"labels": dict(params.labels)},
        "spec": {"selector": params.selector, "ports": ports, "type": params.service_type},
    }
    with cluster(params, op) as found:
        made = create(found, SERVICE, params.namespace, params.service_name, body, op)
    spec = made.get("spec") or {}
    return {
        "service_name": params.service_name,
        "namespace": params.namespace,
        "service_type": spec.get("type", params.service_type),
        "cluster_ip": spec.get("clusterIP"),
        "ports": [
            {"port": port["port"], "target_port": port.get("targetPort"), "node_port": port.get("nodePort")}
            for port in spec.get("ports") or ()
        ],
        **_made(made),
    }


@family.operation("k8s_configmap_create", timeout_seconds=120, guard=lambda params, permit: params.guard(permit))
def k8s_configmap_create(params: ConfigMapCreate, op: OperationContext) -> JSON:
    """Creates a ConfigMap."""
    body: dict[str, Any] = {"metadata": {"labels": dict(params.labels)}, "data": params.data}
    if params.immutable:
        body["immutable"] = True
    with cluster(params, op) as found:
        made = create(found, CONFIG_MAP, params.namespace, params.configmap_name, body, op)
    return {
        "configmap_name": params.configmap_name,
        "namespace": params.namespace,
        "keys": sorted(params.data),
        **_made(made),
    }


@family.operation("k8s_namespace_create", timeout_seconds=120, guard=lambda params, permit: params.guard(permit))
def k8s_namespace_create(params: NamespaceCreate, op: OperationContext) -> JSON:
    """Creates a namespace."""
    with cluster(params, op) as found:
        made = create(found, NAMESPACE, "", params.namespace, {"metadata": {"labels": dict(params.labels)}}, op)
    return {"namespace": params.namespace, "phase": (made.get("status") or {}).get("phase"), **_made(made)}


def _made(made: JSON) -> JSON:
    return {"uid": made["metadata"].get("uid"), "creation_timestamp": made["metadata"].get("creationTimestamp")}


def _without_none(values: JSON, names: Mapping[str, str]) -> JSON:
    return {names.get(key, key): value for key, value in values.items() if value is not None}
