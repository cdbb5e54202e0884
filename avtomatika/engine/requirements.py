"""Whether a worker has what a task asks for. Pure, tested by a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avtomatika.jobs import JSON, WorkerRecord

MODELS = "installed_models"

_UNITS = {"cpu_cores": "CPU cores", "memory_gb": "GB memory", "vram_gb": "GB VRAM"}


def fits(worker: WorkerRecord, wanted: JSON | None) -> bool:
    """Whether a worker's record shows everything that `resource_requirements` ask for.

    Numbers are least amounts, texts are a part of the worker's own (in any case of letters), a list is wanted with all its items,
    and what the record does not show is not there. Of several GPUs one has to fit as a whole.
    """
    for name, value in (wanted or {}).items():
        if name == MODELS:
            if not set(_names(value)) <= {*worker.installed_models, *worker.hot_cache}:
                return False
        elif name == "gpu_info":
            if not any(_matches(gpu, value) for gpu in _gpus(worker.resources)):
                return False
        elif not _matches(worker.resources.get(name), value):
            return False
    return True


def described(wanted: JSON | None) -> str:
    """What is asked for, as a part of a sentence: ``24 GB VRAM and model sd15``."""
    parts = [part for name, value in (wanted or {}).items() for part in _parts(name, value)]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _gpus(resources: JSON) -> list[Any]:
    several = resources.get("gpus")
    return [resources.get("gpu_info"), *(several if isinstance(several, list) else [])]


def _names(value: Any) -> list[str]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(name) for name in value]
    return [] if value is None else [str(value)]


def _matches(found: Any, wanted: Any) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, bool) or isinstance(found, bool):
        return found is wanted
    match wanted, found:
        case ((int() | float()), (int() | float())):
            return bool(found >= wanted)
        case str(), str():
            return wanted.casefold() in found.casefold()
        case list(), list():
            return all(item in found for item in wanted)
        case dict(), dict():
            return all(_matches(found.get(name), value) for name, value in wanted.items())
        case _:
            return False


def _parts(name: str, value: Any) -> list[str]:
    if name == MODELS:
        return [f"model {model}" for model in _names(value)]
    if isinstance(value, Mapping):
        return [part for inner, item in value.items() for part in _parts("gpu" if inner == "model" else inner, item)]
    if name in _UNITS and isinstance(value, int | float):
        return [f"{value:g} {_UNITS[name]}"]
    if value is None:
        return []
    if isinstance(value, list):
        return [f"{name.replace('_', ' ')} {', '.join(map(str, value))}"]
    return [f"{'GPU' if name == 'gpu' else name.replace('_', ' ')} {value}"]
