"""k8s_deploy, _scale, _get and _delete, against an API server on a local port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from avtomatika.operations.errors import OperationStopped
from tests.support.fake_kubernetes import FakeKubernetes, running_status, waiting_status
from tests.support.kubernetes_client import DEPLOYMENTS, PODS, SETTINGS, call, caller_of, deployment, fails
from tests.support.polling import eventually
from tests.support.single_operation import Caller, Running


@pytest.fixture
def server() -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as fake:
        yield fake


@pytest.fixture
def caller(server: FakeKubernetes, tmp_path: Path) -> Caller:
    return caller_of(server, tmp_path)


# Deploy


def test_manifests_are_applied_and_their_rollout_is_waited_for(server: FakeKubernetes, caller: Caller) -> None:
    server.step_seconds = 0.3
    result = call(caller, "k8s_deploy", manifests=[SETTINGS, deployment()])

    uids = [
        server.objects[path]["metadata"]["uid"] for path in ("/api/v1/namespaces/team/configmaps/settings", f"{DEPLOYMENTS}/web")
    ]
    assert [(item["kind"], item["name"], item["namespace"], item["created"], item["uid"]) for item in result["objects"]] == [
        ("ConfigMap", "settings", "team", True, uids[0]),
        ("Deployment", "web", "team", True, uids[1]),
    ]
    applied = server.called("PATCH", "/")
    assert [request.body for request in applied] == [SETTINGS, deployment()]
    assert applied[1].query == {"fieldManager": "avtomatika", "force": "false"}
    assert applied[1].headers["Content-Type"] == "application/apply-patch+yaml"
    assert server.objects[f"{DEPLOYMENTS}/web"]["status"]["availableReplicas"] == 2
    lines = [text for _, text in caller.op.take_report().lines]
    assert "Deployment web: created" in lines
    assert "Deployment web: 2 of 2 ready, 2 up to date" in lines
    assert any("old ones left" in line for line in lines), "the pods of before were not waited for"

    again = call(caller, "k8s_deploy", manifests=[SETTINGS])
    assert again["objects"][0]["created"] is False


def test_manifests_from_a_file(server: FakeKubernetes, caller: Caller, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "stringData": {"key": "of-the-house"}}
    listed = {"apiVersion": "v1", "kind": "List", "items": [SETTINGS, secret]}
    (folder / "all.yaml").write_text(yaml.safe_dump_all([listed, None]))
    result = call(caller, "k8s_deploy", manifest_file="all.yaml")
    assert [item["name"] for item in result["objects"]] == ["settings", "key"]
    assert "of-the-house" not in str(result)
    assert fails(caller, "k8s_deploy", manifests=[secret]).code == "VALIDATION_CONSTRAINT_VIOLATION"

    for text, code in [
        ("a: [", "VALIDATION_INVALID_PARAMS"),
        ("just text", "VALIDATION_INVALID_PARAMS"),
        ("", "VALIDATION_INVALID_PARAMS"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: ../../x}}", "VALIDATION_INVALID_PARAMS"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: kube-system}}", "VALIDATION_CONSTRAINT_VIOLATION"),
        ("!!python/object/apply:os.system ['true']", "VALIDATION_INVALID_PARAMS"),
    ]:
        (folder / "bad.yaml").write_text(text)
        assert fails(caller, "k8s_deploy", manifest_file="bad.yaml").code == code, text
    assert fails(caller, "k8s_deploy", manifest_file="none.yaml").code == "VALIDATION_INVALID_PARAMS"
    assert fails(caller, "k8s_deploy", manifest_file="../kubeconfig").code == "VALIDATION_CONSTRAINT_VIOLATION"


def test_a_dry_run_changes_nothing(server: FakeKubernetes, caller: Caller) -> None:
    assert call(caller, "k8s_deploy", manifests=[SETTINGS], dry_run=True)["dry_run"] is True
    assert server.called("PATCH", "/")[0].query["dryRun"] == "All"
    assert "/api/v1/namespaces/team/configmaps/settings" not in server.objects


def test_somebody_elses_fields_are_taken_on_demand_only(server: FakeKubernetes, caller: Caller) -> None:
    server.put("/api/v1/namespaces/team/configmaps/settings", {"metadata": {"name": "settings", "managedBy": "somebody"}})
    error = fails(caller, "k8s_deploy", manifests=[SETTINGS])
    assert (error.code, error.kind, error.details["status"]) == ("K8S_API_ERROR", "PERMANENT_ERROR", 409)
    assert call(caller, "k8s_deploy", manifests=[SETTINGS], force_conflicts=True)["count"] == 1


def test_a_rollout_that_makes_no_progress(server: FakeKubernetes, caller: Caller) -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}
    server.stuck["web"] = [late]
    pod = {"metadata": {"name": "web-1", "namespace": "team", "labels": {"app": "web"}}, "status": waiting_status("ErrImagePull")}
    server.put(f"{PODS}/web-1", pod)
    error = fails(caller, "k8s_deploy", manifests=[deployment()])
    assert error.code == "K8S_DEPLOYMENT_FAILED"
    assert error.details["conditions"] == [late]
    assert error.details["pods"][0]["container_statuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull"

    server.stuck["api"] = []
    error = fails(caller, "k8s_deploy", manifests=[deployment("api")], wait_seconds=0.3)
    assert (error.code, "not ready after 0.3 s" in str(error)) == ("K8S_DEPLOYMENT_FAILED", True)


def test_a_watch_that_has_forgotten_begins_anew(server: FakeKubernetes, caller: Caller) -> None:
    server.gone_watches, server.stuck["web"] = 2, []
    running = Running(caller, "k8s_deploy", credential="cluster", namespace="team", manifests=[deployment()])
    eventually(lambda: server.watching == 1)
    assert server.gone_watches == 0
    running.stop()


def test_a_stop_ends_the_watch(server: FakeKubernetes, caller: Caller) -> None:
    server.stuck["web"] = []
    running = Running(caller, "k8s_deploy", credential="cluster", namespace="team", manifests=[deployment()])
    eventually(lambda: server.watching == 1)
    assert isinstance(running.stop(), OperationStopped)
    eventually(lambda: server.dropped == 1)


@pytest.mark.parametrize(
    ("manifest", "option"),
    [
        (deployment(container={"securityContext": {"privileged": True}}), "privileged"),
        (deployment(container={"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}), "cap_add:SYS_ADMIN"),
        (deployment(container={"ports": [{"containerPort": 80, "hostPort": 80}]}), "host_port:80"),
        (deployment(hostNetwork=True), "host_network"),
        (deployment(hostPID=True), "host_pid"),
        (deployment(volumes=[{"name": "x", "hostPath": {"path": "/etc"}}]), "host_path:/etc"),
    ],
)
def test_what_leads_out_of_a_pod_needs_the_policy(
    server: FakeKubernetes, caller: Caller, manifest: dict[str, Any], option: str
) -> None:
    error = fails(caller, "k8s_deploy", manifests=[manifest])
    assert (error.code, f"'{option}'" in str(error)) == ("VALIDATION_CONSTRAINT_VIOLATION", True)
    assert server.calls == []
    caller.policy["options"]["pod_options"] = [option]
    assert call(caller, "k8s_deploy", manifests=[manifest])["count"] == 1


def test_namespaces_and_what_belongs_to_none(server: FakeKubernetes, caller: Caller) -> None:
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:all"}}
    for params, text in [
        ({"manifests": [SETTINGS], "namespace": "kube-system"}, "'kube-system'"),
        ({"manifests": [{**SETTINGS, "metadata": {"name": "a", "namespace": "default"}}]}, "'default'"),
        ({"manifests": [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-public"}}]}, "'kube-public'"),
        ({"manifests": [SETTINGS, role]}, "'ClusterRole'"),
    ]:
        error = fails(caller, "k8s_deploy", **params)
        assert (error.code, text in str(error)) == ("VALIDATION_CONSTRAINT_VIOLATION", True)
    assert server.called("PATCH", "/") == [], "something was applied before all was allowed"
    caller.policy["options"]["cluster_kinds"] = ["ClusterRole"]
    assert call(caller, "k8s_deploy", manifests=[role])["objects"][0]["namespace"] is None
    caller.policy["options"]["kinds"] = ["ConfigMap"]
    assert "'ClusterRole'" in str(fails(caller, "k8s_deploy", manifests=[role]))
    assert "'Secret'" in str(fails(caller, "k8s_get", kind="Secret"))


# Scale, get, delete


def test_scale(server: FakeKubernetes, caller: Caller) -> None:
    call(caller, "k8s_deploy", manifests=[deployment()])
    result = call(caller, "k8s_scale", name="web", replicas=4)
    assert result == {
        "kind": "Deployment",
        "name": "web",
        "namespace": "team",
        "replicas": 4,
        "previous_replicas": 2,
        "ready_replicas": 4,
    }
    (patch,) = server.called("PATCH", f"{DEPLOYMENTS}/web/scale")
    assert (patch.body, patch.headers["Content-Type"]) == ({"spec": {"replicas": 4}}, "application/merge-patch+json")
    assert call(caller, "k8s_scale", name="web", replicas=0)["ready_replicas"] == 0
    assert fails(caller, "k8s_scale", name="none", replicas=1).code == "K8S_RESOURCE_NOT_FOUND"


def test_get(server: FakeKubernetes, caller: Caller) -> None:
    for name in ("a", "b"):
        metadata = {"name": name, "labels": {"app": name}, "managedFields": [{"manager": "x"}]}
        server.put(f"{PODS}/{name}", {"metadata": metadata, "status": running_status()})
    result = call(caller, "k8s_get", kind="Pod")
    assert [item["metadata"]["name"] for item in result["items"]] == ["a", "b"]
    assert (result["count"], result["more"], result["api_version"]) == (2, False, "v1")
    assert "managedFields" not in result["items"][0]["metadata"]
    assert call(caller, "k8s_get", kind="Pod", limit=1)["more"] is True
    assert call(caller, "k8s_get", kind="Pod", label_selector="app=b")["count"] == 1
    assert call(caller, "k8s_get", kind="Pod", name="a")["items"][0]["kind"] == "Pod"
    assert fails(caller, "k8s_get", kind="Pod", name="c").code == "K8S_RESOURCE_NOT_FOUND"
    assert fails(caller, "k8s_get", kind="Gadget").code == "K8S_RESOURCE_NOT_FOUND"
    assert fails(caller, "k8s_get", kind="Gadget", api_version="example.com/v1").code == "K8S_RESOURCE_NOT_FOUND"
    assert fails(caller, "k8s_get", kind="Node").code == "VALIDATION_CONSTRAINT_VIOLATION"


def test_the_values_of_secrets_are_not_shown(server: FakeKubernetes, caller: Caller) -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": '{"data": {"key": "b2Y="}}', "owner": "ada"}
    server.put(
        "/api/v1/namespaces/team/secrets/key", {"metadata": {"name": "key", "annotations": annotations}, "data": {"key": "b2Y="}}
    )
    result = call(caller, "k8s_get", kind="Secret", name="key")
    assert result["items"][0]["data"] == {"key": "***"}
    assert result["items"][0]["metadata"]["annotations"]["owner"] == "ada"
    assert "b2Y=" not in str(result)


def test_delete(server: FakeKubernetes, caller: Caller) -> None:
    server.put(f"{PODS}/a", {"metadata": {"name": "a"}})
    uid = server.objects[f"{PODS}/a"]["metadata"]["uid"]
    assert call(caller, "k8s_delete", kind="Pod", name="a", grace_period_seconds=1)["deleted"] is True
    (request,) = server.called("DELETE", PODS)
    assert request.body == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Background",
        "gracePeriodSeconds": 1,
        "preconditions": {"uid": uid},
    }
    assert f"{PODS}/a" not in server.objects
    assert fails(caller, "k8s_delete", kind="Pod", name="a").code == "K8S_RESOURCE_NOT_FOUND"
    assert call(caller, "k8s_delete", kind="Pod", name="a", missing_ok=True)["deleted"] is False
    server.put(f"{PODS}/b", {"metadata": {"name": "b", "finalizers": ["example.com/x"]}})
    server.keep.add("b")
    error = fails(caller, "k8s_delete", kind="Pod", name="b", wait_seconds=0.2)
    assert (error.code, error.details) == ("K8S_API_ERROR", {"finalizers": ["example.com/x"]})
    caller.policy["options"]["cluster_kinds"] = ["Namespace"]
    assert fails(caller, "k8s_delete", kind="Namespace", name="default").code == "VALIDATION_CONSTRAINT_VIOLATION"
