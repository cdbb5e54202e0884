"""kind, against a program of its name on PATH."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import StopReason
from avtomatika.operations.kind import family
from tests.support.fake_kind import FakeKind
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.http_fake import Refusal
from tests.support.polling import eventually_async
from tests.support.single_operation import Caller


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeKind:
    fake = FakeKind(tmp_path / "kind")
    monkeypatch.setenv("PATH", f"{fake.install()}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("BROKER_PASSWORD", "of-the-worker")
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/docker.sock")
    return fake


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    (tmp_path / "files").mkdir()
    options = {
        "clusters": ["test-*"],
        "images": ["kindest/node:*", "app:*"],
        "kubeconfig_folder": str(tmp_path / "kubeconfigs"),
    }
    return Caller(family, {"options": options, "local_roots": [tmp_path / "files"]})


def test_a_cluster_is_created(kind: FakeKind, caller: Caller, tmp_path: Path) -> None:
    config = {
        "nodes": [
            {"role": "control-plane", "extraPortMappings": [{"containerPort": 80, "hostPort": 8080}]},
            {"role": "worker", "image": "kindest/node:v1.34.0", "extraMounts": [{"hostPath": "data", "containerPath": "/data"}]},
        ]
    }
    result = caller.call(
        "kind_cluster_create", cluster_name="test-1", config=config, image="kindest/node:v1.35.0", wait=90, port=6443
    )

    kubeconfig = tmp_path / "kubeconfigs" / "test-1.kubeconfig"
    assert result == {
        "cluster_name": "test-1",
        "cluster_type": "kind",
        "nodes": ["test-1-control-plane", "test-1-worker"],
        "count": 2,
        "ready": False,
        "kubeconfig": str(kubeconfig),
        "stdout": "You can now use your cluster\n",
    }
    assert kubeconfig.exists()
    assert kubeconfig.parent.stat().st_mode & 0o777 == 0o700
    (call,) = kind.calls("create cluster")
    assert call["argv"] == [
        *("create", "cluster", "--name", "test-1", "--config", "-", "--wait", "90s"),
        *("--kubeconfig", str(kubeconfig), "--image", "kindest/node:v1.35.0"),
    ]
    sent = json.loads(call["stdin"])
    assert (sent["kind"], sent["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert sent["networking"] == {"apiServerAddress": "127.0.0.1", "apiServerPort": 6443}
    assert sent["nodes"][0]["extraPortMappings"][0]["listenAddress"] == "127.0.0.1"
    assert sent["nodes"][1]["extraMounts"][0]["hostPath"] == str(tmp_path / "files" / "data")
    assert "BROKER_PASSWORD" not in call["env"]
    assert call["env"]["DOCKER_HOST"] == "unix:///run/docker.sock"
    assert 'Creating cluster "test-1" ...' in [text for _, text in caller.op.take_report().lines]


def test_the_cluster_is_asked_whether_it_is_ready(kind: FakeKind, caller: Caller, tmp_path: Path) -> None:
    with FakeKubernetes() as server:
        kind.set(kubeconfig=server.kubeconfig(tmp_path / "leads-there").read_text())
        assert caller.call("kind_cluster_create", cluster_name="test-1")["ready"] is False, "there are no nodes"
        for name, status in (("a", "True"), ("b", "False")):
            conditions = [{"type": "Ready", "status": status}]
            server.put(f"/api/v1/nodes/{name}", {"metadata": {"name": name}, "status": {"conditions": conditions}})
        assert caller.call("kind_cluster_create", cluster_name="test-2")["ready"] is False
        assert "1 of 2 nodes are ready" in [text for _, text in caller.op.take_report().lines]
        server.status_of("/api/v1/nodes/b", {"conditions": [{"type": "Ready", "status": "True"}]})
        assert caller.call("kind_cluster_create", cluster_name="test-3")["ready"] is True
        assert caller.call("kind_cluster_create", cluster_name="test-4", wait=0)["ready"] is None
        server.refusals.append(Refusal("GET", "/api/v1/nodes", 503, {}))
        assert caller.call("kind_cluster_create", cluster_name="test-5")["ready"] is False


def test_a_configuration_from_a_file(kind: FakeKind, caller: Caller, tmp_path: Path) -> None:
    file = tmp_path / "files" / "kind.yaml"
    file.write_text(yaml.safe_dump({"nodes": [{"role": "control-plane"}, {"role": "worker"}]}))
    assert caller.call("kind_cluster_create", cluster_name="test-1", config_file="kind.yaml")["count"] == 2
    for text, code in [
        ("a: [", "KIND_CONFIG_ERROR"),
        ("text", "KIND_CONFIG_ERROR"),
        ("nodes: text", "KIND_CONFIG_ERROR"),
        ("networking: {apiServerAddress: here}", "KIND_CONFIG_ERROR"),
        ("nodes: [{extraMounts: [{hostPath: /etc, containerPath: /etc}]}]", "VALIDATION_CONSTRAINT_VIOLATION"),
    ]:
        file.write_text(text)
        assert caller.fails("kind_cluster_create", cluster_name="test-2", config_file="kind.yaml").code == code, text
    assert caller.fails("kind_cluster_create", cluster_name="test-2", config_file="none").code == "KIND_CONFIG_ERROR"
    assert len(kind.calls("create cluster")) == 1


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"cluster_name": "production"}, "clusters"),
        ({"cluster_name": "test-1", "image": "evil/node:1"}, "images"),
        ({"cluster_name": "test-1", "config": {"nodes": [{"image": "evil/node:1"}]}}, "images"),
        ({"cluster_name": "test-1", "config": {"nodes": [{"extraMounts": [{"hostPath": "/"}]}]}}, "local_roots"),
        ({"cluster_name": "test-1", "config": {"networking": {"apiServerAddress": "0.0.0.0"}}}, "kind_options"),
        ({"cluster_name": "test-1", "config": {"nodes": [{"extraPortMappings": [{"listenAddress": "::"}]}]}}, "kind_options"),
        ({"cluster_name": "test-1", "config_file": "/etc/passwd"}, "local_roots"),
    ],
)
def test_what_the_policy_has_to_allow(kind: FakeKind, caller: Caller, params: dict[str, Any], text: str) -> None:
    error = caller.fails("kind_cluster_create", **params)
    assert (error.code, text in str(error)) == ("VALIDATION_CONSTRAINT_VIOLATION", True)
    assert kind.calls("create cluster") == []


def test_creating_has_to_be_named_in_full(caller: Caller) -> None:
    caller.policy["operations"] = ["kind_*"]
    assert caller.fails("kind_cluster_create", cluster_name="test-1").code == "VALIDATION_CONSTRAINT_VIOLATION"


def test_a_cluster_that_cannot_be_created_is_taken_back(kind: FakeKind, caller: Caller, tmp_path: Path) -> None:
    kind.set(failures={"create cluster": {"code": 1, "text": "ERROR: failed to create cluster"}})
    error = caller.fails("kind_cluster_create", cluster_name="test-1")
    assert error.code == "KIND_CLUSTER_CREATE_FAILED"
    assert error.details == {"exit_code": 1, "stderr": "ERROR: failed to create cluster\n"}
    assert len(kind.calls("delete cluster")) == 1

    kind.set(failures={}, clusters={"test-1": []})
    error = caller.fails("kind_cluster_create", cluster_name="test-1")
    assert (error.code, error.details) == ("KIND_CLUSTER_CREATE_FAILED", {"exists": True})
    assert len(kind.calls("delete cluster")) == 1, "somebody else's cluster was deleted"


def test_time_for_a_cluster_is_bounded(kind: FakeKind, caller: Caller) -> None:
    kind.set(slow=True)
    error = caller.fails("kind_cluster_create", cluster_name="test-1", timeout=4)
    assert (error.code, error.kind) == ("KIND_TIMEOUT", "TRANSIENT_ERROR")
    assert kind.state["clusters"] == {}
    assert not psutil.pid_exists(kind.calls("create cluster")[0]["pid"])


async def test_cancelled_it_ends_with_all_that_it_has_started(kind: FakeKind, caller: Caller) -> None:
    kind.set(slow=True)
    op = OperationContext("kind_cluster_create", {}, caller.permit(), seconds=60)
    operation = family.operations["kind_cluster_create"]
    work = asyncio.ensure_future(operation.run(operation.parse({"cluster_name": "test-1"}), op))

    async def begun() -> bool:
        return (kind.folder / "child").exists() and (kind.folder / "child").read_text() != ""

    await eventually_async(begun)
    child = psutil.Process(int((kind.folder / "child").read_text()))
    op.stop(StopReason.CANCEL)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    async def ended() -> bool:
        return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE

    await eventually_async(ended)
    assert kind.state["clusters"] == {}


def test_delete(kind: FakeKind, caller: Caller) -> None:
    caller.call("kind_cluster_create", cluster_name="test-1")
    kubeconfig = Path(caller.policy["options"]["kubeconfig_folder"]) / "test-1.kubeconfig"
    assert caller.call("kind_cluster_delete", cluster_name="test-1")["deleted"] is True
    assert kind.calls("delete cluster")[0]["argv"] == [
        *("delete", "cluster", "--name", "test-1", "--kubeconfig", str(kubeconfig))
    ]
    assert not kubeconfig.exists()
    assert caller.fails("kind_cluster_delete", cluster_name="test-1").code == "KIND_CLUSTER_NOT_FOUND"
    assert caller.call("kind_cluster_delete", cluster_name="test-1", missing_ok=True)["deleted"] is False
    kind.set(clusters={"test-1": []}, failures={"delete cluster": {"code": 1, "text": "no"}})
    error = caller.fails("kind_cluster_delete", cluster_name="test-1")
    assert (error.code, error.details["stderr"]) == ("KIND_CLUSTER_DELETE_FAILED", "no\n")


def test_lists(kind: FakeKind, caller: Caller) -> None:
    assert caller.call("kind_cluster_list") == {"clusters": [], "count": 0}
    kind.set(clusters={"test-1": ["test-1-control-plane"], "production": []})
    assert caller.call("kind_cluster_list") == {"clusters": ["test-1"], "count": 1}
    assert caller.call("kind_get_nodes", cluster_name="test-1") == {
        "cluster_name": "test-1",
        "nodes": ["test-1-control-plane"],
        "count": 1,
    }
    assert caller.fails("kind_get_nodes", cluster_name="test-2").code == "KIND_CLUSTER_NOT_FOUND"
    kind.set(failures={"get clusters": {"code": 1, "text": "Cannot connect to the Docker daemon"}})
    error = caller.fails("kind_cluster_list")
    assert (error.code, error.kind) == ("SYSTEM_SERVICE_UNAVAILABLE", "TRANSIENT_ERROR")


def test_load_image(kind: FakeKind, caller: Caller) -> None:
    kind.set(clusters={"test-1": ["test-1-control-plane", "test-1-worker"]})
    result = caller.call("kind_load_image", cluster_name="test-1", image="app:1")
    assert (result["nodes"], result["count"]) == (["test-1-control-plane", "test-1-worker"], 2)
    caller.call("kind_load_image", cluster_name="test-1", image="app:1", nodes=["test-1-worker"])
    assert [call["argv"] for call in kind.calls("load docker-image")] == [
        ["load", "docker-image", "app:1", "--name", "test-1"],
        ["load", "docker-image", "app:1", "--name", "test-1", "--nodes", "test-1-worker"],
    ]
    assert caller.fails("kind_load_image", cluster_name="test-2", image="app:1").code == "KIND_CLUSTER_NOT_FOUND"
    kind.set(failures={"load docker-image": {"code": 1, "text": "image not present locally"}})
    assert caller.fails("kind_load_image", cluster_name="test-1", image="app:1").code == "KIND_LOAD_IMAGE_FAILED"
    assert caller.fails("kind_load_image", cluster_name="test-1", image="evil:1").code == "VALIDATION_CONSTRAINT_VIOLATION"


def test_the_program_is_missing(caller: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert family.lacks() == "kind is not on PATH: install it"
    error = caller.fails("kind_cluster_list")
    assert (error.code, "install it on PATH" in str(error)) == ("CONFIGURATION_ERROR", True)


@pytest.mark.parametrize(
    ("operation", "params", "code"),
    [
        ("kind_cluster_create", {"cluster_name": "--config"}, "VALIDATION_INVALID_FORMAT"),
        ("kind_cluster_create", {"cluster_name": "test-1", "cluster_type": "k3s"}, "VALIDATION_INVALID_PARAMS"),
        ("kind_cluster_create", {"cluster_name": "test-1", "config": {}, "config_file": "a"}, "VALIDATION_INVALID_PARAMS"),
        ("kind_cluster_create", {"cluster_name": "test-1", "wait": -1}, "VALIDATION_OUT_OF_RANGE"),
        ("kind_load_image", {"cluster_name": "test-1"}, "VALIDATION_MISSING_REQUIRED"),
        ("kind_load_image", {"cluster_name": "test-1", "image": "--help"}, "VALIDATION_INVALID_FORMAT"),
        ("kind_cluster_list", {"all": True}, "VALIDATION_INVALID_PARAMS"),
    ],
)
def test_parameters_that_do_not_fit(caller: Caller, operation: str, params: dict[str, Any], code: str) -> None:
    assert caller.fails(operation, **params).code == code
