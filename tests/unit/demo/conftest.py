"""The example modules, loaded as the product loads them, and the sample photographs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from avtomatika.demo import examples_dir
from avtomatika.demo.samples import copy_samples
from avtomatika.discovery import load_module

pytest.importorskip("PIL")


def _worker(name: str) -> ModuleType:
    return load_module(examples_dir() / "workers" / f"{name}.py")


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return copy_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="session")
def images() -> ModuleType:
    return _worker("images")


@pytest.fixture(scope="session")
def compare() -> ModuleType:
    return _worker("compare")


@pytest.fixture(scope="session")
def sheet() -> ModuleType:
    return _worker("sheet")


@pytest.fixture(scope="session")
def report() -> ModuleType:
    return _worker("report")


@pytest.fixture(scope="session")
def photos_blueprints() -> ModuleType:
    return load_module(examples_dir() / "blueprints" / "photos.py")
