"""The fakes of the Docker Engine and of the Kubernetes API serve the command lines that are made for the real ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.fake_docker import FakeDocker, Program
from tests.support.fake_kubernetes import Command, FakeKubernetes, running_status
from tests.support.http_fake import serving
from tests.support.polling import eventually


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker command line is not installed")
def test_the_docker_command_line_takes_the_fake_for_an_engine(tmp_path: Path) -> None:
    with FakeDocker() as engine:
        env = {"DOCKER_HOST": engine.host, "DOCKER_CONFIG": str(tmp_path), "DOCKER_BUILDKIT": "0"}
        engine.remote["nginx:latest"] = [("aaa", 4000)]
        engine.programs["nginx:latest"] = Program(stdout=b"hello\n", stderr=b"oops\n", exit_code=3)

        def docker(*argv: str) -> subprocess.CompletedProcess[str]:
            return run("docker", *argv, **env)

        assert "aaa: Pull complete" in docker("pull", "nginx").stdout
        assert docker("tag", "nginx", "registry.example.com/app:1").returncode == 0
        assert "bbb: Pushed" in docker("push", "registry.example.com/app:1").stdout
        assert docker("create", "--name", "one", "nginx").returncode == 0
        assert docker("start", "one").returncode == 0
        eventually(lambda: docker("inspect", "one", "--format", "{{.State.ExitCode}}").stdout == "3\n")
        logs = docker("logs", "one")
        assert (logs.stdout, logs.stderr) == ("hello\n", "oops\n")
        assert docker("rm", "one").returncode == 0
        assert "Error response from daemon: pull access denied for none" in docker("pull", "none").stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_takes_the_fake_for_an_api_server(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with FakeKubernetes(tls=serving(authority.issue("api"))) as server:
        kubeconfig = server.kubeconfig(tmp_path / "kubeconfig", authority=authority.path)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": "team"}, "status": running_status()}
        server.put("/api/v1/namespaces/team/pods/one", {**pod, "spec": {"containers": [{"name": "main", "image": "x"}]}})
        server.logs["one"] = b"line\n"
        server.commands["cat"] = Command(stdout=b"text\n", exit_code=3)

        def kubectl(*argv: str) -> subprocess.CompletedProcess[str]:
            return run("kubectl", "-n", "team", *argv, KUBECONFIG=str(kubeconfig), HOME=str(tmp_path))

        assert "one" in kubectl("get", "pods").stdout
        assert kubectl("logs", "one").stdout == "line\n"
        done = kubectl("exec", "one", "--", "cat", "x")
        assert (done.returncode, done.stdout) == (3, "text\n")
        assert "Error from server (NotFound)" in kubectl("get", "pod", "none").stderr
