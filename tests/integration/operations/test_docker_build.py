"""docker_build, against an Engine API on a local port."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path

import pytest

from avtomatika.operations.errors import OperationStopped
from avtomatika.operations.types import TaskStatus
from tests.support.docker_bench import SECRET
from tests.support.fake_docker import FakeDocker, sha
from tests.support.http_fake import Refusal
from tests.support.polling import eventually
from tests.support.single_operation import Caller, Running

APP = "registry.example.com/team/app"


# Build


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "src").mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (folder / "src" / "app.py").write_text("print(1)\n")
    (folder / "secret.key").write_text("key")
    (folder / ".dockerignore").write_text("# keys\n*.key\n")
    (folder / "link").symlink_to("/etc/passwd")
    return folder


def test_a_build_sends_its_folder_and_says_what_it_built(docker: FakeDocker, caller: Caller, context: Path) -> None:
    result = caller.call(
        "docker_build",
        image_name=APP,
        tag="3.0",
        context_path="context",
        no_cache=True,
        build_args={"VERSION": "3"},
        platform="linux/amd64",
        target="final",
        labels={"a": "b"},
    )

    assert result["image_id"] == sha("image", f"{APP}:3.0")
    assert result["full_image_name"] == f"{APP}:3.0"
    assert (result["context_path"], result["dockerfile"]) == (str(context), "Dockerfile")
    assert result["build_info"][0] == "Step 1/2 : FROM scratch"
    assert result["command"].startswith(f"docker build -t {APP}:3.0 -f {context}/Dockerfile --no-cache --build-arg VERSION")
    assert caller.op.take_report().status is TaskStatus.BUILDING
    (call,) = docker.called("POST", "/build")
    assert call.query["t"] == f"{APP}:3.0"
    expected = {"nocache": "True", "platform": "linux/amd64", "target": "final", "dockerfile": "Dockerfile", "forcerm": "True"}
    assert {name: call.query[name] for name in expected} == expected
    assert json.loads(call.query["buildargs"]) == {"VERSION": "3"}
    assert "X-Registry-Config" not in call.headers, "accounts of the worker's own user were sent"
    with tarfile.open(fileobj=io.BytesIO(call.body)) as tar:
        assert sorted(tar.getnames()) == [".dockerignore", "Dockerfile", "link", "src", "src/app.py"]
        assert tar.getmember("link").issym(), "a link was followed"


def test_an_account_for_base_images(docker: FakeDocker, caller: Caller, context: Path) -> None:
    caller.call("docker_build", image_name=APP, context_path="context", credential="registry")
    header = docker.called("POST", "/build")[0].headers["X-Registry-Config"]
    assert json.loads(base64.urlsafe_b64decode(header))["registry.example.com"]["password"] == SECRET
    error = caller.fails(
        "docker_build", image_name=APP, context_path="context", credential="registry", credential_registry="evil.example.com"
    )
    assert error.code == "VALIDATION_CONSTRAINT_VIOLATION"


def test_a_build_that_fails(docker: FakeDocker, caller: Caller, context: Path) -> None:
    failure = {"errorDetail": {"code": 2, "message": "The command '/bin/sh -c false' returned a non-zero code: 2"}}
    docker.build_entries = [{"stream": "Step 1/1 : RUN false\n"}, failure]
    error = caller.fails("docker_build", image_name=APP, context_path="context")
    assert error.code == "DOCKER_BUILD_FAILED"
    assert error.details == {"build_info": ["Step 1/1 : RUN false"], "exit_code": 2}

    docker.refusals.append(Refusal("POST", "/build", 500, {"message": "dockerfile parse error"}))
    assert caller.fails("docker_build", image_name=APP, context_path="context").code == "DOCKER_BUILD_FAILED"


def test_a_cancelled_build_leaves_the_daemon(docker: FakeDocker, caller: Caller, context: Path) -> None:
    docker.hold = "middle"
    running = Running(caller, "docker_build", image_name=APP, context_path="context")
    eventually(lambda: docker.held == 1)
    assert isinstance(running.stop(), OperationStopped)
    eventually(lambda: docker.dropped == 1)


def test_where_a_build_may_read(docker: FakeDocker, caller: Caller, context: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").symlink_to("/etc")
    (tmp_path / "Other").write_text("FROM scratch\n")
    for params, text in [
        ({"context_path": "/etc"}, "local_roots"),
        ({"context_path": "outside"}, "local_roots"),
        ({"context_path": "context", "dockerfile": "../Other"}, "inside context_path"),
        ({"context_path": "context", "dockerfile": "link"}, "inside context_path"),
        ({"context_path": "context", "network": "host"}, "docker_options"),
    ]:
        error = caller.fails("docker_build", image_name=APP, **params)
        assert error.code == "VALIDATION_CONSTRAINT_VIOLATION", params
        assert text in str(error), params
    caller.policy["options"]["max_context_bytes"] = 100
    assert "larger than 100 bytes" in str(caller.fails("docker_build", image_name=APP, context_path="context"))
    for params in ({"context_path": "none"}, {"context_path": "context", "dockerfile": "none"}):
        assert caller.fails("docker_build", image_name=APP, **params).code == "VALIDATION_INVALID_PARAMS"
    assert docker.called("POST", "/build") == []
