"""One run of the demo: start a machine, submit one job over HTTP, watch it, say where the result lies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from avtomatika.demo import examples_dir
from avtomatika.demo.client import Client
from avtomatika.demo.machine import DemoError, Machine
from avtomatika.demo.progress import Outline, Progress, read
from avtomatika.demo.samples import copy_samples, require_extra
from avtomatika.demo.view import View

JSON = dict[str, Any]

OUTLINE = Outline(
    states=("collect", "prepare", "gather", "compare", "publish", "finished", "failed"),
    ends=frozenset({"finished", "failed"}),
    capabilities={
        "describe_image": "cpu",
        "resize_image": "cpu",
        "compare_images": "gpu",
        "compose_sheet": "cpu",
        "write_report": "cpu",
    },
)
POLL_SECONDS = 0.2
STALLED_SECONDS = 300.0


@dataclass(frozen=True)
class Options:
    """What the demo is asked to do. Without `folder` it takes the sample photographs."""

    folder: Path | None
    output: Path
    workers: int = 1
    keep: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        seconds: of the job, from its submission to its end; starting the processes is not part of it.
        start_seconds: of starting them.
    """

    job_id: str
    contact_sheet: Path
    report: Path
    device_note: str
    photos: int
    left_out: Sequence[JSON]
    workers: int
    seconds: float
    start_seconds: float

    def to_dict(self) -> JSON:
        return {
            "job_id": self.job_id,
            "contact_sheet": str(self.contact_sheet),
            "report": str(self.report),
            "device_note": self.device_note,
            "photos": self.photos,
            "left_out": list(self.left_out),
            "workers": self.workers,
            "seconds": round(self.seconds, 2),
            "start_seconds": round(self.start_seconds, 2),
        }


async def run_demo(options: Options, view: View) -> Outcome:
    """Runs the blueprint `photo_report` once. Raises DemoError, naming the reason and the log, where it does not finish."""
    require_extra()
    examples = examples_dir()
    output = options.output.resolve()
    initial_data = await asyncio.to_thread(_prepare, options, output)
    began = time.monotonic()
    view.say(f"starting Redis, the orchestrator, the facade and {_workers(options.workers)}")
    async with Machine(examples, options.workers, options.keep) as machine:
        started = time.monotonic()
        view.say(f"ready at {machine.url}, submitting the job")
        async with Client(machine.url, machine.token) as client:
            submitted = time.monotonic()
            job_id = await client.submit("/photo-report", initial_data)
            progress = await _watch(client, machine, job_id, view)
        seconds = time.monotonic() - submitted
        if progress.status != "finished" and _problem(progress) is None:
            why = progress.error or "no reason was given"
            raise DemoError(f"the job {job_id} ended as {progress.status}: {why}; {machine.where_to_look()}")
    if progress.status != "finished":  # decided by the blueprint, which says why; the logs would add nothing
        raise DemoError(str(_problem(progress)))
    return _outcome(job_id, progress, options.workers, seconds, started - began)


def _prepare(options: Options, output: Path) -> JSON:
    """Makes the folders and answers the job's initial data."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        if options.folder is not None:
            return {"folder": str(options.folder.resolve()), "output": str(output)}
        samples = output / "sample-photographs"
        copy_samples(samples)
        return {"folder": str(samples), "output": str(output), "title": "Sample photographs"}
    except OSError as exc:
        raise DemoError(f"{output} cannot be written: {exc.strerror}; choose another folder with --output") from exc


async def _watch(client: Client, machine: Machine, job_id: str, view: View) -> Progress:
    """Follows a job to its end, showing each change."""
    moved, last = time.monotonic(), (-1, "")
    while True:
        try:
            progress, events = await _look(client, job_id)
        except aiohttp.ClientError as exc:
            machine.check()
            if time.monotonic() - moved > 30:
                raise DemoError(f"{machine.url} does not answer ({exc}); {machine.where_to_look()}") from exc
            await asyncio.sleep(POLL_SECONDS)
            continue
        view.show(progress)
        if progress.is_over:
            return progress
        if (events, progress.status) != last:
            moved, last = time.monotonic(), (events, progress.status)
        elif time.monotonic() - moved > STALLED_SECONDS:
            raise DemoError(
                f"nothing has moved for {STALLED_SECONDS:.0f} s; the job is {progress.status}; {machine.where_to_look()}"
            )
        machine.check()
        await asyncio.sleep(POLL_SECONDS)


async def _look(client: Client, job_id: str) -> tuple[Progress, int]:
    """A job's progress, and how many events it and its children have had."""
    # The history first: the record that is read after it is never behind it.
    events = await client.history(job_id)
    job = await client.job(job_id)
    if job["status"] == "finished":
        events = await client.history(job_id)
    children = [(await client.job(child), await client.history(child)) for child in job.get("child_job_ids") or ()]
    return read(OUTLINE, job, events, children), len(events) + sum(len(history) for _, history in children)


def _problem(progress: Progress) -> str | None:
    """What the blueprint itself found wrong with its input."""
    return progress.result.get("problem") if isinstance(progress.result, dict) else None


def _outcome(job_id: str, progress: Progress, workers: int, seconds: float, start_seconds: float) -> Outcome:
    result = progress.result
    outcome = Outcome(
        job_id=job_id,
        contact_sheet=Path(result["contact_sheet"]),
        report=Path(result["report"]),
        device_note=result["device_note"],
        photos=result["photos"],
        left_out=result["left_out"],
        workers=workers,
        seconds=seconds,
        start_seconds=start_seconds,
    )
    missing = [str(path) for path in (outcome.contact_sheet, outcome.report) if not path.is_file()]
    if missing:
        raise DemoError(f"the job finished, but {', '.join(missing)} is not there")
    return outcome


def _workers(count: int) -> str:
    return "one worker process" if count == 1 else f"{count} worker processes"
