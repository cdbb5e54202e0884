"""What a Worker declares about its machine, and how the Worker objects of a process merge."""

from __future__ import annotations

from typing import Any

import pytest

from avtomatika.errors import RegistrationError
from avtomatika.worker.sdk import Declared, Worker


def declaring(*tasks: str, **arguments: Any) -> Worker:
    worker = Worker(**arguments)
    for task in tasks:
        worker.task(task, task_type="gpu")(lambda params: None)
    return worker


def merged(*workers: Worker) -> Declared:
    declared = Declared()
    for worker in workers:
        declared.use(worker)
    return declared


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"cost_per_second": -0.1}, "cost_per_second"),
        ({"cost_per_second": "cheap"}, "cost_per_second"),
        ({"cost_per_second": True}, "cost_per_second"),
        ({"cost_per_second": float("nan")}, "cost_per_second"),
        ({"cost_per_second": float("inf")}, "cost_per_second"),
        ({"cost_per_skill": {"draw": -1}}, "cost_per_skill['draw']"),
        ({"cost_per_skill": {"draw": None}}, "cost_per_skill['draw']"),
        ({"resources": ["gpu"]}, "resources"),
        ({"resources": {"": 1}}, "resources"),
        ({"resources": {"memory_gb": -1}}, "resources['memory_gb']"),
        ({"resources": {"memory_gb": float("nan")}}, "resources['memory_gb']"),
        ({"resources": {"gpu_info": "T4"}}, "resources['gpu_info']"),
        ({"resources": {"gpu_info": {"model": 4}}}, "resources['gpu_info']['model']"),
        ({"resources": {"gpu_info": {"vram_gb": "16"}}}, "resources['gpu_info']['vram_gb']"),
        ({"resources": {"disks": [{"path": b"/"}]}}, "resources['disks']['path']"),
        ({"installed_models": "sdxl"}, "installed_models"),
        ({"installed_models": ["sdxl", ""]}, "installed_models"),
        ({"installed_models": [7]}, "installed_models"),
        ({"skill_dependencies": {"draw": "sdxl"}}, "skill_dependencies['draw']"),
        ({"skill_dependencies": {"draw": [" sdxl"]}}, "skill_dependencies['draw']"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(RegistrationError) as refused:
        Worker(**arguments)
    assert named in str(refused.value)


def test_what_several_workers_say_is_put_together() -> None:
    declared = merged(
        declaring(
            "draw",
            cost_per_skill={"draw": 3},
            skill_dependencies={"draw": ["sdxl", "vae", "sdxl"]},
            resources={"gpu_info": {"model": "T4"}, "region": "eu"},
            installed_models=["sdxl", "vae"],
        ),
        declaring(
            "hear",
            cost_per_second=0.5,
            skill_dependencies={"hear": ["whisper"]},
            resources={"gpu_info": {"vram_gb": 16}, "region": "eu", "disks": [1, 2]},
            installed_models=("whisper", "vae"),
        ),
    )

    assert declared.cost_per_second == 0.5
    assert declared.cost_per_skill == {"draw": 3.0}
    assert declared.skill_dependencies == {"draw": ["sdxl", "vae"], "hear": ["whisper"]}
    assert declared.resources == {"gpu_info": {"model": "T4", "vram_gb": 16}, "region": "eu", "disks": [1, 2]}
    assert declared.installed_models == ("sdxl", "vae", "whisper")


@pytest.mark.parametrize(
    ("ours", "theirs", "named"),
    [
        ({"cost_per_second": 1}, {"cost_per_second": 2}, "cost_per_second is 1.0 and 2.0"),
        ({"resources": {"region": "eu"}}, {"resources": {"region": "us"}}, "resources['region'] is 'eu' and 'us'"),
        (
            {"resources": {"gpu_info": {"vram_gb": 16}}},
            {"resources": {"gpu_info": {"vram_gb": 24}}},
            "resources['gpu_info']['vram_gb'] is 16 and 24",
        ),
        ({}, {"cost_per_skill": {"darw": 1}}, "cost_per_skill names the task 'darw'"),
        ({}, {"skill_dependencies": {"darw": ["sdxl"]}}, "skill_dependencies names the task 'darw'"),
        ({}, {"cost_per_skill": {"draw": 1}}, "cost_per_skill names the task 'draw'"),
    ],
)
def test_conflicts_refuse_the_second_worker_and_change_nothing(ours: dict[str, Any], theirs: dict[str, Any], named: str) -> None:
    declared = merged(declaring("draw", **ours))
    before = {name: value.copy() if hasattr(value, "copy") else value for name, value in vars(declared).items()}

    with pytest.raises(RegistrationError) as refused:
        declared.use(declaring("hear", **theirs))

    assert named in str(refused.value)
    assert vars(declared) == before


def test_the_same_said_twice_is_no_conflict() -> None:
    same: dict[str, Any] = {"cost_per_second": 1, "resources": {"gpu_info": {"model": "T4"}}, "installed_models": ["sdxl"]}

    declared = merged(declaring("draw", **same), declaring("hear", **same))

    assert (declared.cost_per_second, declared.installed_models) == (1.0, ("sdxl",))


@pytest.mark.parametrize("capability", ["orchestrator", "worker"])
def test_capabilities_of_the_engine_are_refused(capability: str) -> None:
    with pytest.raises(RegistrationError, match=capability):
        Worker().task("draw", task_type=capability)(lambda params: None)
