"""Reads the files of deploy/: what they would run, with which environment, and how long each may take to stop."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockerfile_parse import DockerfileParser
from ruamel.yaml import YAML

from tests.support.processes import REPOSITORY
from tests.support.requirements import missing

DEPLOY = REPOSITORY / "deploy"
SYSTEMD = DEPLOY / "systemd"
COMPOSE = DEPLOY / "compose.yaml"
INSTALLED = "/opt/avtomatika/bin"
HTTP_WORKER = "avtomatika-http-worker.service"
SECRETS = ("REDIS_PASSWORD", "CLIENT_TOKEN", "GLOBAL_WORKER_TOKEN", "FLOWER_BASIC_AUTH", "WEBHOOK_SECRET", "POSTGRES_PASSWORD")
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")


@dataclass(frozen=True)
class Part:
    """One process of a deployment."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    stop_seconds: float


def read_env(path: Path, given: Mapping[str, str]) -> dict[str, str]:
    """An example of an environment file, filled in."""
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    found = dict(line.split("=", 1) for line in lines)
    assert given.keys() <= found.keys(), f"{path.name} does not name {given.keys() - found.keys()}"
    return {**found, **given}


def filled_env() -> dict[str, str]:
    """deploy/.env, filled in with secrets of its own."""
    made = {name: secrets.token_hex(16) for name in SECRETS}
    return read_env(DEPLOY / ".env.example", {**made, "FLOWER_BASIC_AUTH": f"operator:{made['FLOWER_BASIC_AUTH']}"})


# --- systemd -------------------------------------------------------------------------------------------------------------------


def read_unit(name: str, instance: str = "") -> dict[str, list[str]]:
    """A unit's assignments, whatever their section, with `%i` and `%%` expanded."""
    specifiers = {"i": instance, "%": "%"}
    unit: dict[str, list[str]] = {}
    for line in (SYSTEMD / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            unit.setdefault(key, []).append(re.sub("%(.)", lambda match: specifiers[match[1]], value))
    return unit


def systemd_part(name: str, file: Mapping[str, str], instance: str = "") -> Part:
    """What a unit runs, its program taken out of this environment."""
    unit = read_unit(name, instance)
    (command,), (stop,) = unit["ExecStart"], unit["TimeoutStopSec"]
    program, *arguments = shlex.split(command)
    assert program.startswith(INSTALLED)
    env = dict(pair.split("=", 1) for line in unit["Environment"] for pair in shlex.split(line))
    kept_back = {name for line in unit.get("UnsetEnvironment", []) for name in line.split()}
    env = {key: value for key, value in {**env, **file}.items() if key not in kept_back}
    return Part(instance or name, (program.replace(INSTALLED, str(Path(sys.executable).parent)), *arguments), env, float(stop))


def by_systemd(filled: Mapping[str, str], redis_url: str) -> list[Part]:
    """All that the units run, given the secrets of a filled `.env`."""
    names = ("CLIENT_TOKEN", "GLOBAL_WORKER_TOKEN", "WEBHOOK_SECRET", "FLOWER_BASIC_AUTH")
    given = {"REDIS_URL": redis_url, **{name: filled[name] for name in names}}
    file = read_env(SYSTEMD / "avtomatika.env.example", given)
    parts = [systemd_part(f"avtomatika-{role}.service", file) for role in ("server", "orchestrator", "flower")]
    parts += (systemd_part("avtomatika-worker@.service", file, capability) for capability in ("gpu", "cpu"))
    there = read_env(
        SYSTEMD / "http-worker.env.example", {"WORKER_TOKEN": filled["GLOBAL_WORKER_TOKEN"], "WORKER_ID": "far-away"}
    )
    return [*parts, systemd_part(HTTP_WORKER, there)]


# --- Containers ----------------------------------------------------------------------------------------------------------------


def read_dockerfile(*, whole: bool = False) -> list[tuple[str, str]]:
    """The instructions of the last stage, which is the image (`whole`: of all stages), in their order: (NAME, value)."""
    with (DEPLOY / "Dockerfile").open("rb") as file:
        found = [(step["instruction"], step["value"]) for step in DockerfileParser(fileobj=file).structure]
    last = max(place for place, (name, _) in enumerate(found) if name == "FROM")
    return found if whole else found[last:]


def image_env() -> dict[str, str]:
    """What the image sets, without the path to its own programs."""
    pairs = (pair.split("=", 1) for name, value in read_dockerfile() if name == "ENV" for pair in shlex.split(value))
    return {name: value for name, value in pairs if name not in ("PATH", "HOME")}


def health_command(pid: int) -> list[str]:
    """The image's health check, asking a process that is not the first one of a container."""
    (line,) = (value for name, value in read_dockerfile() if name == "HEALTHCHECK")
    _, _, command = line.partition("CMD ")
    python, script = json.loads(command)
    assert (python, script) == ("python", "/opt/avtomatika/healthcheck.py")
    return [sys.executable, str(DEPLOY / "healthcheck.py"), str(pid)]


def compose_variables() -> dict[str, tuple[str, str]]:
    """Every variable that the compose file asks for -> (`-` or `?` or nothing, its default or message)."""
    return {match[2]: (match[3] or "", match[4] or "") for match in _VARIABLE.finditer(COMPOSE.read_text()) if match[2]}


def read_compose(env: Mapping[str, str]) -> dict[str, Any]:
    """The compose file with its variables put in, as Compose does it.

    Raises:
        LookupError: a variable that must be set is not; the message is the file's.
    """

    def value(match: re.Match[str]) -> str:
        dollar, name, operator, rest = match.groups()
        if dollar:
            return "$"
        found = env.get(name, "")
        if not found and operator == "?":
            raise LookupError(rest)
        return found or (rest if operator == "-" else "")

    def filled(node: Any) -> Any:
        match node:
            case str():
                return _VARIABLE.sub(value, node)
            case dict():
                return {key: filled(item) for key, item in node.items()}
            case list():
                return [filled(item) for item in node]
        return node

    loaded: dict[str, Any] = filled(YAML(typ="safe").load(COMPOSE.read_text()))
    return loaded


def compose_part(compose: Mapping[str, Any], name: str) -> Part:
    """What a service of this image runs."""
    service = compose["services"][name]
    env = {**image_env(), **service["environment"]}
    return Part(name, tuple(service["command"]), env, float(service["stop_grace_period"].removesuffix("s")))


def by_compose(filled: Mapping[str, str]) -> list[Part]:
    """All services of our image."""
    compose = read_compose(filled)
    return [compose_part(compose, name) for name in ("facade", "orchestrator", "flower", "gpu", "cpu")]


def compose_command() -> list[str]:
    """The command of a Docker Compose of version 2 or later; it reads a file without an engine, too."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is not None:
            done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, timeout=60, check=False)
            if done.returncode == 0 and int(done.stdout.lstrip("v").partition(".")[0]) >= 2:
                return command
    return missing("compose", "there is no Docker Compose of version 2 or later")
