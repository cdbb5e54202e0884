"""docs/operations-services.md: its configuration loads, its examples are allowed by it, and its tables are complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from avtomatika.jobs import Client
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import OperationsConfig
from avtomatika.operations.policy import permit_of
from avtomatika.operations.registry import registry
from tests.support.fakes import make_config
from tests.support.processes import REPOSITORY

PAGE = (REPOSITORY / "docs" / "operations-services.md").read_text(encoding="utf-8")
FAMILIES = ("github", "ollama", "vast")
OPERATIONS = [operation for operation in registry() if operation.family.name in FAMILIES]
EXAMPLES = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]


@pytest.fixture
def config(tmp_path: Path) -> OperationsConfig:
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return make_config(tmp_path, text)


def test_every_operation_has_an_example() -> None:
    assert sorted(example["task_type"] for example in EXAMPLES) == sorted(operation.name for operation in OPERATIONS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["task_type"])
def test_the_examples_are_allowed_by_the_configuration(example: dict[str, object], config: OperationsConfig) -> None:
    operation = registry().get(str(example["task_type"]))
    permit = permit_of(Client(role="operators"), "operation", config)
    operation.allow(operation.parse(example["params"]), permit)  # type: ignore[arg-type]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_the_tables_list_every_parameter(operation) -> None:  # type: ignore[no-untyped-def]
    section = re.search(rf"^### {operation.name}\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE)
    assert section is not None
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section[1], re.MULTILINE))
    shared = {"host", "port", "credential"} if operation.family.name == "ollama" else set()
    fields = {name: field for name, field in operation.params.model_fields.items() if name not in shared}
    assert set(rows) == set(fields)
    for name, field in fields.items():
        assert ("required" in rows[name]) is field.is_required(), name
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert rows[name] == str(field.default)
        elif isinstance(field.default, bool):
            assert rows[name] == str(field.default).lower()


def test_the_codes_exist_and_those_of_the_families_are_listed() -> None:
    listed = set(re.findall(r"`((?:GITHUB|OLLAMA|VAST|SYSTEM|NETWORK|VALIDATION|CONFIGURATION)_[A-Z_]+)`", PAGE))
    assert listed <= {*TaskErrorCode, "OLLAMA_HOST"}
    own = {code.value for code in TaskErrorCode if code.startswith(("GITHUB_", "OLLAMA_", "VAST_"))}
    assert own <= listed
