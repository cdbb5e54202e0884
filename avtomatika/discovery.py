"""Finding blueprints and workers: every module of a folder is loaded by its path, what it holds at module level is registered."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from avtomatika.errors import AvtomatikaError, ConfigurationError

if TYPE_CHECKING:
    from avtomatika.blueprint.registry import BlueprintRegistry

logger = logging.getLogger(__name__)


def load_module(path: Path) -> ModuleType:
    """Loads a Python file under a name of its own; the same file is loaded once a process.

    Raises:
        ConfigurationError: the file does not exist, or raises while it is loaded.
    """
    path = path.resolve()
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"_avtomatika_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigurationError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.parent)
    added = folder not in sys.path
    if added:
        sys.path.append(folder)  # so that a module can import its neighbours, as a script can
    try:
        spec.loader.exec_module(module)
    except AvtomatikaError:
        del sys.modules[name]
        raise
    except Exception as exc:
        del sys.modules[name]
        raise ConfigurationError(f"{path} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    return module


def _modules(folder: Path) -> list[ModuleType]:
    if not folder.is_dir():
        return []
    return [load_module(path) for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]


def load_blueprints(folder: Path) -> BlueprintRegistry:
    """Registers every Blueprint at module level of every module in a folder. A missing folder gives an empty registry.

    Raises:
        BlueprintError: a blueprint was refused; the message names file, line and fix.
    """
    from avtomatika.blueprint.blueprint import Blueprint
    from avtomatika.blueprint.registry import BlueprintRegistry

    registry = BlueprintRegistry()
    seen: set[int] = set()
    for module in _modules(folder):
        for value in vars(module).values():
            if isinstance(value, Blueprint) and id(value) not in seen:
                seen.add(id(value))
                registry.register(value)
    registry.check().raise_errors("blueprints")  # what only all of them together show: a child that nobody registers
    registry.warn()
    logger.debug("blueprints loaded", extra={"action": "load_blueprints", "folder": str(folder), "names": list(registry.names)})
    return registry


def load_workers(folder: Path) -> None:
    """Makes this process declare the tasks of every Worker at module level of every module in a folder.

    Raises:
        RegistrationError: two Workers do not fit together.
    """
    from avtomatika.worker.sdk import Worker, use

    for module in _modules(folder):
        for value in vars(module).values():
            if isinstance(value, Worker):
                use(value)
