"""A folder of photographs becomes a contact sheet and a report.

Handlers decide, workers work: nothing here opens a picture. What goes to the workers are paths, not pixels, so workers and
orchestrator share a folder (they do on one machine; a fleet would pass URLs of an object store instead).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from avtomatika import ActionFactory, Blueprint

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
LARGE = 60  # photos; a larger album gets smaller thumbnails

photo_report = Blueprint("photo_report", api_version="v1", api_endpoint="/photo-report")
photo_publish = Blueprint("photo_publish")

History = dict[str, Any]
Results = dict[str, dict[str, Any]]


@photo_report.handler_for("collect", is_start=True)
def collect(state_history: History, actions: ActionFactory, folder: str, output: str, limit: int = 500) -> None:
    """Lists the photos. A plain function, since it reads the disk: it runs in a thread and holds nobody up."""
    state_history["started_at"] = time.time()
    place = Path(folder)
    if not place.is_dir():
        state_history["problem"] = f"{folder} is not a folder that the orchestrator can read"
        actions.transition_to("failed")
        return
    photos = sorted(str(file) for file in place.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not photos:
        state_history["problem"] = f"{folder} holds no photos; looked for {', '.join(sorted(SUFFIXES))}"
        actions.transition_to("failed")
        return
    state_history["photos"] = photos[:limit]
    state_history["beyond_limit"] = max(0, len(photos) - limit)
    state_history["album"] = "large" if len(photos[:limit]) > LARGE else "small"
    actions.transition_to("prepare")


@photo_report.handler_for("prepare")
async def prepare(actions: ActionFactory, photos: list[str], output: str) -> None:
    """Two tasks a photo, all at once: whichever workers are free take them."""
    describe = [{"task_type": "describe_image", "params": what} for what in album(photos)]
    resize = [{"task_type": "resize_image", "params": {**what, **small(output, 480)}} for what in album(photos)]
    actions.dispatch_parallel(describe + resize, aggregate_into="gather")


@photo_report.handler_for("prepare").when("context.state_history.album == 'large'")
async def prepare_large(actions: ActionFactory, photos: list[str], output: str) -> None:
    """The same with smaller thumbnails, so that the report of a thousand photos still opens."""
    describe = [{"task_type": "describe_image", "params": what} for what in album(photos)]
    resize = [{"task_type": "resize_image", "params": {**what, **small(output, 240)}} for what in album(photos)]
    actions.dispatch_parallel(describe + resize, aggregate_into="gather")


def album(photos: list[str]) -> list[dict[str, Any]]:
    return [{"photo": photo, "index": index} for index, photo in enumerate(photos)]


def small(output: str, size: int) -> dict[str, Any]:
    return {"output": str(Path(output) / "thumbnails"), "size": size}


@photo_report.aggregator_for("gather")
async def gather(state_history: History, actions: ActionFactory, aggregation_results: Results, photos: list[str]) -> None:
    """Joins both results of each photo. A photo that could not be read is left out, and named."""
    found: dict[int, dict[str, Any]] = {}
    work: dict[str, dict[str, Any]] = {}
    reasons: dict[str, str] = {}
    for result in aggregation_results.values():
        data, error = result.get("data") or {}, result.get("error") or {}
        if result["status"] != "success":
            message = error.get("message") or result["status"]
            reasons[message.split(":")[0]] = message
            continue
        task = {"thumbnail": "resize_image", "description": "describe_image"}[data.pop("kind")]
        count_work(work, task, "cpu", data.pop("seconds"), data.pop("worker"))
        found.setdefault(data["index"], {}).update(data)
    whole = {index: photo for index, photo in found.items() if "thumbnail" in photo and "name" in photo}
    state_history["album_photos"] = [whole[index] for index in sorted(whole)]
    state_history["work"] = list(work.values())
    names = [Path(photo).name for index, photo in enumerate(photos) if index not in whole]
    state_history["left_out"] = [{"name": name, "reason": reasons.get(name, f"{name}: no result")} for name in names]
    if not whole:
        state_history["problem"] = "none of the photos could be read: " + "; ".join(list(reasons.values())[:3])
        actions.transition_to("failed")
    else:
        actions.transition_to("compare")


def count_work(work: dict[str, dict[str, Any]], task: str, capability: str, seconds: float, worker: str) -> None:
    row = work.setdefault(task, {"task": task, "capability": capability, "count": 0, "seconds": 0.0, "workers": {}})
    row["count"] += 1
    row["seconds"] = round(row["seconds"] + seconds, 3)
    row["workers"][worker] = row["workers"].get(worker, 0) + 1


@photo_report.handler_for("compare")
async def compare(actions: ActionFactory, album_photos: list[dict[str, Any]]) -> None:
    """One task on the capability `gpu`. Its worker takes a real GPU where there is one, and says so where there is none."""
    actions.dispatch_task(
        "compare_images",
        {"pictures": [photo["thumbnail"] for photo in album_photos]},
        transitions={"success": "publish", "failure": "failed"},
    )


@photo_report.handler_for("publish")
async def publish(state_history: History, actions: ActionFactory, job_id: str, folder: str, output: str, title: str = "") -> None:
    """A child process makes the two pages of what is known by now."""
    work = {row["task"]: row for row in state_history["work"]}
    count_work(work, "compare_images", "gpu", state_history["compare_seconds"], state_history["compared_by"])
    keys = ("groups", "nearest", "similarity", "device", "device_note", "embedding_length", "compute_seconds")
    left_out = list(state_history["left_out"])
    if beyond := state_history["beyond_limit"]:
        left_out.append({"name": "", "reason": f"{beyond} photos beyond the limit"})
    actions.run_blueprint(
        "photo_publish",
        {
            "title": title or Path(folder).name,
            "folder": folder,
            "output": output,
            "photos": state_history["album_photos"],
            "left_out": left_out,
            "comparison": {key: state_history[key] for key in keys},
            "work": list(work.values()),
            "graphs": [outline(photo_report), outline(photo_publish)],
            "started_at": state_history["started_at"],
            "run": job_id,
        },
        transitions={"success": "finished", "failure": "failed"},
    )


def outline(blueprint: Blueprint) -> dict[str, Any]:
    """The blueprint's own graph, for the report."""
    graph: dict[str, Any] = json.loads(blueprint.graph("json"))
    return graph


@photo_report.handler_for("finished", is_end=True)
async def finished(state_history: History, output: str) -> dict[str, Any]:
    return {
        "contact_sheet": str(Path(output) / "contact-sheet.png"),
        "report": str(Path(output) / "report.html"),
        "photos": len(state_history["album_photos"]),
        "left_out": state_history["left_out"],
        "device_note": state_history["device_note"],
        "seconds": round(time.time() - state_history["started_at"], 2),
    }


@photo_report.handler_for("failed", is_end=True)
async def failed(state_history: History) -> dict[str, Any]:
    """What the folder lacks. Where a task failed instead, the job's error_message says which, and why."""
    return {"problem": state_history.get("problem")}


@photo_publish.handler_for("compose", is_start=True)
async def compose(
    actions: ActionFactory, output: str, title: str, photos: list[dict[str, Any]], comparison: dict[str, Any]
) -> None:
    keys = ("name", "thumbnail", "width", "height", "format", "colours")
    actions.dispatch_task(
        "compose_sheet",
        {
            "output": output,
            "title": title,
            "photos": [{key: photo[key] for key in keys} for photo in photos],
            "groups": comparison["groups"],
        },
        transitions={"success": "write"},
    )


@photo_publish.handler_for("write")
async def write(initial_data: dict[str, Any], actions: ActionFactory, contact_sheet: str) -> None:
    actions.dispatch_task("write_report", {**initial_data, "contact_sheet": contact_sheet}, transitions={"success": "done"})


@photo_publish.handler_for("done", is_end=True)
async def done(contact_sheet: str, report: str) -> dict[str, Any]:
    return {"contact_sheet": contact_sheet, "report": report}
