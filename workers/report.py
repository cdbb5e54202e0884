"""The report: one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
from pydantic import BaseModel

from avtomatika import Worker

worker = Worker(worker_type="image_worker", max_concurrent_tasks=1)

INLINE_UP_TO = 120  # photos; a page with more of them inside would be slow to open, so it points to the thumbnails


class ReportParams(BaseModel):
    output: Path
    photos: list[dict[str, Any]]
    title: str = "Photo report"
    folder: str = ""
    comparison: dict[str, Any] = {}
    left_out: list[dict[str, str]] = []
    work: list[dict[str, Any]] = []
    graphs: list[dict[str, Any]] = []
    contact_sheet: Path | None = None
    started_at: float = 0.0
    run: str = ""


@worker.task("write_report", task_type="cpu")
def write_report(params: ReportParams) -> dict[str, Any]:
    """Writes report.html into the output folder."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["middle"] = middle
    page = templates.get_template("report.html.j2").render(**view(params))
    target = params.output / "report.html"
    params.output.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return {"report": str(target), "report_bytes": target.stat().st_size}


def view(params: ReportParams) -> dict[str, Any]:
    """What the template shows: numbers in words, pictures as data, bars in percent."""
    groups = params.comparison.get("groups") or []
    letters = {index: chr(ord("A") + n % 26) for n, group in enumerate(groups) for index in group}
    nearest = params.comparison.get("nearest") or []
    photos = []
    for index, photo in enumerate(params.photos):
        near = nearest[index] if index < len(nearest) else None
        photos.append(
            {
                **photo,
                "picture": picture(Path(photo["thumbnail"]), params),
                "size": size_in_words(photo["bytes"]),
                "letter": letters.get(index),
                "near": {"name": params.photos[near["index"]]["name"], "score": near["similarity"]} if near else None,
                "bars": bars(photo),
            }
        )
    return {
        "params": params,
        "photos": photos,
        "groups": [{"letter": chr(ord("A") + n % 26), "photos": [photos[i] for i in group]} for n, group in enumerate(groups)],
        "heat": heat(params.comparison.get("similarity"), [photo["name"] for photo in photos]),
        "tiles": tiles(params),
        "work": params.work,
        "graphs": [drawing(graph) for graph in params.graphs],
        "sheet": picture(params.contact_sheet, params) if params.contact_sheet else None,
        "written": time.strftime("%Y-%m-%d %H:%M"),
    }


def picture(path: Path, params: ReportParams) -> str:
    """A picture inside the page, or for a large album the way to it from the page."""
    if len(params.photos) > INLINE_UP_TO or path.suffix == ".png":
        return os.path.relpath(path, params.output).replace(os.sep, "/")
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def tiles(params: ReportParams) -> list[tuple[str, str]]:
    pixels = sum(photo["width"] * photo["height"] for photo in params.photos) / 1e6
    found = [
        (str(len(params.photos)), "photos"),
        (f"{pixels:.1f} MP", "looked at"),
        (size_in_words(sum(photo["bytes"] for photo in params.photos)), "read"),
        (str(sum(row["count"] for row in params.work)), "worker tasks"),
    ]
    if params.started_at:
        found.append((f"{max(0.0, time.time() - params.started_at):.1f} s", "from start to this page"))
    return found


def bars(photo: dict[str, Any]) -> list[dict[str, Any]]:
    """Four measures as bars; the scales are those at which photographs differ."""
    scales = (("sharpness", 60, 1), ("brightness", 1, 2), ("contrast", 0.8, 2), ("colourfulness", 100, 1))
    return [
        {"name": name, "value": f"{photo[name]:.{digits}f}", "percent": min(100, round(100 * photo[name] / full))}
        for name, full, digits in scales
    ]


def heat(similarity: list[list[float]] | None, names: list[str]) -> dict[str, Any] | None:
    """The similarity matrix as cells with an opacity; None where it was too large to send."""
    if not similarity or len(similarity) < 2:
        return None
    return {
        "names": [Path(name).stem for name in names],
        "rows": [[{"value": value, "shade": round(max(0.0, min(1.0, value)) ** 1.6, 3)} for value in row] for row in similarity],
    }


def middle(name: str, room: int) -> str:
    """A name that is too long, without its middle: what tells photos apart is mostly at the end."""
    return name if len(name) <= room else f"{name[: room - room // 2 - 1]}…{name[-(room // 2) :]}"


def size_in_words(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit != "MB" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


NODE_WIDTH, NODE_HEIGHT, GAP, ROW = 132, 44, 58, 108


def drawing(graph: dict[str, Any]) -> dict[str, Any]:
    """A blueprint's graph as boxes and curves: the longest way in one row, endings beside it in the next."""
    states = [state["name"] for state in graph["states"]]
    edges = {(edge["source"], edge["target"]) for edge in graph["transitions"]}
    edges = {(a, b) for a, b in edges if b in states and a != b}
    spine = longest_way(states[0], {state: [b for a, b in sorted(edges) if a == state] for state in states})
    column = {state: spine.index(state) for state in spine}
    beside = [state for state in states if state not in column]
    for state in beside:
        sources = [column.get(a, 0) for a, b in edges if b == state]
        wanted = round(sum(sources) / len(sources)) if sources else 0
        taken = {column[other] for other in beside if other in column}
        column[state] = next(place for place in range(wanted, wanted + len(states) + 1) if place not in taken)
    ends = {state["name"] for state in graph["states"] if state.get("is_end")}
    boxes = {
        state: {
            "name": state,
            "x": 2 + column[state] * (NODE_WIDTH + GAP),
            "y": 22 + (ROW if state in beside else 0),
            "kind": "start" if state == states[0] else "end" if state in ends else "state",
            "aside": state in beside,
        }
        for state in states
    }
    width = max(column.values()) * (NODE_WIDTH + GAP) + NODE_WIDTH + 4
    return {
        "name": graph["name"],
        "boxes": list(boxes.values()),
        "curves": [curve(boxes[a], boxes[b]) for a, b in sorted(edges)],
        "width": width,
        "height": 22 + NODE_HEIGHT + 6 + (ROW if beside else 0),
        "node": (NODE_WIDTH, NODE_HEIGHT),
    }


def longest_way(start: str, following: dict[str, list[str]]) -> list[str]:
    """The longest way through the graph that visits no state twice; of equal ones that to the end which fewer states lead to,
    since many lead to a failure and one to success. Blueprints are small: trying all ways is cheap enough.
    """
    sources = Counter(target for targets in following.values() for target in targets)
    best: list[str] = []
    ways = [[start]]
    for _ in range(20_000):  # a large and dense graph gets a good way, if not the best one
        if not ways:
            break
        way = ways.pop()
        if not best or (len(way), -sources[way[-1]]) > (len(best), -sources[best[-1]]):
            best = way
        ways.extend([*way, state] for state in following.get(way[-1], []) if state not in way)
    return best


def curve(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The path of an arrow, as SVG wants it."""
    half = NODE_HEIGHT / 2
    if a["y"] == b["y"] and 0 < b["x"] - a["x"] <= NODE_WIDTH + GAP:
        d = f"M{a['x'] + NODE_WIDTH},{a['y'] + half} H{b['x'] - 7}"
    elif a["y"] == b["y"]:  # over the boxes in between, forwards or back
        x1, x2, top = a["x"] + NODE_WIDTH / 2, b["x"] + NODE_WIDTH / 2, a["y"]
        d = f"M{x1},{top} C{x1},{top - 26} {x2},{top - 26} {x2},{top - 7}"
    else:
        x1, y1, x2, y2 = a["x"] + NODE_WIDTH / 2, a["y"] + NODE_HEIGHT, b["x"] + NODE_WIDTH / 2, b["y"]
        if b["y"] < a["y"]:
            y1, y2 = a["y"], b["y"] + NODE_HEIGHT + 14
        middle = (y1 + y2) / 2
        d = f"M{x1},{y1} C{x1},{middle + 8} {x2},{middle - 8} {x2},{y2 - 7}"
    return {"d": d, "aside": a["aside"] or b["aside"]}
