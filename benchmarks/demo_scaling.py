"""The same blueprint, twice as many workers: the demo's job with one and with two worker processes, in turn, and the ratio.

The work is real and CPU-bound, one core a worker process, so the ratio can only be near 2 where two cores are free; Redis, the
orchestrator and the facade want a little of them, too. What does not scale is part of the measured time: starting the job, the
comparison, the contact sheet and the report.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
from pathlib import Path

from avtomatika.demo.run import Options, run_demo
from avtomatika.demo.samples import photographs
from avtomatika.demo.view import Silent


def make_album(folder: Path, photos: int, megapixels: float) -> None:
    """Photographs of the size that cameras make, from the samples: enlarged, and no two alike."""
    from PIL import Image

    sources = list(photographs().values())
    for number in range(photos):
        with Image.open(sources[number % len(sources)]) as image:
            picture = image.convert("RGB")
        crop = number // len(sources) * 8
        picture = picture.crop((crop, crop, picture.width, picture.height))
        scale = (megapixels * 1e6 / (picture.width * picture.height)) ** 0.5
        size = (round(picture.width * scale), round(picture.height * scale))
        picture.resize(size, Image.Resampling.BICUBIC).save(folder / f"photo-{number:03d}.jpg", quality=90)


async def seconds(folder: Path, output: Path, workers: int) -> float:
    return (await run_demo(Options(folder, output, workers), Silent())).seconds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=32)
    parser.add_argument("--megapixels", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args(arguments)
    took: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="avtomatika-bench-") as place:
        album = Path(place) / "album"
        album.mkdir()
        make_album(album, asked.photos, asked.megapixels)
        for _ in range(asked.rounds):
            for workers in took:  # in turn, so that a busy spell of the machine meets both
                took[workers].append(asyncio.run(seconds(album, Path(place) / f"out-{workers}", workers)))
    one, two = statistics.median(took[1]), statistics.median(took[2])
    print(
        f"demo, {asked.photos} photos of {asked.megapixels:g} MP, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(f"  1 worker process    {one:6.2f} s   {[round(t, 2) for t in took[1]]}")
    print(f"  2 worker processes  {two:6.2f} s   {[round(t, 2) for t in took[2]]}")
    print(f"  ratio {one / two:.2f}")


if __name__ == "__main__":
    main()
