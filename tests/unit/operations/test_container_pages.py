"""The pages on Docker and Kubernetes: their files are read, their tasks are allowed, and they name what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from avtomatika.jobs import Client
from avtomatika.operations import TaskErrorCode
from avtomatika.operations.base import Family
from avtomatika.operations.config import read_config
from avtomatika.operations.docker import family as docker
from avtomatika.operations.k8s import family as k8s
from avtomatika.operations.kind import family as kind
from avtomatika.operations.policy import permit_of
from tests.support.processes import REPOSITORY

PAGES = {"operations-docker.md": (docker,), "operations-kubernetes.md": (k8s, kind)}


def text_of(page: str) -> str:
    return (REPOSITORY / "docs" / page).read_text(encoding="utf-8")


def block(page: str, language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("page", PAGES)
def test_the_example_is_allowed_by_the_file_above_it(page: str, tmp_path: Path) -> None:
    file = tmp_path / "operations.toml"
    file.touch(mode=0o600)
    file.write_text(block(page, "toml"), encoding="utf-8")
    config = read_config(file)
    (role,) = config.policy
    task = json.loads(block(page, "json"))
    operations = {name: operation for family in PAGES[page] for name, operation in family.operations.items()}
    operation = operations[task["task_type"]]
    operation.allow(operation.parse(task["params"]), permit_of(Client(name="x", role=role), "operation", config))


@pytest.mark.parametrize(("page", "family"), [(page, family) for page, families in PAGES.items() for family in families])
def test_every_operation_and_parameter_is_named(page: str, family: Family) -> None:
    text = text_of(page)
    for name, operation in family.operations.items():
        assert f"`{name}`" in text
        missing = [field for field in operation.params.model_fields if not re.search(rf"\b{field}\b", text)]
        assert missing == [], name


@pytest.mark.parametrize("page", PAGES)
def test_every_code_is_one(page: str) -> None:
    prefixes = tuple(f"{family.name.upper()}_" for family in PAGES[page])
    text = text_of(page)
    named = {word for word in re.findall(r"`([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)`", text) if word.startswith((*prefixes, "SYSTEM_"))}
    named -= {"DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"}
    codes = {code.value for code in TaskErrorCode}
    assert named <= codes
    assert {code for code in codes if code.startswith(prefixes)} <= named
