"""The files of deploy/: what reads them takes them, no secret has a default or goes astray, every setting exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from avtomatika.settings import Settings
from tests.support.deployment import (
    COMPOSE,
    DEPLOY,
    HTTP_WORKER,
    INSTALLED,
    SECRETS,
    SYSTEMD,
    by_compose,
    by_systemd,
    compose_command,
    compose_variables,
    filled_env,
    health_command,
    image_env,
    read_compose,
    read_dockerfile,
    read_env,
    read_unit,
)
from tests.support.processes import REPOSITORY

UNITS = sorted(path.name for path in SYSTEMD.glob("*.service"))
SETTINGS = {name.upper().rstrip("_") for name in Settings.model_fields}


@pytest.fixture
def filled() -> dict[str, str]:
    """deploy/.env of this test alone."""
    return filled_env()


# --- systemd -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    unit = tmp_path / name
    unit.write_text((SYSTEMD / name).read_text().replace(INSTALLED, str(Path(sys.executable).parent)))

    for arguments in (
        ["verify", "--man=no", str(tmp_path / name.replace("@.", "@gpu."))],
        ["security", "--offline=true", "--threshold=25", str(unit)],
    ):
        done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_leaves_time_to_stop(name: str) -> None:
    unit = read_unit(name, "gpu")

    assert (unit["KillMode"], unit["KillSignal"], unit["Restart"]) == (["mixed"], ["SIGTERM"], ["on-failure"])
    # Celery and the farewell take their time after the grace.
    assert float(unit["TimeoutStopSec"][0]) >= Settings.model_fields["shutdown_grace_seconds"].default + 10


def test_units_are_given_the_secrets_they_need(filled: dict[str, str]) -> None:
    given = {part.name: {name for name in SECRETS if part.env.get(name)} for part in by_systemd(filled, "redis://x")}

    assert given == {
        "avtomatika-server.service": {"CLIENT_TOKEN", "GLOBAL_WORKER_TOKEN", "WEBHOOK_SECRET"},
        "avtomatika-orchestrator.service": {"WEBHOOK_SECRET"},
        "avtomatika-flower.service": {"FLOWER_BASIC_AUTH"},
        "gpu": set(),
        "cpu": set(),
        HTTP_WORKER: set(),
    }


def test_flower_does_not_start_open_to_all() -> None:
    assert read_unit("avtomatika-flower.service")["ExecStartPre"] == ["/usr/bin/test -n ${FLOWER_BASIC_AUTH}"]


# --- Compose -------------------------------------------------------------------------------------------------------------------


def test_compose_takes_the_file() -> None:
    checker = Path(sys.executable).parent / "check-jsonschema"
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_reads_it_as_these_tests_do(filled: dict[str, str]) -> None:
    command = [*compose_command(), "-f", str(COMPOSE), "--profile", "*", "config", "--format", "json"]
    done = subprocess.run(command, env={**os.environ, **filled}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

    theirs = json.loads(done.stdout)["services"]
    ours = read_compose(filled)["services"]
    assert theirs.keys() == ours.keys()
    for name, service in ours.items():
        assert theirs[name].get("command") == service.get("command"), name
        assert theirs[name]["environment"] == service["environment"], name


@pytest.mark.parametrize("name", ["REDIS_PASSWORD", "CLIENT_TOKEN", "FLOWER_BASIC_AUTH"])
def test_compose_refuses_to_start_without_a_secret(filled: dict[str, str], name: str) -> None:
    with pytest.raises(LookupError, match=f"^set {name} in deploy/.env"):
        read_compose({**filled, name: ""})


def test_no_secret_has_a_default() -> None:
    example = read_env(DEPLOY / ".env.example", {})
    units = read_env(SYSTEMD / "avtomatika.env.example", {})

    assert {name: example[name] for name in SECRETS} == dict.fromkeys(SECRETS, "")
    assert {units[name] for name in SECRETS if name in units} == {""}
    assert [
        name for name, (operator, default) in compose_variables().items() if name in SECRETS and operator == "-" and default
    ] == []


def test_the_example_names_every_variable() -> None:
    text = (DEPLOY / ".env.example").read_text()
    assert [name for name in compose_variables() if not re.search(rf"^(# )?{name}=", text, re.MULTILINE)] == []


def test_compose_publishes_no_store(filled: dict[str, str]) -> None:
    services = read_compose(filled)["services"]

    assert sorted(name for name, service in services.items() if "ports" in service) == ["facade", "flower"]
    assert all(port.startswith("127.0.0.1:") for name in ("facade", "flower") for port in services[name]["ports"])


def test_workers_are_given_no_secret_but_that_of_redis(filled: dict[str, str]) -> None:
    for part in by_compose(filled):
        held = {name for name in SECRETS if filled[name] in part.env.values()}
        expected = {
            "facade": {"CLIENT_TOKEN", "GLOBAL_WORKER_TOKEN", "WEBHOOK_SECRET"},
            "orchestrator": {"WEBHOOK_SECRET"},
            "flower": {"FLOWER_BASIC_AUTH"},
        }
        assert held == expected.get(part.name, set()), part.name


# --- Every file ----------------------------------------------------------------------------------------------------------------


def test_every_setting_that_is_named_exists(filled: dict[str, str]) -> None:
    ours = ("facade", "orchestrator", "cpu", "gpu", "flower")
    named = {name for service in ours for name in read_compose(filled)["services"][service]["environment"]}
    named |= read_env(SYSTEMD / "avtomatika.env.example", {}).keys() | image_env().keys()
    named |= read_env(SYSTEMD / "http-worker.env.example", {}).keys()

    assert {name for name in named if name not in SETTINGS} == {
        "FLOWER_BASIC_AUTH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE",
    }  # fmt: skip


def test_the_image_is_not_root_and_holds_no_secret() -> None:
    values: dict[str, list[str]] = {}
    for name, value in read_dockerfile():
        values.setdefault(name, []).append(value)

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", values["USER"][-1])
    assert isinstance(json.loads(values["CMD"][-1]), list)
    assert values["STOPSIGNAL"] == ["SIGTERM"]
    assert health_command(1)[-1] == "1"
    assert not re.search(r"apt-get|build-essential|gcc", " ".join(values["RUN"]))
    every = read_dockerfile(whole=True)
    assert "ADD" not in {name for name, _ in every}
    named = " ".join(value for name, value in every if name in ("ENV", "ARG"))
    assert "EXTRAS" in named
    assert not re.search("TOKEN|PASSWORD|SECRET|AUTH", named)


def test_the_build_sees_only_what_it_copies() -> None:
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    text = (DEPLOY / "Dockerfile").read_text()
    copied = {source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for source in line.split()[:-1]}

    assert allowed == copied
    assert [name for name in copied if not (REPOSITORY / name).exists()] == []
