"""What a worker has: cores, memory and GPUs as this process may use them, and what is declared laid over that.

Amounts of memory are in GB of 10^9 bytes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from avtomatika.errors import RegistrationError
from avtomatika.jobs import JSON

logger = logging.getLogger(__name__)

GB = 1e9
_ROOT = Path("/")


def find_resources(root: Path = _ROOT) -> JSON:
    """`cpu_cores`, `memory_gb`, and where there is a GPU `gpu_info` (the biggest one) and `gpus` (all of them).

    Limits of a container count: what is found is what this process may use. A GPU that cannot be asked is left out, without
    an error.
    """
    found: JSON = {"cpu_cores": _cores(root)}
    memory = _memory(root)
    if memory is not None:
        found["memory_gb"] = round(memory / GB, 1)
    gpus = find_gpus()
    if gpus:
        found["gpu_info"] = max(gpus, key=lambda gpu: gpu.get("vram_gb", 0))
        found["gpus"] = gpus
    return found


def _cores(root: Path) -> float:
    """Whole cores as an integer; a container's share of 1.5 cores stays 1.5."""
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroups(root, "cpu"):
        quota, period = _quota(folder)
        if quota > 0 and period > 0:
            cores = min(cores, round(quota / period, 2))
    return int(cores) if cores == int(cores) else cores


def _quota(folder: Path) -> tuple[float, float]:
    both = _read(folder / "cpu.max").split()
    if len(both) == 2:
        return _number(both[0]), _number(both[1])
    return _number(_read(folder / "cpu.cfs_quota_us")), _number(_read(folder / "cpu.cfs_period_us"))


def _memory(root: Path) -> float | None:
    """Bytes: the machine's memory or the smallest limit above this process."""
    amounts = [_installed_memory(root)]
    for folder in _cgroups(root, "memory"):
        amounts += [_number(_read(folder / name)) for name in ("memory.max", "memory.limit_in_bytes")]
    return min((amount for amount in amounts if amount > 0), default=None)


def _installed_memory(root: Path) -> float:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return _number(line.split()[1]) * 1024
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        return 0.0


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """This process's control group and all above it, of both versions: a limit on any of them holds."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = mount / path.lstrip("/")
        while folder != mount and mount in folder.parents:
            yield folder
            folder = folder.parent
        yield mount


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _number(text: str) -> float:
    """0 for what is no number, such as `max`."""
    try:
        return float(text)
    except ValueError:
        return 0.0


# GPUs


def find_gpus() -> list[JSON]:
    """`{"model", "vram_gb"}` of each GPU that CUDA_VISIBLE_DEVICES leaves to this process, by NVML (the extra `gpu`)."""
    try:
        import pynvml
    except ImportError:
        logger.debug("no GPU is looked for: install avtomatika[gpu]", extra={"action": "find_gpus"})
        return []
    try:
        pynvml.nvmlInit()
        try:
            return [_describe(pynvml, handle) for handle in _visible(pynvml)]
        finally:
            pynvml.nvmlShutdown()
    except (pynvml.NVMLError, OSError) as exc:
        logger.debug("no GPU is found: %s", exc, extra={"action": "find_gpus"})
        return []


def _visible(nvml: Any) -> list[Any]:
    """In the order of CUDA_VISIBLE_DEVICES; as in CUDA, the first name in it that fits nothing ends the list."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return handles
    visible: list[Any] = []
    for name in (part.strip() for part in names.split(",")):
        handle = _named(nvml, handles, name)
        if handle is None:
            break
        visible.append(handle)
    return visible


def _named(nvml: Any, handles: list[Any], name: str) -> Any:
    if name.isdecimal():
        return handles[int(name)] if int(name) < len(handles) else None
    if name.startswith("MIG-"):
        try:
            return nvml.nvmlDeviceGetHandleByUUID(name)
        except nvml.NVMLError:
            return None
    fitting = [handle for handle in handles if name.startswith("GPU-") and _text(nvml.nvmlDeviceGetUUID(handle)).startswith(name)]
    return fitting[0] if len(fitting) == 1 else None


def _describe(nvml: Any, handle: Any) -> JSON:
    gpu: JSON = {"model": _text(nvml.nvmlDeviceGetName(handle))}
    try:
        gpu["vram_gb"] = round(nvml.nvmlDeviceGetMemoryInfo(handle).total / GB, 1)
    except nvml.NVMLError:
        logger.debug("%s does not tell its memory", gpu["model"], extra={"action": "find_gpus"})
    return gpu


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# What is declared


def check_resources(resources: Mapping[str, Any], where: str) -> JSON:
    """A copy of what is declared; `where` names it in the error.

    Raises:
        RegistrationError: it is not JSON, an amount is negative, or `gpu_info` is not an object with known types.
    """
    if not isinstance(resources, Mapping):
        raise RegistrationError(f"{where} must be a mapping such as {{'memory_gb': 32}}, not {resources!r}")
    _check_gpu(resources.get("gpu_info") or {}, f"{where}['gpu_info']")
    return {_key(name, where): _checked(value, f"{where}[{name!r}]") for name, value in resources.items()}


def _check_gpu(gpu: Any, where: str) -> None:
    if not isinstance(gpu, Mapping):
        raise RegistrationError(f"{where} must be a mapping such as {{'model': 'T4', 'vram_gb': 16}}, not {gpu!r}")
    if not isinstance(gpu.get("model", ""), str):
        raise RegistrationError(f"{where}['model'] must be a name, not {gpu['model']!r}")
    if not _is_number(gpu.get("vram_gb", 0)):
        raise RegistrationError(f"{where}['vram_gb'] must be a number of GB, not {gpu['vram_gb']!r}")


def _key(name: Any, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise RegistrationError(f"{where} has the key {name!r}; keys are names")
    return name


def _checked(value: Any, where: str) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if _is_number(value):
        if value < 0:
            raise RegistrationError(f"{where} must not be negative, not {value}")
        return value
    if isinstance(value, Mapping):
        return {_key(name, where): _checked(item, f"{where}[{name!r}]") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_checked(item, where) for item in value]
    raise RegistrationError(f"{where} must be JSON: a finite number, a text, a list or a mapping, not {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> JSON:
    """What is below with what is above in its place, key by key and deep; None above takes a key away."""
    out = dict(below)
    for name, value in above.items():
        if value is None:
            out.pop(name, None)
        elif isinstance(value, Mapping):
            inner = out.get(name)
            out[name] = lay_over(inner if isinstance(inner, Mapping) else {}, value)
        else:
            out[name] = value
    return out


def join_same(ours: Mapping[str, Any], theirs: Mapping[str, Any], where: str = "resources") -> JSON:
    """Both together. Raises RegistrationError where they say different things about one key."""
    out = dict(ours)
    for name, value in theirs.items():
        place = f"{where}[{name!r}]"
        if name not in out:
            out[name] = value
        elif isinstance(value, Mapping) and isinstance(out[name], Mapping):
            out[name] = join_same(out[name], value, place)
        elif out[name] != value:
            raise RegistrationError(
                f"{place} is {out[name]!r} and {value!r} by two Worker objects; one process has one set of resources"
            )
    return out
