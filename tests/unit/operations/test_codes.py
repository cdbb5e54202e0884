"""Every error code has a meaning and a way out, and a class that says what the engine does about it."""

from __future__ import annotations

import re
from itertools import chain

import pytest

from avtomatika.cli.main import main
from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import INFO, TaskErrorCode, class_of
from avtomatika.operations.types import TaskType
from avtomatika.settings import Settings

FAMILIES = {
    "DOCKER": 11, "K8S": 12, "KIND": 6, "VAST": 7, "GITHUB": 7, "OLLAMA": 6, "SYSTEM": 8, "NETWORK": 6, "FTP": 8, "DATA": 6,
    "VALIDATION": 5, "QUEUE": 5, "CUSTOM": 4, "SCP": 7, "SSH": 5,
}  # fmt: skip


@pytest.mark.parametrize("code", TaskErrorCode)
def test_a_code_is_told(code: TaskErrorCode) -> None:
    info = INFO[code]
    assert len(info.description) > 15
    assert not info.description.endswith(".")
    assert info.suggestions
    assert all(len(suggestion) > 10 for suggestion in info.suggestions)
    assert class_of(code) in ErrorCode


def test_none_is_missing_and_no_meaning_is_told_twice_in_a_family() -> None:
    assert {name: sum(code.startswith(f"{name}_") for code in TaskErrorCode) for name in FAMILIES} == FAMILIES
    for family in FAMILIES:
        told = [info.description for code, info in INFO.items() if code.startswith(family)]
        assert len(told) == len(set(told)) or family in ("SSH", "SCP")


def test_what_helps_names_what_there_is() -> None:
    """Settings, operations and commands that are named exist."""
    words = list(chain.from_iterable(info.suggestions for info in INFO.values()))
    settings = {name.upper() for name in Settings.model_fields} | {"NO_PROXY", "PATH"}
    known = {task_type.value for task_type in TaskType} | {"queue_task_status"}
    for said in words:
        for name in re.findall(r"\b[A-Z]{3,}_[A-Z_]+\b", said):
            assert name in settings, said
        for name in re.findall(r"\b(?:scp|ssh|ftp|docker|k8s|kind|vast|github|ollama|system|data|network|queue)_[a-z_]+\b", said):
            assert name in known, said
        for command in re.findall(r"`avtomatika (\w+)", said):
            assert main.get_command(None, command) is not None, said  # type: ignore[arg-type]
