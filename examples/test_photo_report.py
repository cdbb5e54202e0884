"""How the example blueprint of the photo report is tested: plain pytest, fake workers, no picture in sight.

pytest examples/test_photo_report.py
"""

import asyncio
import sys
from pathlib import Path

import pytest

from avtomatika.testing import BlueprintHarness, HarnessJob, dies, fails

sys.path.append(str(Path(__file__).resolve().parents[1] / "blueprints"))

from photos import photo_publish, photo_report


def describe(params: dict) -> dict:
    name = Path(params["photo"]).name
    found = {"name": name, "width": 4, "height": 3, "format": "JPEG", "colours": []}
    return {"kind": "description", "index": params["index"], "seconds": 0.1, "worker": "fake", **found}


def resize(params: dict) -> dict:
    return {
        "kind": "thumbnail",
        "index": params["index"],
        "seconds": 0.1,
        "worker": "fake",
        "thumbnail": f"{params['index']}.jpg",
    }


COMPARED = {
    "groups": [],
    "nearest": [],
    "similarity": [],
    "device": "cpu",
    "device_note": "",
    "embedding_length": 8,
    "compute_seconds": 0.1,
    "compare_seconds": 0.2,
    "compared_by": "fake",
}


def report_of(folder: Path, **fakes: object) -> tuple[HarnessJob, list[dict]]:
    """The job over a folder, and what was compared."""

    async def run() -> tuple[HarnessJob, list[dict]]:
        async with BlueprintHarness(photo_report, photo_publish) as harness:
            answers = {
                "describe_image": describe,
                "resize_image": resize,
                "compare_images": COMPARED,
                "compose_sheet": {"contact_sheet": "sheet.png"},
                "write_report": {"report": "report.html"},
                **fakes,
            }
            for task, answer in answers.items():
                harness.worker(task, *(answer if isinstance(answer, list) else [answer]))
            job = await harness.run({"folder": str(folder), "output": "out"})
            return job, harness.calls("compare_images")

    return asyncio.run(run())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.png", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def test_each_photo_is_described_and_resized(folder: Path) -> None:
    job, compared = report_of(folder)

    assert job.path == ["collect", "prepare", "gather", "compare", "publish", "finished"]
    assert job.children[0].path == ["compose", "write", "done"]
    assert (job.result["photos"], job.result["left_out"]) == (2, [])
    assert compared == [{"pictures": ["0.jpg", "1.jpg"]}]


def test_a_photo_that_cannot_be_read_is_left_out(folder: Path) -> None:
    job, compared = report_of(folder, resize_image=lambda params: 1 / 0 if params["index"] else resize(params))

    assert job.status == "finished"
    assert [photo["name"] for photo in job.result["left_out"]] == ["b.png"]
    assert compared == [{"pictures": ["0.jpg"]}]


def test_a_folder_without_photos(tmp_path: Path) -> None:
    job, _ = report_of(tmp_path)

    assert (job.status, job.path) == ("failed", ["collect", "failed"])
    assert "holds no photos" in job.result["problem"]


@pytest.mark.parametrize("faults", [[fails(2)], [dies(1)]])
def test_the_gpu_has_a_bad_day(folder: Path, faults: list) -> None:
    job, compared = report_of(folder, compare_images=[*faults, COMPARED])

    assert job.status == "finished"
    assert len(compared) > 1
