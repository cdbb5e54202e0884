"""The pages of FTP, network and custom operations: their tasks are allowed by their policies, their tables are complete."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.registry import registry
from tests.support.operation_calls import make_call
from tests.support.processes import REPOSITORY

PAGES = {"ftp": "operations-ftp.md", "network": "operations-network.md", "custom": "operations-custom.md"}


def _text(family: str) -> str:
    return (REPOSITORY / "docs" / PAGES[family]).read_text(encoding="utf-8")


def _tasks() -> Iterator[tuple[str, str]]:
    for family in PAGES:
        for match in re.finditer(r"^```json\n(.*?)^```", _text(family), re.DOTALL | re.MULTILINE):
            yield family, match[1]


@pytest.mark.parametrize(("family", "task"), list(_tasks()))
def test_its_tasks_are_allowed_by_its_policy(family: str, task: str) -> None:
    config = re.search(r"^```toml\n(.*?)^```", _text(family), re.DOTALL | re.MULTILINE)
    assert config is not None
    said = json.loads(task)
    made = make_call(said["task_type"], said["params"], config[1], role="operators")
    assert made.operation.family.name == family


@pytest.mark.parametrize("family", PAGES)
def test_every_operation_has_its_parameters_in_a_table(family: str) -> None:
    """Those of the operation's own section, and those of the tables before the first one of its kind."""
    text = _text(family)
    for operation in registry().families[family].operations.values():
        section = re.search(rf"^### {operation.name}\n(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE)
        assert section is not None, f"{PAGES[family]} has no section {operation.name}"
        fields = {field.alias or name for name, field in operation.params.model_fields.items()}
        own = set(re.findall(r"^\| `(\w+)` \|", section[1], re.MULTILINE))
        assert own <= fields, f"{operation.name} has no {sorted(own - fields)}"
        shared = set(
            re.findall(r"^\| `(\w+)` \|", re.sub(r"^### .*?(?=^##)", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
        )
        assert fields <= own | shared, f"{PAGES[family]} does not name {sorted(fields - own - shared)} of {operation.name}"


@pytest.mark.parametrize("family", PAGES)
def test_its_codes_are_codes(family: str) -> None:
    named = set(re.findall(r"\b(?:FTP|NETWORK|CUSTOM|SYSTEM|VALIDATION|EXTERNAL)_[A-Z_]+\b", _text(family)))
    assert named
    assert named <= set(TaskErrorCode)
    of_family = {code for code in TaskErrorCode if code.startswith(family.upper() + "_")}
    assert of_family <= named
