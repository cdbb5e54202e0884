"""docs/operations-system.md: what it shows works as it stands there, and its tables name every parameter."""

from __future__ import annotations

import json
import os
import re
import time
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import OperationsConfig, read_config
from avtomatika.operations.registry import registry
from tests.support.local_operations import Bench
from tests.support.processes import REPOSITORY

PAGE = (REPOSITORY / "docs" / "operations-system.md").read_text(encoding="utf-8")
OPERATIONS = [operation for operation in registry() if operation.family.name in ("system", "data")]


def section(title: str) -> str:
    found = re.search(rf"^## [^\n]*{title}[^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, f"there is no section on {title}"
    return found[1]


def example(title: str) -> dict[str, Any]:
    found = re.search(r"^```json\n(.*?)^```", section(title), re.DOTALL | re.MULTILINE)
    assert found is not None
    shown: dict[str, Any] = json.loads(found[1])
    return shown


def configuration(folder: Path) -> OperationsConfig:
    text = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0].replace("/srv/data", str(folder))
    (folder / "operations.toml").write_text(text)
    return read_config(folder / "operations.toml")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    entry = configuration(tmp_path).policy["operators"]
    return Bench(tmp_path, operations=entry.operations, options=entry.options)


def test_the_backup(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "projects" / "node_modules").mkdir(parents=True)
    (tmp_path / "projects" / "a.py").touch()
    (tmp_path / "backups").mkdir()
    found = bench.run("system_backup", example("system_backup"))

    assert (found["files"], found["folders"]) == (1, 1)
    assert set(re.findall(r"`(\w+)`", section("system_backup").rpartition("The result has")[2])) <= set(found)


def test_the_cleanup(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "x.log").touch()
    os.utime(tmp_path / "logs" / "x.log", (time.time() - 31 * 86400,) * 2)
    found = bench.run("system_cleanup", example("system_cleanup"))

    assert found["deleted"] == 1
    assert set(re.findall(r"`(\w+)`", section("system_cleanup").rpartition("The result has")[2])) <= set(found)


def test_the_pipeline(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text(
        "city,amount,day\nRome,10.50,2026-01-05\nOslo,7,2025-12-31\nOslo,1.25,2026-02-01\nOslo,-1,2026-02-01\n"
    )
    (tmp_path / "cities.csv").write_text("name,country\nRome,IT\nOslo,NO\n")
    bench.run("data_process", {"source": {"path": "cities.csv"}, "target": {"path": "cities.parquet"}})
    bench.run("data_process", example("data_process"))

    totals = pq.read_table(tmp_path / "totals.parquet").to_pylist()
    assert [(row["country"], str(row["total"])) for row in totals] == [("IT", "10.50"), ("NO", "1.25")]


def test_the_export_is_allowed_by_the_policy_of_the_page(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    entry = config.policy["operators"]
    tester = Bench(
        tmp_path,
        hosts={name: host.model_dump(exclude={"name"}) for name, host in config.hosts.items()},
        credentials={name: found.model_dump(exclude={"name"}) for name, found in config.credentials.items()},
        **entry.model_dump(include={"operations", "options"}),
    )
    operation = registry().get("data_export")
    operation.allow(operation.parse(example("data_export")), tester.permit)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_parameter_is_named(operation: Any) -> None:
    text = section(operation.name)
    assert [name for name in operation.params.model_fields if f"`{name}`" not in text and f'"{name}"' not in text] == []


def test_the_codes_exist() -> None:
    codes = re.findall(r"`([A-Z]+_[A-Z_]+)`", section("Errors"))
    assert len(codes) > 10
    assert set(codes) <= set(TaskErrorCode)


def test_the_toml_is_toml() -> None:
    for page in ("operations-system.md", "operations-blueprints.md"):
        text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
        for block in re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            tomllib.loads(block)
