"""Families on other people's libraries: what they say where one is missing, and that they can be imported all the same."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from avtomatika.operations import TaskType
from avtomatika.operations.base import Family
from avtomatika.operations.docker import family as docker
from avtomatika.operations.docker.references import full_name, registry_of
from avtomatika.operations.k8s import family as k8s
from avtomatika.operations.kind import family as kind
from tests.support.processes import REPOSITORY, clean_environment

BLOCKED = """
import sys
for name in ("docker", "kubernetes", "yaml", "requests", "urllib3", "websocket"):
    sys.modules[name] = None
from avtomatika.operations.docker import family as docker
from avtomatika.operations.k8s import family as k8s
from avtomatika.operations.kind import family as kind
assert docker.judge(OSError("x")) is None and k8s.judge(OSError("x")) is None and kind.judge(OSError("x")) is None
"""


@pytest.mark.parametrize("family", [docker, k8s, kind], ids=lambda family: family.name)
def test_every_type_of_task_is_there(family: Family) -> None:
    assert {type_.value for type_ in TaskType if type_.startswith(f"{family.name}_")} == set(family.operations)
    assert all(operation.summary.endswith(".") for operation in family.operations.values())
    assert all(operation.guard is not None for name, operation in family.operations.items() if name != "kind_cluster_list")


def test_they_are_imported_without_their_libraries() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], env=clean_environment(), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("family", "lacking", "said"),
    [
        (docker, "docker", "docker cannot be imported: pip install 'avtomatika[docker]'"),
        (k8s, "kubernetes", "kubernetes cannot be imported: pip install 'avtomatika[k8s]'"),
        (kind, "kubernetes", "kubernetes cannot be imported: pip install 'avtomatika[k8s]'"),
    ],
)
def test_what_is_lacking_is_said_with_the_fix(family: Family, lacking: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("avtomatika.operations.base.find_spec", lambda name: None if name == lacking else find(name))
    assert family.lacks() == said


@pytest.mark.parametrize(
    ("name", "registry"),
    [
        ("nginx", "docker.io"),
        ("team/app", "docker.io"),
        ("docker.io/library/nginx", "docker.io"),
        ("index.docker.io/library/nginx", "docker.io"),
        ("localhost/app", "localhost"),
        ("registry.example.com/app", "registry.example.com"),
        ("registry:5000/app", "registry:5000"),
    ],
)
def test_which_registry_a_name_leads_to(name: str, registry: str) -> None:
    assert registry_of(name) == registry


def test_full_names() -> None:
    assert full_name("nginx", "1.29") == "nginx:1.29"
    assert full_name("nginx", "sha256:" + "0" * 64) == "nginx@sha256:" + "0" * 64
