"""The face of the package: importing it is cheap, its names resolve, and the wheel holds nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import avtomatika
from tests.support.processes import REPOSITORY, clean_environment

HEAVY = ("celery", "kombu", "redis", "aiohttp", "pydantic", "click", "rich")


def _python(code: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("statement", ["import avtomatika", "from avtomatika import __version__"])
def test_importing_the_package_loads_next_to_nothing(statement: str, tmp_path: Path) -> None:
    loaded = _python(f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))", tmp_path)

    assert not set(loaded.split()) & set(HEAVY)


def test_a_blueprint_module_loads_no_broker(tmp_path: Path) -> None:
    loaded = _python("import sys; from avtomatika import Blueprint; Blueprint('x'); print(*sys.modules)", tmp_path)

    assert not {name.partition(".")[0] for name in loaded.split()} & {"celery", "kombu", "redis", "aiohttp"}


@pytest.mark.parametrize("name", avtomatika.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(avtomatika, name) is not None
    assert name in dir(avtomatika)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Blueprnt'"):
        _ = avtomatika.Blueprnt


def test_the_names_of_the_original() -> None:
    from avtomatika import ActionFactory, Blueprint, StateMachineBlueprint
    from avtomatika.context import ActionFactory as FromContext

    assert StateMachineBlueprint is Blueprint
    assert FromContext is ActionFactory


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in the wheel that `pip` would install."""
    pytest.importorskip("hatchling", reason="the build backend is not installed here")
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    name = _python(code, REPOSITORY).splitlines()[-1]
    with zipfile.ZipFile(folder / name) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_package_alone(wheel: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}

    assert tops == {"avtomatika", f"avtomatika-{avtomatika.__version__}.dist-info"}


def test_the_wheel_holds_the_examples_and_what_is_not_python(wheel: list[str]) -> None:
    assert "avtomatika/py.typed" in wheel
    for folder in ("blueprints", "workers"):
        assert any(name.startswith(f"avtomatika/_examples/{folder}/") and name.endswith(".py") for name in wheel)
    package = REPOSITORY / "avtomatika"
    scripts = {f"avtomatika/{path.relative_to(package)}" for path in package.rglob("*.lua")}
    assert scripts <= set(wheel)


def test_the_wheel_holds_no_leftovers(wheel: list[str]) -> None:
    assert not [name for name in wheel if "__pycache__" in name or name.endswith((".pyc", ".rdb", ".aof"))]
