"""Engines and API servers with TLS: verified, with certificates of clients, and stopped while an answer is waited for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from avtomatika.operations.docker import family as docker_family
from avtomatika.operations.errors import OperationStopped
from avtomatika.operations.k8s import family as k8s_family
from tests.support.certificates import Authority
from tests.support.fake_docker import FakeDocker
from tests.support.fake_kubernetes import Command, FakeKubernetes, running_status
from tests.support.http_fake import serving
from tests.support.polling import eventually
from tests.support.single_operation import Caller, Running


def test_an_engine_that_wants_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    certificate = authority.issue("worker")
    folder = tmp_path / "docker"
    folder.mkdir()
    for source, name in ((authority.path, "ca.pem"), (certificate.cert, "cert.pem"), (certificate.key, "key.pem")):
        shutil.copy(source, folder / name)
    caller = Caller(docker_family, {"options": {"images": ["*"]}})
    with FakeDocker(tls=serving(authority.issue("engine"), clients=authority.path)) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(folder))
        engine.remote["nginx:latest"] = [("aaa", 10)]
        assert caller.call("docker_pull", image_name="nginx")["updated"] is True

        engine.hold = "headers"
        running = Running(caller, "docker_pull", image_name="nginx")
        eventually(lambda: engine.held == 1)
        assert isinstance(running.stop(), OperationStopped)
        eventually(lambda: engine.dropped == 1)

        shutil.copy(other.path, folder / "ca.pem")
        error = caller.fails("docker_pull", image_name="nginx")
        assert (error.code, "authority in DOCKER_CERT_PATH" in str(error)) == ("CONFIGURATION_ERROR", True)
        (folder / "ca.pem").unlink()
        assert caller.fails("docker_pull", image_name="nginx").code == "CONFIGURATION_ERROR"


def test_an_api_server_with_tls(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    with FakeKubernetes(tls=serving(authority.issue("api"))) as server:
        kubeconfig = server.kubeconfig(tmp_path / "kubeconfig", authority=authority.path)
        caller = Caller(
            k8s_family,
            {"options": {"namespaces": ["*"]}, "credentials": ["*"], "commands": ["sleep 9", "true"]},
            {"cluster": {"kubeconfig": kubeconfig}},
        )
        server.put("/api/v1/namespaces/team/pods/one", {"metadata": {"name": "one"}, "status": running_status()})
        pod = {"credential": "cluster", "namespace": "team", "pod_name": "one"}
        server.commands |= {"true": Command(stdout=b"x" * 100_000), "sleep": Command(seconds=None)}
        assert caller.call("k8s_pod_status", **pod)["phase"] == "Running"
        assert len(caller.call("k8s_exec", **pod, command=["true"])["stdout"]) == 100_000

        server.logs["one"], server.log_lives = b"begin\n", True
        for operation, params in (("k8s_logs", {"follow_seconds": 60}), ("k8s_exec", {"command": ["sleep", "9"]})):
            running = Running(caller, operation, **pod, **params)
            eventually(lambda: server.watching == 1)
            assert isinstance(running.stop(), OperationStopped)
            eventually(lambda: server.watching == 0)

        server.kubeconfig(kubeconfig, authority=other.path)
        assert caller.fails("k8s_pod_status", **pod).code == "K8S_CONFIG_ERROR"
        assert caller.fails("k8s_exec", **pod, command=["true"]).code == "K8S_CONFIG_ERROR"
