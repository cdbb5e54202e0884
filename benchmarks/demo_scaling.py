"""The same blueprint, twice as many workers: a job with one and with two worker processes, in turn, and the ratio.

Two kinds of work. The demo's is real and CPU-bound, one core a worker process: its ratio can only come near 2 where two cores are
free, and Redis, the orchestrator and the facade want a little of them, too. Tasks that wait for something far away need slots and
no processor: their ratio shows what the orchestration itself costs. In both, what does not scale (starting the job, and for the
demo the comparison, the contact sheet and the report) is part of the measured time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from avtomatika.demo.client import Client
from avtomatika.demo.machine import Machine
from avtomatika.demo.run import Options, run_demo
from avtomatika.demo.samples import photographs
from avtomatika.demo.view import Silent

APP = Path(__file__).parent / "apps" / "waiting"


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


async def demo_seconds(folder: Path, output: Path, workers: int) -> float:
    return (await run_demo(Options(folder, output, workers), Silent())).seconds


async def waiting_seconds(tasks: int, seconds: float, workers: int) -> float:
    async with Machine(APP, workers) as machine, Client(machine.url, machine.token) as client:
        began = time.perf_counter()
        job_id = await client.submit("/waiting", {"tasks": tasks, "seconds": seconds})
        while (job := await client.job(job_id))["status"] != "finished":
            if job["status"] in ("failed", "quarantined"):
                raise SystemExit(f"the job ended as {job['status']}: {job['error_message']}")
            machine.check()
            await asyncio.sleep(0.05)
        return time.perf_counter() - began


def compare(title: str, rounds: int, measure: Callable[[int], float]) -> float:
    """Measures with one and with two worker processes in turn, so that a busy spell of the machine meets both."""
    took: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in took:
            took[workers].append(measure(workers))
    one, two = statistics.median(took[1]), statistics.median(took[2])
    print(f"{title}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"  1 worker process    {one:6.2f} s   {[round(t, 2) for t in took[1]]}")
    print(f"  2 worker processes  {two:6.2f} s   {[round(t, 2) for t in took[2]]}")
    print(f"  ratio {one / two:.2f}")
    return one / two


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=32)
    parser.add_argument("--megapixels", type=float, default=8.0)
    parser.add_argument("--tasks", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=0.25, help="that each waiting task takes")
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args(arguments)
    compare(
        f"{asked.tasks} tasks that wait {asked.seconds:g} s, two slots a worker",
        asked.rounds,
        lambda workers: asyncio.run(waiting_seconds(asked.tasks, asked.seconds, workers)),
    )
    with tempfile.TemporaryDirectory(prefix="avtomatika-bench-") as place:
        album = Path(place) / "album"
        album.mkdir()
        make_album(album, asked.photos, asked.megapixels)
        compare(
            f"the demo, {asked.photos} photos of {asked.megapixels:g} MP, CPU-bound, one core a worker",
            asked.rounds,
            lambda workers: asyncio.run(demo_seconds(album, Path(place) / f"out-{workers}", workers)),
        )


if __name__ == "__main__":
    main()
