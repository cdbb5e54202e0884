"""Run, stop and remove, against an Engine API on a local port."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avtomatika.operations.docker import family
from avtomatika.operations.errors import OperationStopped, StopReason
from tests.support.fake_docker import FakeDocker, Program, sha
from tests.support.polling import eventually
from tests.support.single_operation import Caller, Running

SECRET = "a-token-for-the-container"


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    with FakeDocker() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        fake.images["busybox:latest"] = sha("image", "busybox:latest")
        yield fake


@pytest.fixture
def caller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Caller:
    monkeypatch.setenv("API_TOKEN", SECRET)
    return Caller(
        family,
        {
            "options": {"images": ["busybox:*"], "containers": ["avtomatika-*", "job-*"]},
            "local_roots": [tmp_path],
            "credentials": ["api"],
        },
        {"api": {"token_env": "API_TOKEN"}},
    )


def test_a_container_runs_to_its_end(docker: FakeDocker, caller: Caller, tmp_path: Path) -> None:
    docker.programs["busybox:latest"] = Program(stdout=b"one\ntwo\n", stderr=b"warning\n", seconds=0.2)
    (tmp_path / "data").mkdir()

    result = caller.call(
        "docker_run",
        image_name="busybox",
        command=["sh", "-c", "echo one; echo two"],
        env={"MODE": "test"},
        working_dir="/data",
        user="1000:1000",
        memory="512m",
        cpus=1.5,
        pids_limit=100,
        ports=[{"container_port": 80, "host_port": 8080}],
        mounts=[{"source": "data", "target": "/data"}],
        cap_drop=["ALL"],
        read_only=True,
    )

    name = f"avtomatika-{caller.op.key}"
    assert result.pop("duration") > 0
    id_ = result.pop("container_id")
    assert result == {
        "container_name": name,
        "image_name": "busybox",
        "tag": "latest",
        "full_image_name": "busybox:latest",
        "image_id": sha("busybox:latest"),
        "exit_code": 0,
        "oom_killed": False,
        "stdout": "one\ntwo\n",
        "stderr": "warning\n",
        "truncated": False,
        "removed": True,
    }
    assert {"one", "two", "warning"} <= {text for _, text in caller.op.take_report().lines}
    assert docker.containers == {}
    (call,) = docker.called("POST", "/containers/create")
    assert call.query["name"] == name
    body = call.body
    assert (body["Image"], body["Cmd"], body["User"]) == ("busybox:latest", ["sh", "-c", "echo one; echo two"], "1000:1000")
    assert (body["Env"], body["WorkingDir"]) == (["MODE=test"], "/data")
    assert body["Labels"] == {"avtomatika.task-key": caller.op.key}
    host = body["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (2**29, 2**29, 1_500_000_000, 100)
    assert (host["NetworkMode"], host["SecurityOpt"], host["CapDrop"]) == ("bridge", ["no-new-privileges"], ["ALL"])
    assert host["ReadonlyRootfs"] is True
    assert host.get("Privileged", False) is False
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}
    assert host["Mounts"] == [{"Target": "/data", "Source": str(tmp_path / "data"), "Type": "bind", "ReadOnly": True}]
    assert docker.called("POST", f"/containers/{id_}/start")


def test_an_image_that_is_missing_is_pulled(docker: FakeDocker, caller: Caller) -> None:
    docker.remote["busybox:2"] = [("aaa", 10)]
    assert caller.call("docker_run", image_name="busybox", tag="2")["exit_code"] == 0
    assert caller.fails("docker_run", image_name="busybox", tag="3").code == "DOCKER_IMAGE_NOT_FOUND"
    assert caller.fails("docker_run", image_name="busybox", tag="4", pull="never").code == "DOCKER_IMAGE_NOT_FOUND"
    assert len(docker.called("POST", "/images/create")) == 2


def test_a_secret_is_in_the_container_alone(docker: FakeDocker, caller: Caller) -> None:
    docker.programs["busybox:latest"] = Program(stdout=f"the token is {SECRET}\n".encode())
    result = caller.call("docker_run", image_name="busybox", env_from_credentials=[{"variable": "TOKEN", "credential": "api"}])
    assert docker.called("POST", "/containers/create")[0].body["Env"] == [f"TOKEN={SECRET}"]
    assert result["stdout"] == "the token is ***\n"
    assert SECRET not in str(caller.op.take_report())


def test_exit_codes(docker: FakeDocker, caller: Caller) -> None:
    docker.programs["busybox:latest"] = Program(stderr=b"no such file\n", exit_code=3)
    error = caller.fails("docker_run", image_name="busybox")
    assert error.code == "DOCKER_CONTAINER_STOPPED"
    assert (error.details["exit_code"], error.details["stderr"]) == (3, "no such file\n")
    assert caller.call("docker_run", image_name="busybox", ok_codes=[0, 3])["exit_code"] == 3
    docker.programs["busybox:latest"] = Program(exit_code=137, oom=True)
    assert caller.fails("docker_run", image_name="busybox", memory="64m").code == "SYSTEM_MEMORY_LIMIT"
    assert docker.containers == {}


def test_output_is_capped(docker: FakeDocker, caller: Caller) -> None:
    docker.programs["busybox:latest"] = Program(stdout=b"".join(b"line %d\n" % number for number in range(5000)), seconds=0.3)
    result = caller.call("docker_run", image_name="busybox", max_output=1000)
    assert result["truncated"] is True
    assert result["stdout"].endswith("line 4998\nline 4999\n")
    assert result["stdout"].startswith("line ")
    assert len(result["stdout"]) <= 1000


def test_its_own_time_limit(docker: FakeDocker, caller: Caller) -> None:
    docker.programs["busybox:latest"] = Program(seconds=None, stdout=b"on and on\n")
    error = caller.fails("docker_run", image_name="busybox", timeout=0.2, stop_timeout=1)
    assert (error.code, error.details["stdout"]) == ("SYSTEM_TIMEOUT", "on and on\n")
    assert {"t": "1"} in [call.query for call in docker.called("POST", "/containers/")]
    assert docker.containers == {}


@pytest.mark.parametrize("reason", [StopReason.CANCEL, StopReason.SHUTDOWN, StopReason.TIMEOUT])
def test_a_task_that_is_stopped_leaves_no_container(docker: FakeDocker, caller: Caller, reason: StopReason) -> None:
    docker.programs["busybox:latest"] = Program(seconds=None, stdout=b"on and on")
    running = Running(caller, "docker_run", image_name="busybox")
    eventually(lambda: [container.status for container in docker.containers.values()] == ["running"])
    assert isinstance(running.stop(reason), OperationStopped)
    assert docker.containers == {}


def test_a_stop_while_a_container_is_made_leaves_none(docker: FakeDocker, caller: Caller) -> None:
    docker.hold = "create"
    running = Running(caller, "docker_run", image_name="busybox")
    eventually(lambda: docker.held == 1)
    assert isinstance(running.stop(), OperationStopped)
    assert docker.containers == {}


def test_a_detached_container_goes_on(docker: FakeDocker, caller: Caller) -> None:
    docker.programs["busybox:latest"] = Program(seconds=None)
    result = caller.call("docker_run", image_name="busybox", name="job-1", detach=True)
    assert (result["running"], result["container_name"]) == (True, "job-1")
    container = docker.containers[result["container_id"]]
    assert (container.status, container.body["HostConfig"]["AutoRemove"]) == ("running", True)


def test_a_second_attempt_goes_on_with_the_first_ones_container(docker: FakeDocker, caller: Caller) -> None:
    docker.programs["busybox:latest"] = Program(seconds=None, stdout=b"once\n")
    params = {"image_name": "busybox", "name": "job-1"}
    # All that is left of an attempt whose process died is its container.
    container = docker.add("job-1", "busybox:latest", status="running")
    error = caller.fails("docker_run", **params)
    assert error.code == "DOCKER_CONTAINER_ALREADY_RUNNING", "another task's container was taken over"
    assert error.details == {"container_name": "job-1", "container_id": container.id}
    assert container.status == "running", "another task's container was stopped"
    container.body["Labels"]["avtomatika.task-key"] = caller.op.key
    container.began, container.program.seconds = time.monotonic(), 0.3
    result = caller.call("docker_run", **params)
    assert (result["container_id"], result["stdout"]) == (container.id, "once\n")
    assert docker.called("POST", f"/containers/{container.id}/start") == []


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"privileged": True}, "privileged"),
        ({"no_new_privileges": False}, "new_privileges"),
        ({"network": "host"}, "network:host"),
        ({"network": "container:other"}, "network:container:other"),
        ({"cap_add": ["CAP_SYS_ADMIN"]}, "cap_add:SYS_ADMIN"),
        ({"devices": [{"path": "/dev/kvm"}]}, "device:/dev/kvm"),
        ({"gpus": "all"}, "gpus"),
        ({"ports": [{"container_port": 80, "host_ip": "0.0.0.0"}]}, "publish:0.0.0.0"),
    ],
)
def test_what_leads_out_of_a_container_needs_the_policy(
    docker: FakeDocker, caller: Caller, params: dict[str, Any], name: str
) -> None:
    error = caller.fails("docker_run", image_name="busybox", **params)
    assert error.code == "VALIDATION_CONSTRAINT_VIOLATION"
    assert f"'{name}'" in str(error)
    assert docker.calls == []
    caller.policy["options"]["docker_options"] = [name]
    assert caller.call("docker_run", image_name="busybox", **params)["exit_code"] == 0
    host = docker.called("POST", "/containers/create")[0].body["HostConfig"]
    assert host.get("Privileged", False) is (name == "privileged")
    if name == "gpus":
        (request,) = host["DeviceRequests"]
        assert (request["Count"], request["Capabilities"]) == (-1, [["gpu"]])


def test_mounts_stay_beneath_the_roots(docker: FakeDocker, caller: Caller, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    for source in ("/", "/var/run/docker.sock", "../..", "link", "link/passwd"):
        error = caller.fails("docker_run", image_name="busybox", mounts=[{"source": source, "target": "/x"}])
        assert (error.code, "local_roots" in str(error)) == ("VALIDATION_CONSTRAINT_VIOLATION", True), source
    assert docker.calls == []


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, "VALIDATION_MISSING_REQUIRED"),
        ({"image_name": "busybox", "memory": "lots"}, "VALIDATION_INVALID_FORMAT"),
        ({"image_name": "busybox", "cpus": 0}, "VALIDATION_OUT_OF_RANGE"),
        ({"image_name": "busybox", "pids_limit": -1}, "VALIDATION_OUT_OF_RANGE"),
        ({"image_name": "busybox", "binds": ["/:/host"]}, "VALIDATION_INVALID_PARAMS"),
        ({"image_name": "busybox", "env": {"A=B": "x"}}, "VALIDATION_INVALID_FORMAT"),
        ({"image_name": "busybox", "mounts": [{"source": "a", "target": "relative"}]}, "VALIDATION_INVALID_FORMAT"),
        ({"image_name": "busybox", "devices": [{"path": "/etc/passwd"}]}, "VALIDATION_INVALID_FORMAT"),
        ({"image_name": "busybox", "command": "rm -rf /"}, "VALIDATION_INVALID_PARAMS"),
        (
            {"image_name": "busybox", "env_from_credentials": [{"variable": "A", "credential": "other"}]},
            "VALIDATION_CONSTRAINT_VIOLATION",
        ),
        ({"image_name": "alpine"}, "VALIDATION_CONSTRAINT_VIOLATION"),
    ],
)
def test_parameters_that_do_not_fit(caller: Caller, params: dict[str, Any], code: str) -> None:
    assert caller.fails("docker_run", **params).code == code


def test_a_start_that_fails_leaves_no_container(docker: FakeDocker, caller: Caller) -> None:
    docker.refuse_start = "driver failed programming external connectivity: port is already allocated"
    error = caller.fails("docker_run", image_name="busybox")
    assert (error.code, "already allocated" in str(error)) == ("EXTERNAL_SERVICE_ERROR", True)
    assert docker.containers == {}


# Stop and remove


def test_stop(docker: FakeDocker, caller: Caller) -> None:
    container = docker.add("job-7", "busybox:latest", status="running")
    container.program = Program(seconds=None)
    result = caller.call("docker_stop", container="job-7", timeout=3)
    assert result == {
        "container_id": container.id,
        "container_name": "job-7",
        "already_stopped": False,
        "exit_code": 137,
    }
    assert docker.called("POST", f"/containers/{container.id}/stop")[0].query == {"t": "3"}
    assert caller.call("docker_stop", container="job-7")["already_stopped"] is True
    assert caller.fails("docker_stop", container="job-8").code == "DOCKER_CONTAINER_NOT_FOUND"


def test_containers_of_others_are_not_touched(docker: FakeDocker, caller: Caller) -> None:
    other = docker.add("database", "busybox:latest", status="running")
    other.program = Program(seconds=None)
    assert caller.fails("docker_stop", container="database").code == "VALIDATION_CONSTRAINT_VIOLATION"
    # A pattern that an id fits, too: the container's name is what counts.
    caller.policy["options"]["containers"] = [f"{other.id[:3]}*"]
    for operation in ("docker_stop", "docker_remove"):
        error = caller.fails(operation, container=other.id)
        assert (error.code, "'database'" in str(error)) == ("VALIDATION_CONSTRAINT_VIOLATION", True)
    assert other.status == "running"


def test_remove_a_container(docker: FakeDocker, caller: Caller) -> None:
    container = docker.add("job-7", "busybox:latest", status="running")
    container.program = Program(seconds=None)
    error = caller.fails("docker_remove", container="job-7")
    assert error.code == "DOCKER_CONTAINER_ALREADY_RUNNING"
    result = caller.call("docker_remove", container="job-7", force=True, volumes=True)
    assert result == {"container_id": container.id, "container_name": "job-7", "removed": True}
    (call,) = docker.called("DELETE", "/containers/")
    assert (call.query["force"], call.query["v"]) == ("True", "True")
    assert caller.fails("docker_remove", container="job-7").code == "DOCKER_CONTAINER_NOT_FOUND"


def test_remove_an_image(docker: FakeDocker, caller: Caller) -> None:
    docker.add("job-7", "busybox:latest", status="exited")
    assert caller.fails("docker_remove", image_name="busybox").code == "DOCKER_CONTAINER_ALREADY_RUNNING"
    result = caller.call("docker_remove", image_name="busybox", force=True)
    assert (result["full_image_name"], result["untagged"], result["removed"]) == ("busybox:latest", ["busybox:latest"], True)
    assert caller.fails("docker_remove", image_name="busybox").code == "DOCKER_IMAGE_NOT_FOUND"
    for params in ({}, {"container": "job-7", "image_name": "busybox"}):
        assert caller.fails("docker_remove", **params).code == "VALIDATION_INVALID_PARAMS"
