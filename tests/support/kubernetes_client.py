"""A client of the family k8s, for one cluster and one namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avtomatika.operations.errors import OperationError
from avtomatika.operations.k8s import family
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.single_operation import Caller

PODS = "/api/v1/namespaces/team/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/team/deployments"
SETTINGS = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "1"}}


def caller_of(server: FakeKubernetes, folder: Path) -> Caller:
    """One who may use the namespaces team and team-…, with the credential `cluster`."""
    path = server.kubeconfig(folder / "kubeconfig")
    return Caller(
        family,
        {
            "options": {"namespaces": ["team", "team-*"], "images": ["registry.example.com/*"]},
            "credentials": ["cluster"],
            "commands": ["cat *", "sleep *", "false", "none"],
            "local_roots": [folder / "manifests"],
        },
        {"cluster": {"kubeconfig": path, "context": "fake"}},
    )


def call(caller: Caller, operation: str, **params: Any) -> dict[str, Any]:
    return caller.call(operation, **{"credential": "cluster", "namespace": "team", **params})


def fails(caller: Caller, operation: str, **params: Any) -> OperationError:
    return caller.fails(operation, **{"credential": "cluster", "namespace": "team", **params})


def deployment(name: str = "web", **spec: Any) -> dict[str, Any]:
    """A manifest; what is given goes into its pods."""
    container = {"name": "web", "image": "registry.example.com/web:1", **spec.pop("container", {})}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container], **spec}},
        },
    }
