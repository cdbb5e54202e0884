"""What the machine does just now: load, processes, disks, network, GPUs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from pydantic import Field

from avtomatika.operations.base import Params
from avtomatika.operations.context import OperationContext
from avtomatika.operations.system.family import family
from avtomatika.results import JSON

#: Processes in a result: those that use most.
MOST_PROCESSES = 100


class SystemMonitor(Params):
    """What to look at, and how often."""

    monitor_type: Literal["general", "processes", "disk", "network", "gpu"] = "general"
    interval: float = Field(1.0, gt=0, le=60, description="seconds that a sample is measured over")
    samples: int = Field(1, ge=1, le=100)


@family.operation("system_monitor", timeout_seconds=300, max_retries=1)
def system_monitor(params: SystemMonitor, op: OperationContext) -> JSON:
    """Measures the machine that the worker runs on; with several samples, the last one stands at the top as well."""
    look = _LOOKS[params.monitor_type]
    found: list[JSON] = []
    for number in range(params.samples):
        op.progress(number / params.samples, f"sample {number + 1} of {params.samples}")
        found.append({"timestamp": time.time(), **look(params, op)})
    result = {"monitor_type": params.monitor_type, **found[-1]}
    return {**result, "samples": found} if params.samples > 1 else result


def _general(params: SystemMonitor, op: OperationContext) -> JSON:
    import psutil

    psutil.cpu_percent(None)  # the next call measures since this one
    op.wait(params.interval)
    cpu = psutil.cpu_percent(None)
    memory, swap, disk = psutil.virtual_memory(), psutil.swap_memory(), psutil.disk_usage("/")
    return {
        "cpu_percent": cpu,
        "cpu_count": psutil.cpu_count(),
        "load_average": list(os.getloadavg()),
        "memory_percent": memory.percent,
        "memory_available": memory.available,
        "memory_total": memory.total,
        "swap_percent": swap.percent,
        "disk_percent": disk.percent,
        "disk_free": disk.free,
        "disk_total": disk.total,
        "uptime_seconds": round(time.time() - psutil.boot_time(), 1),
    }


def _processes(params: SystemMonitor, op: OperationContext) -> JSON:
    """Command lines are left out, since secrets stand in them, unless the policy's option `show_cmdline` is true."""
    import psutil

    fields = ["pid", "ppid", "name", "username", "status", "create_time", "num_threads", "memory_percent", "memory_info"]
    if op.permit.option("show_cmdline", False) is True:
        fields.append("cmdline")
    running = list(psutil.process_iter())
    for process in running:
        with suppress(psutil.Error):
            process.cpu_percent(None)
    op.wait(params.interval)
    found = []
    for process in running:
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess), process.oneshot():
            seen = {**process.as_dict(fields, ad_value=None), "cpu_percent": process.cpu_percent(None)}
            memory = seen.pop("memory_info")
            found.append({**seen, "memory_bytes": memory.rss if memory is not None else None})
    found.sort(key=lambda seen: (seen["cpu_percent"], seen["memory_percent"] or 0.0), reverse=True)
    return {"processes": found[:MOST_PROCESSES], "count": len(found)}


def _disk(params: SystemMonitor, op: OperationContext) -> JSON:
    import psutil

    before = psutil.disk_io_counters(perdisk=True) or {}
    op.wait(params.interval)
    after = psutil.disk_io_counters(perdisk=True) or {}
    disks = []
    for part in psutil.disk_partitions(all=False):
        with suppress(OSError):  # not for this user, or gone since
            usage = psutil.disk_usage(part.mountpoint)
            named = {"device": part.device, "mountpoint": part.mountpoint, "filesystem": part.fstype}
            disks.append({**named, "total": usage.total, "used": usage.used, "free": usage.free, "percent": usage.percent})
    rates = _rates(before, after, params.interval, ("read_bytes", "write_bytes", "read_count", "write_count"))
    root = psutil.disk_usage("/")
    return {"disk_percent": root.percent, "disk_free": root.free, "disks": disks, "io": rates}


def _network(params: SystemMonitor, op: OperationContext) -> JSON:
    import psutil

    before = psutil.net_io_counters(pernic=True)
    op.wait(params.interval)
    after = psutil.net_io_counters(pernic=True)
    names = ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv")
    stats = psutil.net_if_stats()
    found = {}
    for name, rates in _rates(before, after, params.interval, names).items():
        trouble = {field: getattr(after[name], field) for field in ("errin", "errout", "dropin", "dropout")}
        state = stats.get(name)
        found[name] = {**rates, **trouble, "up": state.isup if state else None, "speed_mbps": state.speed if state else None}
    return {"interfaces": found}


def _rates(before: Any, after: Any, seconds: float, names: tuple[str, ...]) -> JSON:
    """The counters of each device, and what each of them rose by in a second."""
    found: JSON = {}
    for device, counters in after.items():
        earlier = before.get(device, counters)
        found[device] = {name: getattr(counters, name) for name in names}
        for name in names:
            rise = max(0, getattr(counters, name) - getattr(earlier, name))  # a counter may begin anew
            found[device][f"{name}_per_second"] = round(rise / seconds, 1)
    return found


def _gpu(params: SystemMonitor, op: OperationContext) -> JSON:
    """By NVML. Where there is none, the list is empty, and `reason` says why."""
    op.wait(params.interval if params.samples > 1 else 0)
    try:
        import pynvml as nvml
    except ImportError:
        return {"gpus": [], "reason": "NVML cannot be imported: pip install 'avtomatika[gpu]'"}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as exc:
        return {"gpus": [], "reason": f"NVML finds no driver: {exc}"}
    try:
        return {"gpus": [_gpu_state(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]}
    finally:
        nvml.nvmlShutdown()


def _gpu_state(nvml: Any, index: int) -> JSON:
    """What a card does not tell is None."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except nvml.NVMLError:
            return None

    name = nvml.nvmlDeviceGetName(handle)
    memory = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    use = ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    watts = ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    return {
        "index": index,
        "name": name.decode() if isinstance(name, bytes) else name,
        "gpu_percent": use.gpu if use else None,
        "memory_total": memory.total if memory else None,
        "memory_used": memory.used if memory else None,
        "memory_free": memory.free if memory else None,
        "temperature_celsius": ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        "power_watts": watts / 1000 if watts is not None else None,
    }


_LOOKS: dict[str, Callable[[SystemMonitor, OperationContext], JSON]] = {
    "general": _general,
    "processes": _processes,
    "disk": _disk,
    "network": _network,
    "gpu": _gpu,
}
