"""What a worker process is, whoever it works for: fixed at its start."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from avtomatika.results import JSON
from avtomatika.settings import Settings
from avtomatika.worker.resources import check_resources, find_resources, lay_over
from avtomatika.worker.sdk import Declared, check_names


@dataclass(frozen=True, slots=True)
class Facts:
    """What is declared, laid over the settings, laid over what is found on the machine."""

    worker_type: str
    installed_models: tuple[str, ...]
    cost_per_second: float
    resources: JSON
    software: JSON


def find_facts(merged: Declared, settings: Settings) -> Facts:
    """Raises RegistrationError where WORKER_RESOURCES or WORKER_INSTALLED_MODELS does not fit."""
    kinds = sorted({worker.worker_type for worker in merged.workers}) or ["worker"]
    installed = check_names(settings.worker_installed_models, "WORKER_INSTALLED_MODELS")
    resources = lay_over(find_resources(), check_resources(settings.worker_resources, "WORKER_RESOURCES"))
    return Facts(
        worker_type=",".join(kinds),
        installed_models=tuple(dict.fromkeys((*merged.installed_models, *installed))),
        cost_per_second=settings.worker_cost_per_second if merged.cost_per_second is None else merged.cost_per_second,
        resources=lay_over(resources, merged.resources),
        software={"python": platform.python_version(), "pid": os.getpid()},
    )
