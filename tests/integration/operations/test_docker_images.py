"""docker_push, _pull and _tag, against an Engine API on a local port."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import requests
from urllib3.exceptions import ProtocolError

from avtomatika.operations.docker import family
from avtomatika.operations.errors import OperationError, OperationStopped
from avtomatika.operations.types import TaskStatus
from tests.support.docker_bench import SECRET, account
from tests.support.fake_docker import FakeDocker, sha
from tests.support.http_fake import Refusal
from tests.support.polling import eventually
from tests.support.processes import free_port
from tests.support.single_operation import Caller, Running

APP = "registry.example.com/team/app"


# Pull


def test_a_pull_says_how_far_it_is_and_what_it_pulled(docker: FakeDocker, caller: Caller) -> None:
    docker.remote[f"{APP}:1.0"] = [("aaa", 4000), ("bbb", 2000)]

    result = caller.call("docker_pull", image_name=APP, tag="1.0")

    assert result == {
        "image_name": APP,
        "tag": "1.0",
        "full_image_name": f"{APP}:1.0",
        "digest": sha("manifest", f"{APP}:1.0"),
        "image_id": sha("image", f"{APP}:1.0"),
        "size": 1234,
        "size_info": [{"layer": "aaa", "bytes": 4000}, {"layer": "bbb", "bytes": 2000}],
        "updated": True,
    }
    report = caller.op.take_report()
    assert report.status is TaskStatus.PULLING
    assert report.progress == pytest.approx(0.95)
    assert "aaa: Pull complete" in [text for _, text in report.lines]
    (call,) = docker.called("POST", "/images/create")
    assert call.query == {"fromImage": APP, "tag": "1.0"}
    assert account(call) == {}, "the account of the worker's own user was sent"


def test_an_image_that_is_up_to_date_is_a_success(docker: FakeDocker, caller: Caller) -> None:
    docker.remote["nginx:latest"] = []
    assert caller.call("docker_pull", image_name="nginx")["updated"] is True
    assert caller.call("docker_pull", image_name="nginx")["updated"] is False


def test_all_tags_and_a_platform_are_passed_on(docker: FakeDocker, caller: Caller) -> None:
    docker.remote |= {"nginx:1": [], "nginx:latest": []}
    caller.call("docker_pull", image_name="nginx", all_tags=True, platform="linux/arm64", quiet=True)
    assert docker.called("POST", "/images/create")[0].query == {"fromImage": "nginx", "platform": "linux/arm64"}
    assert set(docker.images) == {"nginx:1", "nginx:latest"}
    assert [text for _, text in caller.op.take_report().lines] == []


def test_a_credential_goes_with_the_request_and_nowhere_else(docker: FakeDocker, caller: Caller) -> None:
    docker.accounts["ada"] = SECRET
    docker.remote[f"{APP}:latest"] = []

    result = caller.call("docker_pull", image_name=APP, credential="registry")

    assert account(docker.called("POST", "/images/create")[0]) == {
        "username": "ada",
        "password": SECRET,
        "serveraddress": "registry.example.com",
    }
    assert SECRET not in json.dumps(result)


def test_a_credential_is_sent_to_its_own_registry_alone(docker: FakeDocker, caller: Caller) -> None:
    error = caller.fails("docker_pull", image_name="nginx", credential="registry")
    assert error.code == "VALIDATION_CONSTRAINT_VIOLATION"
    assert "it is for registry.example.com" in str(error)
    assert docker.calls == []


@pytest.mark.parametrize(
    ("given", "asked", "code"),
    [
        ({"errorDetail": {"message": "x", "code": 401}}, None, "DOCKER_AUTHENTICATION_FAILED"),
        ({"errorDetail": {"message": "x", "code": 403}}, None, "DOCKER_PERMISSION_DENIED"),
        ({"errorDetail": {"message": "x", "code": 404}}, None, "DOCKER_IMAGE_NOT_FOUND"),
        ({"errorDetail": {"message": "x", "code": 503}}, None, "DOCKER_REGISTRY_ERROR"),
        # The words say one thing, the registry, asked again, another: the registry counts.
        ({"errorDetail": {"message": "unauthorized"}, "error": "unauthorized"}, 404, "DOCKER_IMAGE_NOT_FOUND"),
        ({"errorDetail": {"message": "not found"}, "error": "not found"}, 401, "DOCKER_AUTHENTICATION_FAILED"),
        ({"error": "x"}, 403, "DOCKER_PERMISSION_DENIED"),
        ({"error": "x"}, 500, "DOCKER_REGISTRY_ERROR"),
        ({"error": "denied: unauthorized"}, 200, "DOCKER_PULL_FAILED"),
    ],
)
def test_why_a_pull_failed_in_its_middle(
    docker: FakeDocker, caller: Caller, given: dict[str, Any], asked: int | None, code: str
) -> None:
    docker.stream_error = given
    if asked == 200:
        docker.remote["nginx:latest"] = []
    elif asked is not None:
        docker.refusals.append(Refusal("GET", "/distribution/", asked, {"message": "asked"}))
    assert caller.fails("docker_pull", image_name="nginx").code == code


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "VALIDATION_INVALID_PARAMS", "INVALID_INPUT_ERROR"),
        (401, "DOCKER_AUTHENTICATION_FAILED", "PERMANENT_ERROR"),
        (403, "DOCKER_PERMISSION_DENIED", "PERMANENT_ERROR"),
        (404, "DOCKER_IMAGE_NOT_FOUND", "PERMANENT_ERROR"),
        (429, "DOCKER_REGISTRY_ERROR", "TRANSIENT_ERROR"),
        (500, "DOCKER_REGISTRY_ERROR", "TRANSIENT_ERROR"),
    ],
)
def test_what_a_status_means(docker: FakeDocker, caller: Caller, status: int, code: str, kind: str) -> None:
    docker.refusals.append(Refusal("POST", "/images/create", status, {"message": "denied: no such image"}))
    error = caller.fails("docker_pull", image_name="nginx")
    assert (error.code, error.kind, error.details) == (code, kind, {"status": status})


def test_a_connection_that_breaks_is_transient(docker: FakeDocker, caller: Caller) -> None:
    docker.remote["nginx:latest"] = [("aaa", 10)]
    docker.cut = True
    error = caller.fails("docker_pull", image_name="nginx")
    assert (error.code, error.kind) == ("DOCKER_NETWORK_ERROR", "TRANSIENT_ERROR")


@pytest.mark.parametrize("place", ["headers", "middle"])
def test_a_cancelled_pull_leaves_the_daemon(docker: FakeDocker, caller: Caller, place: str) -> None:
    docker.remote["nginx:latest"] = [("aaa", 10)]
    docker.hold = place
    running = Running(caller, "docker_pull", image_name="nginx")
    eventually(lambda: docker.held == 1)

    assert isinstance(running.stop(), OperationStopped)

    eventually(lambda: docker.dropped == 1, what="the daemon sees that its client is gone")


def test_an_engine_on_a_unix_socket(caller: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with FakeDocker(socket_path=path) as docker:
        docker.remote["nginx:latest"] = [("aaa", 10)]
        assert caller.call("docker_pull", image_name="nginx")["updated"] is True
        for number, place in enumerate(("headers", "middle"), 1):
            docker.hold = place
            running = Running(caller, "docker_pull", image_name="nginx")
            eventually(lambda: docker.held == 1)
            assert isinstance(running.stop(), OperationStopped)
            eventually(lambda number=number: docker.dropped == number)


def test_a_socket_that_the_worker_may_not_open(caller: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with FakeDocker(socket_path=path):
        path.chmod(0)
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
        except PermissionError:
            error = caller.fails("docker_pull", image_name="nginx")
            assert (error.code, "group docker" in str(error)) == ("DOCKER_PERMISSION_DENIED", True)
        else:
            # The superuser may open everything: then what the library raises for the others is made by hand.
            inner = ProtocolError("Connection aborted.", PermissionError(13, "Permission denied"))
            judged = family.judge(requests.exceptions.ConnectionError(inner))
            assert judged is not None
            assert judged.code == "DOCKER_PERMISSION_DENIED"


def test_no_daemon(caller: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for host in (f"tcp://127.0.0.1:{free_port()}", f"unix://{tmp_path}/none.sock"):
        monkeypatch.setenv("DOCKER_HOST", host)
        error = caller.fails("docker_pull", image_name="nginx")
        assert (error.code, error.kind) == ("DOCKER_NETWORK_ERROR", "TRANSIENT_ERROR")
        assert "DOCKER_HOST" in str(error)


def test_a_host_that_cannot_be_is_a_matter_of_configuration(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("gopher://x", "ssh://root@example.com"):
        monkeypatch.setenv("DOCKER_HOST", host)
        assert caller.fails("docker_pull", image_name="nginx").code == "CONFIGURATION_ERROR"


def test_another_daemon_needs_the_policy(docker: FakeDocker, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    docker.remote["nginx:latest"] = []
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    assert "docker_hosts" in str(caller.fails("docker_pull", image_name="nginx", docker_host=docker.host))
    caller.policy["options"]["docker_hosts"] = ["tcp://127.0.0.1:*"]
    assert caller.call("docker_pull", image_name="nginx", docker_host=docker.host)["image_id"]


def test_content_trust_is_not_silently_lost(docker: FakeDocker, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    docker.remote["nginx:latest"] = []
    monkeypatch.setenv("DOCKER_CONTENT_TRUST", "1")
    assert caller.fails("docker_pull", image_name="nginx").code == "CONFIGURATION_ERROR"
    assert docker.calls == []
    caller.call("docker_pull", image_name="nginx", disable_content_trust=True)


# Push


def test_a_push_returns_the_digest(docker: FakeDocker, caller: Caller) -> None:
    docker.images[f"{APP}:2.0"] = "sha256:1"
    docker.accounts["ada"] = SECRET

    result = caller.call("docker_push", image_name=APP, tag="2.0", credential="registry")

    assert result == {
        "image_name": APP,
        "tag": "2.0",
        "full_image_name": f"{APP}:2.0",
        "digest": sha("manifest", f"{APP}:2.0"),
        "tags": {"2.0": sha("manifest", f"{APP}:2.0")},
        "image_id": "sha256:1",
        "size_info": [{"layer": "aaa", "bytes": 4000}, {"layer": "bbb", "bytes": 2000}],
    }
    report = caller.op.take_report()
    assert report.status is TaskStatus.UPLOADING
    assert report.progress == pytest.approx(0.95)
    (call,) = docker.called("POST", "/images/")
    assert (call.path, call.query) == (f"/images/{APP}/push", {"tag": "2.0"})


def test_every_tag_is_pushed(docker: FakeDocker, caller: Caller) -> None:
    docker.images |= {f"{APP}:latest": "sha256:1", f"{APP}:2.0": "sha256:2", "nginx:latest": "sha256:3"}
    assert set(caller.call("docker_push", image_name=APP, all_tags=True)["tags"]) == {"latest", "2.0"}
    assert docker.called("POST", "/images/")[0].query == {}


def test_a_push_looks_for_the_image_first(docker: FakeDocker, caller: Caller) -> None:
    assert caller.fails("docker_push", image_name=APP).code == "DOCKER_IMAGE_NOT_FOUND"
    assert docker.called("POST", "/images/") == []


def test_why_a_push_failed_in_its_middle(docker: FakeDocker, caller: Caller) -> None:
    docker.images[f"{APP}:latest"] = "sha256:1"
    docker.accounts["ada"] = "another"
    # Without an account there is nobody to ask about; with one, the registry says whether it is right.
    assert caller.fails("docker_push", image_name=APP).code == "DOCKER_PUSH_FAILED"
    error = caller.fails("docker_push", image_name=APP, credential="registry")
    assert error.code == "DOCKER_AUTHENTICATION_FAILED"
    assert SECRET not in str(error)
    docker.refusals.append(Refusal("POST", "/auth", 500, {"message": "dial tcp: lookup"}))
    assert caller.fails("docker_push", image_name=APP, credential="registry").code == "DOCKER_REGISTRY_ERROR"
    docker.refusals.clear()
    docker.accounts["ada"] = SECRET
    docker.stream_error = {"error": "authentication required"}
    assert caller.fails("docker_push", image_name=APP, credential="registry").code == "DOCKER_PUSH_FAILED"
    docker.stream_error = {"errorDetail": {"code": 403, "message": "x"}}
    assert caller.fails("docker_push", image_name=APP).code == "DOCKER_PERMISSION_DENIED"


def test_a_cancelled_push_leaves_the_daemon(docker: FakeDocker, caller: Caller) -> None:
    docker.images[f"{APP}:latest"] = "sha256:1"
    docker.hold = "middle"
    running = Running(caller, "docker_push", image_name=APP)
    eventually(lambda: docker.held == 1)
    assert isinstance(running.stop(), OperationStopped)
    eventually(lambda: docker.dropped == 1)


# Tag


def test_tag(docker: FakeDocker, caller: Caller) -> None:
    docker.images |= {"nginx:latest": "sha256:1", f"{APP}:old": "sha256:2"}
    result = caller.call("docker_tag", image_name="nginx", target_name=APP, target_tag="new")
    assert result["full_target_name"] == f"{APP}:new"
    assert docker.images[f"{APP}:new"] == "sha256:1"
    assert docker.called("POST", "/images/nginx:latest/tag")[0].query["repo"] == APP

    error = caller.fails("docker_tag", image_name="nginx", target_name=APP, target_tag="old")
    assert error.code == "VALIDATION_CONSTRAINT_VIOLATION"
    caller.call("docker_tag", image_name="nginx", target_name=APP, target_tag="old", force=True)
    assert docker.images[f"{APP}:old"] == "sha256:1"
    assert caller.fails("docker_tag", image_name="nginx", tag="9", target_name=APP).code == "DOCKER_IMAGE_NOT_FOUND"


@pytest.mark.parametrize(
    ("operation", "params", "code"),
    [
        ("docker_pull", {}, "VALIDATION_MISSING_REQUIRED"),
        ("docker_pull", {"image_name": "nginx", "registry": "x"}, "VALIDATION_INVALID_PARAMS"),
        ("docker_pull", {"image_name": "Nginx"}, "VALIDATION_INVALID_FORMAT"),
        ("docker_pull", {"image_name": "nginx:1"}, "VALIDATION_INVALID_FORMAT"),
        ("docker_pull", {"image_name": "nginx", "tag": "-x"}, "VALIDATION_INVALID_FORMAT"),
        ("docker_pull", {"image_name": "nginx", "tag": "sha256:" + "0" * 63}, "VALIDATION_INVALID_FORMAT"),
        ("docker_push", {"image_name": "nginx", "tag": "sha256:" + "0" * 64}, "VALIDATION_INVALID_FORMAT"),
        ("docker_pull", {"image_name": "nginx", "docker_host": "ssh://x"}, "VALIDATION_INVALID_FORMAT"),
        ("docker_tag", {"image_name": "nginx"}, "VALIDATION_MISSING_REQUIRED"),
        ("docker_build", {"image_name": "nginx", "build_args": {"a b": "c"}}, "VALIDATION_INVALID_FORMAT"),
        ("docker_build", {}, "VALIDATION_MISSING_REQUIRED"),
        ("docker_push", {"image_name": "evil.example.com/app"}, "VALIDATION_CONSTRAINT_VIOLATION"),
        ("docker_push", {"image_name": "nginx", "credential": "other"}, "VALIDATION_CONSTRAINT_VIOLATION"),
        ("docker_tag", {"image_name": "nginx", "target_name": "other"}, "VALIDATION_CONSTRAINT_VIOLATION"),
    ],
)
def test_parameters_that_do_not_fit(caller: Caller, operation: str, params: dict[str, Any], code: str) -> None:
    assert caller.fails(operation, **params).code == code


def test_errors_survive_what_carries_them(docker: FakeDocker, caller: Caller) -> None:
    import pickle

    error = caller.fails("docker_push", image_name=APP)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, OperationError)
    assert (again.code, str(again)) == (error.code, str(error))
