"""docs/operations.md: what it says is refused is refused in these words, and its tables name every key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from avtomatika.errors import ConfigurationError
from avtomatika.jobs import Client
from avtomatika.operations.blueprint import operation
from avtomatika.operations.config import CredentialEntry, HostEntry, PolicyEntry, read_config
from avtomatika.operations.errors import OperationError
from avtomatika.operations.registry import registry
from avtomatika.operations.vault import VaultOptions
from avtomatika.settings import read_settings
from tests.support.processes import REPOSITORY

PAGE = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
REFUSED = re.findall(r"^\| `(\w+)` \| `(\{[^`]+\})` \| (.*?) \|$", PAGE, re.MULTILINE)
MISTAKES = re.findall(r"^\| `(\[[^`]*\])` `([^`]*)` \| (.*?) \|$", PAGE, re.MULTILINE)
TOML = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_page_has_them_all() -> None:
    assert (len(REFUSED), len(MISTAKES), len(TOML)) == (10, 8, 5)


@pytest.mark.parametrize(("task_type", "params", "answer"), REFUSED)
def test_refused_tasks(tmp_path: Path, task_type: str, params: str, answer: str) -> None:
    if task_type not in registry() and "unknown" not in answer:
        pytest.skip(f"there is no {task_type}")
    path = tmp_path / "operations.toml"
    path.write_text(TOML[0].replace('"audit.jsonl"', f'"{tmp_path / "audit.jsonl"}"'))
    assert operation.admit is not None
    with pytest.raises(OperationError) as caught:
        operation.admit(
            {"task_type": task_type, "params": json.loads(params)},
            Client("ada", role="operators"),
            read_settings(operations_config_path=path),
        )
    assert str(caught.value).startswith(answer)
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(("table", "line", "answer"), MISTAKES)
def test_refused_files(tmp_path: Path, table: str, line: str, answer: str) -> None:
    path = tmp_path / "operations.toml"
    path.write_text(f"{table}\n{line}\n")
    with pytest.raises(ConfigurationError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}{answer}")


def test_its_files_are_right(tmp_path: Path) -> None:
    for text in (TOML[0], TOML[2], "[hosts.x]\n" + TOML[3]):
        (tmp_path / "operations.toml").write_text(text)
        assert read_config(tmp_path / "operations.toml").path is not None


@pytest.mark.parametrize("model", [CredentialEntry, HostEntry, PolicyEntry, VaultOptions])
def test_every_key_is_in_a_table(model: type[BaseModel]) -> None:
    named = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))))
    assert set(model.model_fields) - {"name"} <= named
