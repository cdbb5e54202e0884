"""system_monitor against this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationStopped, StopReason
from tests.support.local_operations import Bench

SHORT = 0.05


def test_general(tmp_path: Path) -> None:
    found = Bench().run("system_monitor", {"interval": SHORT})

    assert {"cpu_percent", "memory_percent", "disk_percent", "memory_available", "disk_free"} <= set(found)
    assert 0 < found["memory_available"] <= found["memory_total"]
    assert 0 <= found["disk_free"] <= found["disk_total"]
    assert found["uptime_seconds"] > 0
    json.dumps(found, allow_nan=False)


def test_samples_are_kept_and_told_of() -> None:
    bench = Bench()
    found = bench.run("system_monitor", {"monitor_type": "general", "interval": SHORT, "samples": 3})

    assert len(found["samples"]) == 3
    assert [sample["timestamp"] for sample in found["samples"]] == sorted(sample["timestamp"] for sample in found["samples"])
    assert found["cpu_percent"] == found["samples"][-1]["cpu_percent"]
    assert bench.last is not None
    report = bench.last.take_report()
    assert report is not None
    assert report.step == "sample 3 of 3"


@pytest.mark.parametrize("allowed", [False, True])
def test_processes_and_their_command_lines(allowed: bool) -> None:
    secret = "a-secret-in-argv"
    code = "import sys; print(flush=True)\nfor _ in range(10**7): pass\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, secret], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        bench = Bench(options={"show_cmdline": allowed})
        found = bench.run("system_monitor", {"monitor_type": "processes", "interval": 0.3})
        child.terminate()

    assert len(found["processes"]) <= 100
    assert found["count"] >= len(found["processes"])
    loads = [process["cpu_percent"] for process in found["processes"]]
    assert loads == sorted(loads, reverse=True)
    [mine] = [process for process in found["processes"] if process["pid"] == child.pid]
    assert mine["ppid"] == os.getpid()
    assert mine["memory_bytes"] > 0
    assert (secret in json.dumps(found)) is allowed


def test_disks() -> None:
    found = Bench().run("system_monitor", {"monitor_type": "disk", "interval": SHORT})

    assert found["disk_free"] > 0
    assert all({"mountpoint", "total", "free", "percent"} <= set(disk) for disk in found["disks"])
    assert all(counters["read_bytes_per_second"] >= 0 for counters in found["io"].values())


def test_network() -> None:
    found = Bench().run("system_monitor", {"monitor_type": "network", "interval": SHORT})

    assert found["interfaces"]["lo"]["up"] is True
    assert found["interfaces"]["lo"]["bytes_sent_per_second"] >= 0


def test_gpus_or_the_reason_why_there_are_none() -> None:
    found = Bench().run("system_monitor", {"monitor_type": "gpu", "interval": SHORT})

    assert found["gpus"] or found["reason"]


class NVMLError(Exception):
    """As the library's."""


class Nvml:
    """As much of the library as is asked, with two cards: one tells little."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, driver: bool = True) -> None:
        self.driver = driver
        self.open = 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, card: int) -> str | bytes:
        return ("NVIDIA T4", b"old card")[card]

    def nvmlDeviceGetMemoryInfo(self, card: int) -> SimpleNamespace:
        return SimpleNamespace(total=100, used=40, free=60)

    def _told_by_the_first(self, card: int, value: Any) -> Any:
        if card:
            raise NVMLError("Not Supported")
        return value

    def nvmlDeviceGetUtilizationRates(self, card: int) -> Any:
        return self._told_by_the_first(card, SimpleNamespace(gpu=73))

    def nvmlDeviceGetPowerUsage(self, card: int) -> Any:
        return self._told_by_the_first(card, 70_500)

    def nvmlDeviceGetTemperature(self, card: int, sensor: int) -> Any:
        return self._told_by_the_first(card, 55)


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = Bench().run("system_monitor", {"monitor_type": "gpu"})

    first, second = found["gpus"]
    assert (first["name"], first["gpu_percent"], first["memory_free"], first["power_watts"]) == ("NVIDIA T4", 73, 60, 70.5)
    assert (second["name"], second["gpu_percent"], second["memory_free"], second["power_watts"]) == ("old card", None, 60, None)
    assert nvml.open == 0


@pytest.mark.parametrize("nvml", [None, Nvml(driver=False)])
def test_no_gpus(monkeypatch: pytest.MonkeyPatch, nvml: Nvml | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = Bench().run("system_monitor", {"monitor_type": "gpu"})

    assert found["gpus"] == []
    assert "NVML" in found["reason"]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"monitor_type": "kitchen"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"interval": 0}, TaskErrorCode.VALIDATION_OUT_OF_RANGE),
        ({"samples": 101}, TaskErrorCode.VALIDATION_OUT_OF_RANGE),
        ({"sample": 1}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
    ],
)
def test_params_that_do_not_fit(params: dict[str, object], code: TaskErrorCode) -> None:
    assert Bench().fails("system_monitor", params).code is code


def test_a_stop_ends_the_wait_between_samples() -> None:
    def soon(op: OperationContext) -> None:
        threading.Timer(0.1, op.stop, [StopReason.CANCEL]).start()

    with pytest.raises(OperationStopped):
        Bench().run("system_monitor", {"interval": 60, "samples": 100}, before=soon)
