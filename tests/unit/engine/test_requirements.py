"""What a worker has against what a task asks for."""

from __future__ import annotations

from typing import Any

import pytest

from avtomatika.engine.requirements import described, fits
from avtomatika.jobs import WorkerRecord

GPU = {"model": "NVIDIA GeForce RTX 4090", "vram_gb": 24.0}
SMALL = {"model": "Tesla T4", "vram_gb": 16}
RESOURCES = {
    "cpu_cores": 8,
    "memory_gb": 63.5,
    "gpu_info": GPU,
    "gpus": [GPU, SMALL],
    "os": "Linux 6.1",
    "nvlink": True,
    "licences": ["maya", "nuke"],
    "disk": {"free_gb": 500, "kind": "NVMe"},
}


@pytest.mark.parametrize(
    ("wanted", "fit"),
    [
        (None, True),
        ({}, True),
        ({"cpu_cores": 8}, True),
        ({"cpu_cores": 8.5}, False),
        ({"memory_gb": 63.5}, True),
        ({"memory_gb": 64}, False),
        ({"cpu_cores": True}, False),
        ({"cpu_cores": "8"}, False),
        ({"cpu_cores": None}, True),
        ({"os": "linux"}, True),
        ({"os": "LINUX 6"}, True),
        ({"os": "windows"}, False),
        ({"os": 6}, False),
        ({"nvlink": True}, True),
        ({"nvlink": False}, False),
        ({"nvlink": 1}, False),
        ({"licences": ["nuke"]}, True),
        ({"licences": ["nuke", "maya"]}, True),
        ({"licences": []}, True),
        ({"licences": ["nuke", "houdini"]}, False),
        ({"licences": "nuke"}, False),
        ({"disk": {"free_gb": 100, "kind": "nvme"}}, True),
        ({"disk": {"free_gb": 501}}, False),
        ({"disk": 100}, False),
        ({"tpu": 1}, False),
        ({"gpu_info": {"model": "rtx 4090"}}, True),
        ({"gpu_info": {"model": "rtx 4090", "vram_gb": 24}}, True),
        ({"gpu_info": {"model": "rtx 4090", "vram_gb": 25}}, False),
        ({"gpu_info": {"model": "t4"}}, True),
        ({"gpu_info": {"model": "t4", "vram_gb": 16}}, True),
        ({"gpu_info": {"model": "t4", "vram_gb": 24}}, False),  # one GPU has to fit as a whole
        ({"gpu_info": {"model": "a100"}}, False),
        ({"gpu_info": {"compute": 8.9}}, False),
        ({"installed_models": ["sd15"]}, True),
        ({"installed_models": ["sd15", "vae"]}, True),
        ({"installed_models": "vae"}, True),
        ({"installed_models": ["sd"]}, False),
        ({"installed_models": ["sd15", "flux"]}, False),
        ({"installed_models": []}, True),
        ({"cpu_cores": 4, "gpu_info": {"vram_gb": 24}, "installed_models": ["vae"]}, True),
        ({"cpu_cores": 4, "gpu_info": {"vram_gb": 24}, "installed_models": ["flux"]}, False),
        ({"cpu_cores": 99, "gpu_info": {"vram_gb": 24}, "installed_models": ["vae"]}, False),
    ],
)
def test_a_worker_fits_or_not(wanted: dict[str, Any] | None, fit: bool) -> None:
    worker = WorkerRecord("w", "b", resources=RESOURCES, installed_models=("sd15",), hot_cache=("vae",))

    assert fits(worker, wanted) is fit


@pytest.mark.parametrize("wanted", [{"cpu_cores": 0}, {"gpu_info": {"vram_gb": 0}}, {"installed_models": ["x"]}, {"os": ""}])
def test_what_a_record_does_not_show_is_not_there(wanted: dict[str, Any]) -> None:
    assert not fits(WorkerRecord("w", "b"), wanted)


def test_a_worker_with_one_gpu_and_no_list_of_them() -> None:
    worker = WorkerRecord("w", "b", resources={"gpu_info": SMALL})

    assert fits(worker, {"gpu_info": {"vram_gb": 16}})
    assert not fits(worker, {"gpu_info": {"vram_gb": 24}})


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (None, ""),
        ({"gpu_info": {"vram_gb": 24}}, "24 GB VRAM"),
        ({"installed_models": ["sd15"]}, "model sd15"),
        ({"gpu_info": {"model": "rtx 4090", "vram_gb": 24}}, "GPU rtx 4090 and 24 GB VRAM"),
        ({"cpu_cores": 4, "memory_gb": 0.5, "installed_models": ["a"]}, "4 CPU cores, 0.5 GB memory and model a"),
        ({"licences": ["maya", "nuke"], "nvlink": True}, "licences maya, nuke and nvlink True"),
        ({"disk": {"free_gb": 100}}, "free gb 100"),
    ],
)
def test_what_is_asked_for_in_words(wanted: dict[str, Any] | None, words: str) -> None:
    assert described(wanted) == words
