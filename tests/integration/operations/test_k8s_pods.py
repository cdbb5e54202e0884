"""What Kubernetes operations make, and pods, their logs and commands, against an API server on a local port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avtomatika.operations.errors import OperationStopped, StopReason
from tests.support.fake_kubernetes import Command, FakeKubernetes, running_status, waiting_status
from tests.support.http_fake import Refusal
from tests.support.kubernetes_client import DEPLOYMENTS, PODS, call, caller_of, fails
from tests.support.polling import eventually
from tests.support.single_operation import Caller, Running


@pytest.fixture
def server() -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as fake:
        yield fake


@pytest.fixture
def caller(server: FakeKubernetes, tmp_path: Path) -> Caller:
    return caller_of(server, tmp_path)


# Created by their parameters


def test_deployment_create(server: FakeKubernetes, caller: Caller) -> None:
    result = call(
        caller,
        "k8s_deployment_create",
        project_path="/srv/projects/My App",
        image="registry.example.com/app:1",
        replicas=3,
        env={"A": "b"},
        gpus=1,
    )
    made = server.objects[f"{DEPLOYMENTS}/my-app"]
    assert result == {
        "deployment_name": "my-app",
        "namespace": "team",
        "available_replicas": 3,
        "replicas": 3,
        "uid": made["metadata"]["uid"],
        "creation_timestamp": "2026-11-28T10:00:00Z",
    }
    spec = made["spec"]
    assert (spec["replicas"], spec["selector"]) == (3, {"matchLabels": {"app": "my-app"}})
    assert spec["template"]["spec"]["containers"] == [
        {
            "name": "my-app",
            "image": "registry.example.com/app:1",
            "resources": {
                "limits": {"cpu": "500m", "memory": "512Mi", "nvidia.com/gpu": "1"},
                "requests": {"cpu": "100m", "memory": "128Mi"},
            },
            "securityContext": {"allowPrivilegeEscalation": False},
            "env": [{"name": "A", "value": "b"}],
            "ports": [{"containerPort": 8060}],
        }
    ]
    # The answer of a first attempt was lost: the second one finds what it made.
    params = {"project_path": "/srv/projects/My App", "image": "registry.example.com/app:1", "replicas": 3}
    assert fails(caller, "k8s_deployment_create", **params).code == "K8S_RESOURCE_ALREADY_EXISTS"
    made["metadata"]["annotations"]["avtomatika/task-key"] = caller.op.key
    assert call(caller, "k8s_deployment_create", **params)["uid"] == made["metadata"]["uid"]
    assert fails(caller, "k8s_deployment_create", image="docker.io/evil", deployment_name="x").code == (
        "VALIDATION_CONSTRAINT_VIOLATION"
    )


def test_pods(server: FakeKubernetes, caller: Caller) -> None:
    result = call(caller, "k8s_pod_create", pod_name="one", image="registry.example.com/app:1", command=["sleep", "1"])
    assert result == {
        "pod_name": "one",
        "namespace": "team",
        "pod_phase": "Running",
        "pod_ip": "10.244.0.7",
        "uid": server.objects[f"{PODS}/one"]["metadata"]["uid"],
    }
    assert call(caller, "k8s_pod_status", pod_name="one") == {
        "pod_name": "one",
        "namespace": "team",
        "phase": "Running",
        "pod_ip": "10.244.0.7",
        "host_ip": "192.0.2.10",
        "start_time": "2026-11-28T10:00:00Z",
        "container_statuses": [
            {
                "name": "main",
                "ready": True,
                "restart_count": 0,
                "state": {"running": {"startedAt": "2026-11-28T10:00:01Z"}},
            }
        ],
    }
    assert call(caller, "k8s_pod_delete", pod_name="one") == {"pod_name": "one", "namespace": "team", "deleted": True}
    assert fails(caller, "k8s_pod_status", pod_name="one").code == "K8S_RESOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("statuses", "text"),
    [
        ([waiting_status("ContainerCreating"), waiting_status("ImagePullBackOff")], "ImagePullBackOff"),
        ([running_status(phase="Failed", message="out of memory")], "out of memory"),
        ([waiting_status("CrashLoopBackOff")], "CrashLoopBackOff"),
        ([waiting_status("ContainerCreating")], "not ready after"),
    ],
)
def test_pods_that_do_not_start(server: FakeKubernetes, caller: Caller, statuses: list[dict[str, Any]], text: str) -> None:
    server.pod_statuses["one"] = statuses
    seconds = 0.5 if text == "not ready after" else 30
    error = fails(caller, "k8s_pod_create", pod_name="one", image="registry.example.com/app:1", wait_seconds=seconds)
    assert (error.code, text in str(error)) == ("K8S_POD_FAILED", True)
    assert error.details["pods"][0]["pod_name"] == "one"


def test_a_pod_that_has_done_its_work(server: FakeKubernetes, caller: Caller) -> None:
    server.pod_statuses["one"] = [{"phase": "Succeeded"}]
    result = call(caller, "k8s_pod_create", pod_name="one", image="registry.example.com/app:1", restart_policy="Never")
    assert result["pod_phase"] == "Succeeded"


def test_service_configmap_and_namespace(server: FakeKubernetes, caller: Caller) -> None:
    result = call(
        caller, "k8s_service_create", service_name="web", selector={"app": "web"}, ports=[{"port": 80, "target_port": 8060}]
    )
    assert result["cluster_ip"] is None or result["cluster_ip"] == "10.96.0.10"
    made = server.objects["/api/v1/namespaces/team/services/web"]
    assert made["spec"]["ports"] == [{"port": 80, "targetPort": 8060, "protocol": "TCP"}]
    assert made["spec"]["selector"] == {"app": "web"}
    assert (result["service_type"], result["uid"]) == ("ClusterIP", made["metadata"]["uid"])
    error = fails(
        caller, "k8s_service_create", service_name="x", selector={"a": "b"}, ports=[{"port": 1}], service_type="LoadBalancer"
    )
    assert error.code == "VALIDATION_CONSTRAINT_VIOLATION"

    result = call(caller, "k8s_configmap_create", configmap_name="settings", data={"a.conf": "x=1\n"}, immutable=True)
    made = server.objects["/api/v1/namespaces/team/configmaps/settings"]
    assert (made["data"], made["immutable"], result["keys"]) == ({"a.conf": "x=1\n"}, True, ["a.conf"])

    result = call(caller, "k8s_namespace_create", namespace="team-new", labels={"owner": "ada"})
    made = server.objects["/api/v1/namespaces/team-new"]
    assert made["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "avtomatika", "owner": "ada"}
    assert result["uid"] == made["metadata"]["uid"]
    assert fails(caller, "k8s_namespace_create", namespace="team").code == "K8S_RESOURCE_ALREADY_EXISTS"
    assert fails(caller, "k8s_namespace_create", namespace="kube-x").code == "VALIDATION_CONSTRAINT_VIOLATION"


def test_what_a_cancelled_task_has_made_is_deleted(server: FakeKubernetes, caller: Caller) -> None:
    image = {"credential": "cluster", "namespace": "team", "image": "registry.example.com/app:1"}
    server.pod_statuses["one"], server.stuck["web"] = [waiting_status("ContainerCreating")], []
    for path, operation, params in [
        (f"{PODS}/one", "k8s_pod_create", {"pod_name": "one"}),
        (f"{DEPLOYMENTS}/web", "k8s_deployment_create", {"deployment_name": "web"}),
    ]:
        for reason in (StopReason.SHUTDOWN, StopReason.CANCEL):
            running = Running(caller, operation, **image, **params)
            eventually(lambda: server.watching == 1)
            assert path in server.objects
            assert isinstance(running.stop(reason), OperationStopped)
            eventually(lambda path=path, gone=reason is StopReason.CANCEL: (path not in server.objects) is gone)
            eventually(lambda: server.watching == 0)


# Logs and commands


def test_logs(server: FakeKubernetes, caller: Caller) -> None:
    server.logs["one"] = b"".join(b"line %d\n" % number for number in range(100))
    result = call(caller, "k8s_logs", pod_name="one", container="main", tail_lines=2, since_seconds=60, timestamps=True)
    assert result == {
        "pod_name": "one",
        "container": "main",
        "namespace": "team",
        "logs": "line 98\nline 99\n",
        "truncated": False,
    }
    expected = {"tailLines": "2", "timestamps": "true", "previous": "false", "container": "main", "sinceSeconds": "60"}
    assert server.called("GET", f"{PODS}/one/log")[0].query == expected
    result = call(caller, "k8s_logs", pod_name="one", max_output=20)
    assert (result["logs"], result["truncated"]) == ("line 98\nline 99\n", True)
    assert fails(caller, "k8s_logs", pod_name="two").code == "K8S_RESOURCE_NOT_FOUND"


def test_logs_are_followed_for_a_time(server: FakeKubernetes, caller: Caller) -> None:
    server.logs["one"], server.log_lives = b"begin\n", True
    result = call(caller, "k8s_logs", pod_name="one", follow_seconds=2)
    assert result["logs"].startswith("begin\ntick 0\ntick 1\n")
    assert "tick 0" in [text for _, text in caller.op.take_report().lines]
    eventually(lambda: server.watching == 0)
    running = Running(caller, "k8s_logs", credential="cluster", namespace="team", pod_name="one", follow_seconds=60)
    eventually(lambda: server.watching == 1)
    assert isinstance(running.stop(), OperationStopped)
    eventually(lambda: server.watching == 0)


@pytest.fixture
def pod(server: FakeKubernetes) -> None:
    server.put(f"{PODS}/one", {"metadata": {"name": "one"}, "status": running_status()})


@pytest.mark.usefixtures("pod")
def test_a_command_in_a_container(server: FakeKubernetes, caller: Caller) -> None:
    server.commands["cat"] = Command(stdout=b"x" * 5000 + b"\n", stderr=b"careful\n")
    result = call(caller, "k8s_exec", pod_name="one", container="main", command=["cat", "/etc/a b"])
    assert result.pop("duration") >= 0
    assert result == {
        "pod_name": "one",
        "container": "main",
        "namespace": "team",
        "exit_code": 0,
        "stdout": "x" * 5000 + "\n",
        "stderr": "careful\n",
        "truncated": False,
    }
    (request,) = server.called("GET", f"{PODS}/one/exec")
    assert request.query["container"] == "main"
    assert request.headers["Sec-WebSocket-Protocol"].startswith("v5.channel.k8s.io")

    server.commands["cat"] = Command(echoes=True)
    assert call(caller, "k8s_exec", pod_name="one", command=["cat", "-"], stdin="grüße")["stdout"] == "grüße"


@pytest.mark.usefixtures("pod")
def test_commands_that_fail(server: FakeKubernetes, caller: Caller) -> None:
    server.commands["false"] = Command(stderr=b"no\n", exit_code=3)
    error = fails(caller, "k8s_exec", pod_name="one", command=["false"])
    assert (error.code, error.details["exit_code"], error.details["stderr"]) == ("K8S_POD_FAILED", 3, "no\n")
    assert call(caller, "k8s_exec", pod_name="one", command=["false"], ok_codes=[3])["exit_code"] == 3
    error = fails(caller, "k8s_exec", pod_name="one", command=["none"])
    assert (error.code, error.details) == ("K8S_POD_FAILED", {"reason": "InternalError"})
    assert fails(caller, "k8s_exec", pod_name="two", command=["false"]).code == "K8S_RESOURCE_NOT_FOUND"
    assert fails(caller, "k8s_exec", pod_name="one", command=["rm", "-rf"]).code == "VALIDATION_CONSTRAINT_VIOLATION"
    server.refusals.append(Refusal("GET", f"{PODS}/one/exec", 403, {"kind": "Status", "message": "no exec", "details": {}}))
    error = fails(caller, "k8s_exec", pod_name="one", command=["false"])
    assert (error.code, "no exec" in str(error)) == ("K8S_AUTHENTICATION_FAILED", True)


@pytest.mark.usefixtures("pod")
def test_commands_that_go_on(server: FakeKubernetes, caller: Caller) -> None:
    server.commands["sleep"] = Command(stdout=b"begun\n", seconds=None)
    error = fails(caller, "k8s_exec", pod_name="one", command=["sleep", "9"], timeout=2)
    assert (error.code, error.details["stdout"]) == ("SYSTEM_TIMEOUT", "begun\n")
    eventually(lambda: server.dropped == 1)
    running = Running(caller, "k8s_exec", credential="cluster", namespace="team", pod_name="one", command=["sleep", "9"])
    eventually(lambda: server.watching == 1)
    assert isinstance(running.stop(), OperationStopped)
    eventually(lambda: server.dropped == 2)
