"""Cores, memory and GPUs as they are found, and what is declared laid over them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from avtomatika.worker.resources import find_gpus, find_resources, lay_over

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def machine(root: Path, files: dict[str, str], *, memory_kib: int = 64_000_000) -> Path:
    """A root folder with the files that are read; memory of 65.5 GB, unless told otherwise."""
    for name, text in {"proc/meminfo": f"MemFree: 1 kB\nMemTotal:       {memory_kib} kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_this_machine() -> None:
    found = find_resources()

    assert 0 < found["cpu_cores"] <= (os.cpu_count() or 1)
    assert 0 < found["memory_gb"] <= round(psutil.virtual_memory().total / 1e9, 1)
    assert "gpu_info" not in found


@pytest.mark.parametrize(
    ("files", "cores", "memory_gb"),
    [
        ({}, 8, 65.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000", "sys/fs/cgroup/memory.max": "max"}, 8, 65.5),
        (
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "15000 10000", "sys/fs/cgroup/memory.max": "4000000000"},
            1.5,
            4,
        ),
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/cpu.max": "400000 100000",
                "sys/fs/cgroup/pod/box/memory.max": "9000000000",
                "sys/fs/cgroup/pod/cpu.max": "200000 100000",
                "sys/fs/cgroup/pod/memory.max": "2500000000",
            },
            2,
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/box\n3:memory:/box\n0::/\n",
                "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1000000000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            3,
            1,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n3:memory:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            8,
            65.5,
        ),
        ({"proc/self/cgroup": "0::/../elsewhere\n", "sys/fs/cgroup/cpu.max": "nonsense"}, 8, 65.5),
    ],
)
def test_the_limits_of_a_container(
    files: dict[str, str], cores: float, memory_gb: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    assert find_resources(machine(tmp_path, files)) == {"cpu_cores": cores, "memory_gb": memory_gb}


def test_the_cores_that_this_process_may_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "400000 100000"}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5})

    assert find_resources(machine(tmp_path, files))["cpu_cores"] == 2


# --- GPUs: a stand-in for the library, since a test machine has none -----------------------------------------------------------


class NVMLError(Exception):
    """As the library's."""


class Nvml(ModuleType):
    """The part of `pynvml` that is used, for some GPUs (name, MiB, UUID)."""

    NVMLError = NVMLError

    def __init__(self, *gpus: tuple[str | bytes, int | None, str], driver: bool = True) -> None:
        super().__init__("pynvml")
        self.gpus = gpus
        self.driver = driver
        self.open = 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return sum(1 for gpu in self.gpus if gpu[2].startswith("GPU-"))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        for gpu in self.gpus:
            if gpu[2] == uuid:
                return gpu
        raise NVMLError("Not Found")

    def nvmlDeviceGetName(self, gpu: Any) -> str | bytes:
        name: str | bytes = gpu[0]
        return name

    def nvmlDeviceGetUUID(self, gpu: Any) -> str:
        uuid: str = gpu[2]
        return uuid

    def nvmlDeviceGetMemoryInfo(self, gpu: Any) -> Any:
        if gpu[1] is None:
            raise NVMLError("Not Supported")
        return SimpleNamespace(total=gpu[1] * MIB)


T4: tuple[str, int, str] = ("Tesla T4", 15360, "GPU-aaaa-1")
A100 = (b"NVIDIA A100-SXM4-80GB", 81920, "GPU-bbbb-1")
SLICE = ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", 9728, "MIG-cccc")


def test_the_biggest_gpu_and_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(T4, A100)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)

    found = find_resources(machine(tmp_path, {}))

    big = {"model": "NVIDIA A100-SXM4-80GB", "vram_gb": 85.9}
    assert found["gpu_info"] == big
    assert found["gpus"] == [{"model": "Tesla T4", "vram_gb": 16.1}, big]
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("visible", "models"),
    [
        ("0", ["T4"]),
        ("1,0", ["A100", "T4"]),
        ("1, 7, 0", ["A100"]),
        ("-1", []),
        ("", []),
        ("GPU-bbbb-1", ["A100"]),
        ("GPU-b", ["A100"]),
        ("GPU-", []),
        ("MIG-cccc", ["MIG"]),
        ("MIG-dddd", []),
    ],
)
def test_the_gpus_that_are_left_to_this_process(visible: str, models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(T4, A100, SLICE))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    found = [gpu["model"] for gpu in find_gpus()]

    assert len(found) == len(models)
    assert all(part in name for part, name in zip(models, found, strict=True))


@pytest.mark.parametrize("nvml", [Nvml(T4, driver=False), Nvml()])
def test_without_a_driver_or_a_gpu_there_is_none(nvml: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)

    assert not {"gpu_info", "gpus"} & set(find_resources(machine(tmp_path, {})))


def test_a_gpu_that_shares_the_machine_s_memory_has_a_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(("NVIDIA GB10", None, "GPU-eeee")))

    assert find_gpus() == [{"model": "NVIDIA GB10"}]


def test_the_real_library_is_no_error() -> None:
    sys.modules.pop("pynvml", None)
    pytest.importorskip("pynvml")

    assert all(gpu["model"] for gpu in find_gpus())


# --- What is declared ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ({}, {"cpu_cores": 8, "gpu_info": {"model": "T4", "vram_gb": 16}}),
        ({"cpu_cores": 4, "region": "eu"}, {"cpu_cores": 4, "region": "eu", "gpu_info": {"model": "T4", "vram_gb": 16}}),
        ({"gpu_info": {"vram_gb": 8}}, {"cpu_cores": 8, "gpu_info": {"model": "T4", "vram_gb": 8}}),
        ({"gpu_info": None}, {"cpu_cores": 8}),
        ({"disk": {"gb": 5}}, {"cpu_cores": 8, "gpu_info": {"model": "T4", "vram_gb": 16}, "disk": {"gb": 5}}),
        ({"cpu_cores": {"fast": 2}}, {"cpu_cores": {"fast": 2}, "gpu_info": {"model": "T4", "vram_gb": 16}}),
    ],
)
def test_what_is_declared_lies_over_what_is_found(above: dict[str, Any], expected: dict[str, Any]) -> None:
    found = {"cpu_cores": 8, "gpu_info": {"model": "T4", "vram_gb": 16}}

    assert lay_over(found, above) == expected
    assert found == {"cpu_cores": 8, "gpu_info": {"model": "T4", "vram_gb": 16}}
