"""The step on the capability `gpu`: every photo is embedded and compared with every other one.

The sums are matrix products, written once for three array libraries: PyTorch or CuPy on a GPU, NumPy on the CPU where there is
no GPU. The result always says which one it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from avtomatika import TaskError, Worker

worker = Worker(worker_type="image_worker", max_concurrent_tasks=1, task_type_limits={"gpu": 1})

SIDE = 64  # photos are compared at this size
LAYOUT = 12  # so many frequencies a direction: the layout of a picture, not its grain
NO_GPU = "no GPU found: computed on the CPU with NumPy"

Floats = NDArray[np.float32]


class CompareParams(BaseModel):
    pictures: list[Path] = Field(min_length=1)
    threshold: float = Field(0.85, ge=0, le=1)


@dataclass(frozen=True)
class Device:
    """An array library with the way to it and back. `xp` is NumPy, CuPy or PyTorch: all name alike what is used here."""

    xp: Any
    name: str
    note: str
    put: Callable[[Floats], Any]
    get: Callable[[Any], Floats]


ON_CPU = Device(np, "CPU (NumPy)", NO_GPU, lambda array: array, lambda array: array)


def torch_gpu() -> Device | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name(0)
    return Device(
        torch,
        f"{name} (PyTorch)",
        f"computed on the GPU {name} with PyTorch {torch.__version__}",
        lambda array: torch.as_tensor(array, device="cuda"),
        lambda array: array.cpu().numpy(),
    )


def cupy_gpu() -> Device | None:
    try:
        import cupy
    except ImportError:
        return None
    try:
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except cupy.cuda.runtime.CUDARuntimeError:  # CuPy is installed, but there is no driver or no device
        return None
    note = f"computed on the GPU {name} with CuPy {cupy.__version__}"
    return Device(cupy, f"{name} (CuPy)", note, cupy.asarray, cupy.asnumpy)


def find_device() -> Device:
    """A real GPU where there is one, else the CPU."""
    return torch_gpu() or cupy_gpu() or ON_CPU


@worker.task("compare_images", task_type="gpu")
def compare_images(params: CompareParams, worker_id: str = "") -> dict[str, Any]:
    """Embeds all photos at once and compares each with each. Says on which device, and never pretends."""
    began = time.perf_counter()
    batch = np.stack([load_small(path) for path in params.pictures])
    loaded = time.perf_counter()
    device = find_device()
    try:
        vectors = embed(batch, device)
        note = device.note
    except RuntimeError as exc:  # a GPU that is there but full, or whose driver does not fit
        if device is ON_CPU:
            raise
        note = f"the GPU could not do it ({str(exc).splitlines()[0]}): computed on the CPU with NumPy"
        device = ON_CPU
        vectors = embed(batch, device)
    similarity = vectors @ vectors.T
    return {
        "groups": groups_of(similarity, params.threshold),
        "nearest": nearest(similarity),
        # A matrix of a large album would be most of the job's record, and nobody could read it.
        "similarity": [[round(float(v), 2) for v in row] for row in similarity] if len(similarity) <= 40 else None,
        "device": device.name,
        "device_note": note,
        "embedding_length": int(vectors.shape[1]),
        "compare_seconds": round(time.perf_counter() - began, 3),
        "compute_seconds": round(time.perf_counter() - loaded, 3),
        "compared_by": worker_id,
    }


def load_small(path: Path) -> Floats:
    try:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    except OSError as exc:
        raise TaskError(f"{path.name}: not a readable picture ({exc})", code="UNREADABLE_IMAGE") from exc
    return np.asarray(small, dtype=np.float32) / 255


def embed(batch: Floats, device: Device) -> Floats:
    """One unit vector a picture, (n, length), from a batch (n, SIDE, SIDE, 3): layout, tint, colours, and directions of edges."""
    xp = device.xp
    pixels = device.put(batch)
    planes = xp.einsum("nhwc,dc->ndhw", pixels, device.put(_YCBCR))
    basis = device.put(_DCT)
    frequencies = xp.einsum("kh,ndhw,lw->ndkl", basis, planes, basis)
    count = len(batch)
    layout = (frequencies[:, 0] * device.put(_WHITEN)).reshape(count, -1)
    tint = frequencies[:, 1:, :4, :4].reshape(count, -1)
    parts = [
        (0.40, layout),
        (0.15, tint),
        (0.25, colours(xp, planes, device)),
        (0.20, edges(xp, planes[:, 0], device)),
    ]
    # A grey picture has no tint: the others then share its weight.
    return device.get(unit(xp, xp.concatenate([math.sqrt(weight) * unit(xp, part) for weight, part in parts], 1)))


def unit(xp: Any, rows: Any) -> Any:
    """Rows of length one, so that each part counts with its weight and not with its scale."""
    return rows / (xp.sqrt((rows * rows).sum(-1)) + 1e-5)[:, None]


def colours(xp: Any, planes: Any, device: Device) -> Any:
    """A soft histogram: how much of the picture is near each of 75 colours."""
    pool = device.put(_POOL)
    small = xp.einsum("kh,ndhw,lw->nkld", pool, planes, pool).reshape(len(planes), -1, 3)
    centres = device.put(_CENTRES)
    squared = (small * small).sum(-1)[:, :, None] - 2 * small @ centres.T + (centres * centres).sum(-1)[None, None, :]
    near = xp.exp(-squared / (2 * 0.08**2))
    share = (near / (near.sum(-1) + 1e-9)[:, :, None]).mean(1)
    return xp.sqrt(share) - math.sqrt(1 / len(_CENTRES)) * 0.5


def edges(xp: Any, luma: Any, device: Device) -> Any:
    """How strongly edges run in each of 8 directions, in each cell of a 4 x 4 grid."""
    across = luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2]
    down = luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1]
    strength = across * across + down * down + 1e-8
    cells = device.put(_CELLS)
    found = []
    for step in range(8):
        angle = math.pi * step / 8
        along = across * math.cos(angle) + down * math.sin(angle)
        energy = along**4 / strength**1.5  # falls off fast beside the direction, grows with the edge
        found.append(xp.einsum("kh,nhw,lw->nkl", cells, energy, cells).reshape(len(luma), -1))
    histogram = xp.sqrt(xp.concatenate(found, 1))
    return histogram - histogram.mean(-1)[:, None] * 0.5


def groups_of(similarity: Floats, threshold: float) -> list[list[int]]:
    """Groups of two or more that hang together by pairs at least as alike as `threshold`."""
    left, groups = set(range(len(similarity))), []
    while left:
        group, edge = set(), [min(left)]
        while edge:
            index = edge.pop()
            if index in left:
                left.discard(index)
                group.add(index)
                edge.extend(other for other in left if similarity[index, other] >= threshold)
        if len(group) > 1:
            groups.append(sorted(group))
    return groups


def nearest(similarity: Floats) -> list[dict[str, Any] | None]:
    """For each picture the one most like it; None where it is alone."""
    if len(similarity) < 2:
        return [None] * len(similarity)
    others = similarity - 2 * np.eye(len(similarity), dtype=np.float32)
    return [{"index": int(row.argmax()), "similarity": round(float(row.max()), 3)} for row in others]


def _dct(rows: int, length: int) -> Floats:
    """The first rows of the orthonormal cosine transform."""
    grid = np.cos(np.pi * (np.arange(length) + 0.5) * np.arange(rows)[:, None] / length) * math.sqrt(2 / length)
    grid[0] /= math.sqrt(2)
    return grid.astype(np.float32)


def _pooling(rows: int, length: int) -> Floats:
    """Means of neighbouring values, as a matrix."""
    owner = np.arange(length) * rows // length
    matrix = (owner == np.arange(rows)[:, None]).astype(np.float32)
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True), dtype=np.float32)


_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], dtype=np.float32)
_DCT = _dct(LAYOUT, SIDE)
# Photographs have less of a frequency the higher it is: weighted up, all of them speak. Brightness as such does not.
_WHITEN = np.add.outer(np.arange(LAYOUT), np.arange(LAYOUT)).astype(np.float32)
_POOL = _pooling(32, SIDE)
_CELLS = _pooling(4, SIDE - 2)
_CENTRES = np.array(
    [(y, cb, cr) for y in (0.15, 0.5, 0.85) for cb in (-0.3, -0.12, 0, 0.12, 0.3) for cr in (-0.3, -0.12, 0, 0.12, 0.3)],
    dtype=np.float32,
)
