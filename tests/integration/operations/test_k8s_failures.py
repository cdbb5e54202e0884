"""What an API server answers that is no success, and parameters that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.http_fake import Refusal
from tests.support.kubernetes_client import PODS, SETTINGS, call, caller_of, fails
from tests.support.processes import free_port
from tests.support.single_operation import Caller


@pytest.fixture
def server() -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as fake:
        yield fake


@pytest.fixture
def caller(server: FakeKubernetes, tmp_path: Path) -> Caller:
    return caller_of(server, tmp_path)


# What failures mean


@pytest.mark.parametrize(
    ("status", "body", "code", "kind"),
    [
        (400, {"details": {"kind": "pods"}}, "K8S_POD_FAILED", "INVALID_INPUT_ERROR"),
        (401, {}, "K8S_AUTHENTICATION_FAILED", "PERMANENT_ERROR"),
        (403, {"message": "not found"}, "K8S_AUTHENTICATION_FAILED", "PERMANENT_ERROR"),
        (404, {"details": {"kind": "namespaces"}}, "K8S_NAMESPACE_NOT_FOUND", "PERMANENT_ERROR"),
        (404, {"message": "namespaces not found"}, "K8S_RESOURCE_NOT_FOUND", "PERMANENT_ERROR"),
        (409, {"reason": "Conflict"}, "K8S_API_ERROR", "TRANSIENT_ERROR"),
        (422, {"details": {"kind": "Deployment"}}, "K8S_DEPLOYMENT_FAILED", "INVALID_INPUT_ERROR"),
        (422, {"details": {"kind": "Service"}}, "K8S_SERVICE_FAILED", "INVALID_INPUT_ERROR"),
        (422, {"details": {"kind": "ConfigMap"}}, "K8S_CONFIGMAP_FAILED", "INVALID_INPUT_ERROR"),
        (422, {"details": {"kind": "Secret"}}, "K8S_SECRET_FAILED", "INVALID_INPUT_ERROR"),
        (422, {"details": {"kind": "Gadget"}}, "K8S_API_ERROR", "INVALID_INPUT_ERROR"),
        (429, {}, "K8S_CLUSTER_UNAVAILABLE", "TRANSIENT_ERROR"),
        (503, {}, "K8S_CLUSTER_UNAVAILABLE", "TRANSIENT_ERROR"),
        (302, {}, "K8S_API_ERROR", "PERMANENT_ERROR"),
    ],
)
def test_what_an_answer_means(
    server: FakeKubernetes, caller: Caller, status: int, body: dict[str, Any], code: str, kind: str
) -> None:
    server.refusals.append(Refusal("PATCH", "/api/v1", status, {"kind": "Status", **body}))
    error = fails(caller, "k8s_deploy", manifests=[SETTINGS])
    assert (error.code, error.kind) == (code, kind)


def test_a_namespace_that_is_not_there(caller: Caller) -> None:
    error = fails(caller, "k8s_configmap_create", namespace="team-none", configmap_name="a")
    assert (error.code, error.details["name"]) == ("K8S_NAMESPACE_NOT_FOUND", "team-none")


def test_the_cluster_is_not_there(server: FakeKubernetes, caller: Caller, tmp_path: Path) -> None:
    server.port, port = free_port(), server.port
    server.kubeconfig(tmp_path / "kubeconfig")
    error = fails(caller, "k8s_pod_status", pod_name="one")
    assert (error.code, error.kind) == ("K8S_CLUSTER_UNAVAILABLE", "TRANSIENT_ERROR")
    server.port = port
    server.kubeconfig(tmp_path / "kubeconfig", token="another")
    error = fails(caller, "k8s_pod_status", pod_name="one")
    assert error.code == "K8S_AUTHENTICATION_FAILED"


def test_who_asks(server: FakeKubernetes, caller: Caller, tmp_path: Path) -> None:
    server.put(f"{PODS}/one", {"metadata": {"name": "one", "labels": {"leak": server.token}}})
    result = call(caller, "k8s_get", kind="Pod", name="one")
    assert result["items"][0]["metadata"]["labels"] == {"leak": "***"}
    error = caller.fails("k8s_pod_status", namespace="team", pod_name="one")
    assert (error.code, "in_cluster" in str(error)) == ("VALIDATION_CONSTRAINT_VIOLATION", True)
    caller.policy["options"]["in_cluster"] = True
    assert caller.fails("k8s_pod_status", namespace="team", pod_name="one").code == "K8S_CONFIG_ERROR"
    for text in ("a: [", "just text", "{}"):
        (tmp_path / "kubeconfig").write_text(text)
        assert fails(caller, "k8s_pod_status", pod_name="one").code == "K8S_CONFIG_ERROR", text
    (tmp_path / "kubeconfig").unlink()
    assert fails(caller, "k8s_pod_status", pod_name="one").code == "K8S_CONFIG_ERROR"


@pytest.mark.parametrize(
    ("operation", "params", "code"),
    [
        ("k8s_deploy", {}, "VALIDATION_INVALID_PARAMS"),
        ("k8s_deploy", {"manifests": []}, "VALIDATION_INVALID_PARAMS"),
        ("k8s_deploy", {"manifests": [{"kind": "Pod"}]}, "VALIDATION_INVALID_PARAMS"),
        ("k8s_deploy", {"manifests": [SETTINGS], "manifest_file": "a"}, "VALIDATION_INVALID_PARAMS"),
        ("k8s_scale", {"name": "web"}, "VALIDATION_MISSING_REQUIRED"),
        ("k8s_scale", {"name": "web", "replicas": -1}, "VALIDATION_OUT_OF_RANGE"),
        ("k8s_scale", {"name": "../x", "replicas": 1}, "VALIDATION_INVALID_FORMAT"),
        ("k8s_get", {"kind": "Pod", "name": "a", "label_selector": "a=b"}, "VALIDATION_INVALID_PARAMS"),
        ("k8s_get", {"kind": "pods"}, "VALIDATION_INVALID_FORMAT"),
        ("k8s_get", {"kind": "Pod", "api_version": "../v1"}, "VALIDATION_INVALID_FORMAT"),
        ("k8s_delete", {"kind": "Pod"}, "VALIDATION_MISSING_REQUIRED"),
        ("k8s_logs", {}, "VALIDATION_MISSING_REQUIRED"),
        ("k8s_exec", {"pod_name": "one", "command": "cat x"}, "VALIDATION_INVALID_PARAMS"),
        ("k8s_deployment_create", {"image": "registry.example.com/a"}, "VALIDATION_INVALID_PARAMS"),
        ("k8s_deployment_create", {"image": "registry.example.com/a", "project_path": "/"}, "VALIDATION_INVALID_PARAMS"),
        ("k8s_pod_create", {"pod_name": "one"}, "VALIDATION_MISSING_REQUIRED"),
        ("k8s_pod_status", {"pod_name": "One"}, "VALIDATION_INVALID_FORMAT"),
        ("k8s_pod_delete", {}, "VALIDATION_MISSING_REQUIRED"),
        ("k8s_service_create", {"service_name": "web", "selector": {"a": "b"}}, "VALIDATION_MISSING_REQUIRED"),
        ("k8s_configmap_create", {"configmap_name": "a", "data": {"b": 1}}, "VALIDATION_INVALID_PARAMS"),
        ("k8s_namespace_create", {"namespace": "Team"}, "VALIDATION_INVALID_FORMAT"),
        ("k8s_pod_status", {"pod_name": "one", "credential": "other"}, "VALIDATION_CONSTRAINT_VIOLATION"),
    ],
)
def test_parameters_that_do_not_fit(caller: Caller, operation: str, params: dict[str, Any], code: str) -> None:
    assert fails(caller, operation, **params).code == code


def test_a_kubeconfig_that_others_may_read(server: FakeKubernetes, caller: Caller, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").chmod(0o644)
    error = fails(caller, "k8s_pod_status", pod_name="one")
    assert (error.code, "kubeconfig" in str(error)) == ("K8S_CONFIG_ERROR", True)
    # Nor does an operation read it, wherever it lies.
    caller.policy["local_roots"] = [tmp_path]
    assert fails(caller, "k8s_deploy", manifest_file="kubeconfig").code == "VALIDATION_CONSTRAINT_VIOLATION"
