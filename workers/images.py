"""Real work on real photographs, on the capability `cpu`: thumbnails and descriptions.

Tasks get paths, not pictures: these workers share a folder with whoever asks (on one machine, or over a network drive). A
fleet without a shared folder would pass URLs of an object store in the same places.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, Field

from avtomatika import TaskError, Worker

# One core a worker: so a second worker process halves the time, and nobody's machine stalls. IMAGE_WORKER_CPU raises it.
CPU_SLOTS = int(os.environ.get("IMAGE_WORKER_CPU", "1"))

worker = Worker(worker_type="image_worker", max_concurrent_tasks=CPU_SLOTS, task_type_limits={"cpu": CPU_SLOTS})

Floats = NDArray[np.float64]


class ResizeParams(BaseModel):
    photo: Path
    output: Path
    size: int = Field(480, ge=16, le=4096)
    index: int = 0


class DescribeParams(BaseModel):
    photo: Path
    index: int = 0
    colours: int = Field(6, ge=1, le=12)


def open_photo(path: Path) -> Image.Image:
    """Opens and decodes a picture, upright as its EXIF orientation says, as RGB on white."""
    try:
        with Image.open(path) as image:
            return as_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise TaskError(f"{path.name}: the file is not there any more", code="UNREADABLE_IMAGE") from None
    except UnidentifiedImageError:
        raise TaskError(f"{path.name}: not a readable picture, of no format that Pillow knows", code="UNREADABLE_IMAGE") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        # Pillow reports a damaged file by any of these. The branch fails, and the album goes on without this photo.
        raise TaskError(f"{path.name}: not a readable picture ({exc})", code="UNREADABLE_IMAGE") from exc


def as_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits are scaled to 8, transparency lies on white."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        image = Image.fromarray(((values - low) * (255 / ((high - low) or 1))).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


@worker.task("resize_image", task_type="cpu")
def resize_image(params: ResizeParams, worker_id: str = "") -> dict[str, Any]:
    """Writes a thumbnail that fits into size x size. Doing it twice gives the same file, so a retry is harmless."""
    began = time.perf_counter()
    image = open_photo(params.photo)
    image.thumbnail((params.size, params.size), Image.Resampling.LANCZOS)
    params.output.mkdir(parents=True, exist_ok=True)
    target = params.output / f"{params.index + 1:03d}-{params.photo.stem}.jpg"
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    image.save(partial, format="JPEG", quality=88, optimize=True, progressive=True)
    partial.replace(target)
    return {
        "kind": "thumbnail",
        "index": params.index,
        "thumbnail": str(target),
        "thumbnail_bytes": target.stat().st_size,
        "seconds": round(time.perf_counter() - began, 3),
        "worker": worker_id,
    }


@worker.task("describe_image", task_type="cpu", process=True)
def describe_image(params: DescribeParams, worker_id: str = "") -> dict[str, Any]:
    """Size, EXIF, dominant colours, perceptual hash, sharpness. Runs in a process of its own: NumPy holds the interpreter."""
    began = time.perf_counter()
    image = open_photo(params.photo)
    width, height = image.size
    sample = image.copy()
    sample.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
    grey = np.asarray(sample.convert("L"), dtype=np.float64)
    return {
        "kind": "description",
        "index": params.index,
        "name": params.photo.name,
        "width": width,
        "height": height,
        "megapixels": round(width * height / 1e6, 2),
        "bytes": params.photo.stat().st_size,
        **file_facts(params.photo),
        "colours": dominant_colours(sample, params.colours),
        "phash": str(imagehash.phash(sample)),
        "sharpness": round(sharpness(grey), 1),
        "brightness": round(float(grey.mean()) / 255, 3),
        "contrast": round(float(grey.std()) / 128, 3),
        "colourfulness": round(colourfulness(np.asarray(sample, dtype=np.float64)), 1),
        "seconds": round(time.perf_counter() - began, 3),
        "worker": worker_id,
    }


def file_facts(path: Path) -> dict[str, Any]:
    """What the file says of itself: its format, mode and the EXIF entries that people read."""
    with Image.open(path) as image:
        return {"format": image.format or "?", "mode": image.mode, "exif": exif_summary(image.getexif())}


def exif_summary(exif: Image.Exif) -> dict[str, str]:
    """The EXIF entries that people read, in words. What the camera did not write is not there."""
    details = exif.get_ifd(ExifTags.IFD.Exif)
    base, sub = ExifTags.Base, details.get
    make, model = text(exif.get(base.Make)), text(exif.get(base.Model))
    camera = model if make and model.startswith(make.split(" ")[0]) else f"{make} {model}".strip()
    found = {
        "camera": camera,
        "lens": text(sub(base.LensModel)),
        "taken": taken(text(sub(base.DateTimeOriginal) or exif.get(base.DateTime))),
        "exposure": number(sub(base.ExposureTime), lambda s: f"1/{round(1 / s)} s" if 0 < s < 0.3 else f"{s:g} s"),
        "aperture": number(sub(base.FNumber), lambda f: f"f/{f:g}"),
        "iso": number(sub(base.ISOSpeedRatings), lambda v: f"ISO {v:g}"),
        "focal length": number(sub(base.FocalLength), lambda v: f"{v:g} mm"),
        "software": text(exif.get(base.Software)),
        "position": "recorded" if exif.get_ifd(ExifTags.IFD.GPSInfo) else "",
    }
    return {name: value for name, value in found.items() if value}


def text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return str(value).replace("\x00", "").strip() if value is not None else ""


def taken(value: str) -> str:
    """A date as people sort them. Cameras write colons, some programs ISO 8601; anything else stays as it is."""
    for read in (lambda: datetime.strptime(value, "%Y:%m:%d %H:%M:%S"), lambda: datetime.fromisoformat(value)):
        with contextlib.suppress(ValueError):
            return read().strftime("%Y-%m-%d %H:%M")
    return value


def number(value: Any, words: Callable[[float], str]) -> str:
    """`words` of a number; cameras also write tuples, zero denominators and nonsense, which is left out."""
    try:
        plain = float(value[0] if isinstance(value, tuple) else value)
    except (TypeError, ValueError, ZeroDivisionError, IndexError):
        return ""
    return words(plain) if np.isfinite(plain) else ""


_SRGB_TO_LAB = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")


def dominant_colours(image: Image.Image, count: int) -> list[dict[str, Any]]:
    """The `count` colours that the picture is made of, and their shares: k-means in CIE Lab, where distance is what eyes see."""
    small = image.copy()
    small.thumbnail((192, 192), Image.Resampling.BOX)
    rgb = np.asarray(small, dtype=np.float64).reshape(-1, 3)
    transformed = ImageCms.applyTransform(small, _SRGB_TO_LAB)
    assert transformed is not None
    lab = np.frombuffer(transformed.tobytes(), dtype=np.uint8).reshape(-1, 3).astype(np.float64)
    lab[:, 1:] = (lab[:, 1:] + 128) % 256  # a and b are signed bytes; shifted, they are continuous
    lab[:, 0] *= 100 / 255
    labels = kmeans(lab, count)
    found = []
    for cluster in range(count):
        members = rgb[labels == cluster]
        if len(members):
            red, green, blue = (int(v) for v in np.median(members, axis=0).round())
            found.append({"hex": f"#{red:02x}{green:02x}{blue:02x}", "share": round(len(members) / len(rgb), 3)})
    return sorted(found, key=lambda colour: -colour["share"])


def kmeans(points: Floats, count: int, rounds: int = 25) -> NDArray[np.intp]:
    """The cluster of each point. Starts from points far apart, so that the same picture always gives the same answer."""
    centres = points.mean(axis=0, keepdims=True)
    distances = ((points - centres[0]) ** 2).sum(axis=1)
    while len(centres) < count:
        # Far away, but not one odd pixel: the 99th percentile of the distances to what is chosen already.
        pick = int(np.argsort(distances)[int(0.99 * (len(points) - 1))])
        centres = np.vstack([centres, points[pick]])
        distances = np.minimum(distances, ((points - points[pick]) ** 2).sum(axis=1))
    labels = np.zeros(len(points), dtype=np.intp)
    for _ in range(rounds):
        squared = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
        fresh = squared.argmin(axis=1)
        if (fresh == labels).all():
            break
        labels = fresh
        for cluster in range(count):
            members = points[labels == cluster]
            if len(members):
                centres[cluster] = members.mean(axis=0)
    return labels


def sharpness(grey: Floats) -> float:
    """Standard deviation of the Laplacian: high where edges are crisp, low where the picture is blurred."""
    if min(grey.shape) < 3:
        return 0.0
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.std())


def colourfulness(rgb: Floats) -> float:
    """The measure of Hasler and Süsstrunk (2003): 0 is grey, above 80 is very colourful."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    one, two = red - green, (red + green) / 2 - blue
    return float(np.hypot(one.std(), two.std()) + 0.3 * np.hypot(one.mean(), two.mean()))
