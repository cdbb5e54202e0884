"""docs/operations-ssh.md: its configuration is one, its parameters are allowed by it, and its tables name what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from avtomatika.jobs import Client
from avtomatika.operations.config import read_config
from avtomatika.operations.policy import permit_of
from avtomatika.operations.registry import registry
from avtomatika.operations.ssh.params import SshParams
from tests.support.processes import REPOSITORY

PAGE = (REPOSITORY / "docs" / "operations-ssh.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", ["ssh_execute", "ssh_tunnel"])
def test_the_examples_are_allowed_by_the_policy_that_is_shown(name: str, tmp_path: Path) -> None:
    (toml,) = blocks(PAGE, "toml")
    (tmp_path / "operations.toml").write_text(toml)
    permit = permit_of(Client(name="somebody", role="operators"), "operation", read_config(tmp_path / "operations.toml"))
    operation = registry().get(name)
    for example in blocks(section(name), "json"):
        operation.allow(operation.parse(json.loads(example)), permit)


@pytest.mark.parametrize("name", ["ssh_execute", "ssh_tunnel", "Connection parameters of every operation"])
def test_every_parameter_is_in_a_table_with_its_default(name: str) -> None:
    if name.startswith("ssh_"):
        fields = {
            key: field for key, field in registry().get(name).params.model_fields.items() if key not in SshParams.model_fields
        }
    else:
        fields = SshParams.model_fields
    rows = re.findall(r"^\| (`.+?`) \| (.*?) \|", section(name), re.MULTILINE)
    told = {key: default for names, default in rows for key in re.findall(r"`(\w+)`", names)}
    assert set(told) - {"port"} == set(fields) - {"port"}
    for key, field in fields.items():
        if isinstance(field.default, int | float):
            assert told[key] in (str(field.default), str(field.default).lower()), key
