"""The blueprint `photo_report` with its real workers, driven by hand: no broker, no store, every handler and task for real."""

from __future__ import annotations

import json
import re
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from avtomatika import TaskError
from avtomatika.blueprint.actions import DispatchParallel, DispatchTask, RunBlueprint, TransitionTo
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.blueprint.context import JobContext
from avtomatika.worker.sdk import TaskDeclaration

ENDS = {"finished", "failed", "done"}


class Hand:
    """Does what the engine does, one thing after the other: JSON in, JSON out."""

    def __init__(self, blueprints: ModuleType, *workers: ModuleType) -> None:
        self.blueprints = {b.name: b for b in vars(blueprints).values() if isinstance(b, Blueprint)}
        self.tasks: dict[str, TaskDeclaration] = {}
        for module in workers:
            self.tasks.update(module.worker.tasks)
        self.states: list[str] = []

    async def run(self, name: str, initial_data: dict[str, Any]) -> Any:
        blueprint = self.blueprints[name]
        context = JobContext("job-1", blueprint.start_state, initial_data=_json(initial_data))
        results: dict[str, Any] | None = None
        while True:
            self.states.append(context.current_state)
            context = JobContext(
                "job-1",
                context.current_state,
                initial_data=context.initial_data,
                state_history=_json(context.state_history),
                aggregation_results=results,
            )
            handler = blueprint.select(context) if results is None else blueprint.aggregator(context.current_state)
            results = None
            value = await handler.call(context)
            match context.actions.action:
                case None:
                    assert handler.is_end
                    return _json(value)
                case TransitionTo(state):
                    context.current_state = state
                case DispatchTask() as action:
                    self.follow(context, self.do(action), action.transitions)
                case DispatchParallel() as action:
                    results = {f"task-{n}": self.do(task) for n, task in enumerate(action.tasks)}
                    context.current_state = action.aggregate_into
                case RunBlueprint() as action:
                    child = await self.run(action.blueprint_name, action.initial_data)
                    self.follow(context, {"status": "success", "data": child}, action.transitions)

    def do(self, action: DispatchTask) -> dict[str, Any]:
        task = self.tasks[action.type]
        try:
            data = task.func(**task.arguments(_json(action.params), {"worker_id": "hand", "task_id": "t", "job_id": "j"}))
        except TaskError as exc:
            return {"status": "failure", "data": {}, "error": {"code": exc.code, "message": str(exc)}}
        return {"status": "success", "data": _json(data)}

    @staticmethod
    def follow(context: JobContext, result: dict[str, Any], transitions: dict[str, str]) -> None:
        context.state_history.update(result["data"])
        context.current_state = transitions[result["status"]]


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.fixture
def hand(photos_blueprints, images, compare, sheet, report) -> Hand:
    return Hand(photos_blueprints, images, compare, sheet, report)


async def test_a_folder_becomes_a_sheet_and_a_report(hand, report, samples, tmp_path) -> None:
    output = tmp_path / "out"
    result = await hand.run("photo_report", {"folder": str(samples[0].parent), "output": str(output)})

    assert hand.states == ["collect", "prepare", "gather", "compare", "publish", "compose", "write", "done", "finished"]
    assert result["photos"] == len(samples)
    assert result["left_out"] == []
    with Image.open(output / "contact-sheet.png") as image:
        assert image.width > 1000
    page = (output / "report.html").read_text()
    for photo in samples:
        assert page.count(photo.name) >= 2
        assert f"· {report.size_in_words(photo.stat().st_size)}</div>" in page
    assert page.count("data:image/jpeg;base64,") >= len(samples)
    assert not re.search(r'(src|href)="https?:', page)
    assert result["device_note"] in page
    assert "job-1" in page
    assert 'aria-label="States of photo_report"' in page
    assert "resize_image" in page
    assert "on hand" in page


async def test_a_large_album_takes_the_other_branch(hand, samples, tmp_path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    with Image.open(samples[0]) as image:
        small = image.resize((300, 200))
    for number in range(61):
        small.save(folder / f"{number:03d}.png")
    output = tmp_path / "out"
    await hand.run("photo_report", {"folder": str(folder), "output": str(output), "limit": 500})
    thumbnails = list((output / "thumbnails").iterdir())
    assert len(thumbnails) == 61
    with Image.open(thumbnails[0]) as image:
        assert image.size == (240, 160)


async def test_photos_that_cannot_be_read_are_left_out_and_named(hand, samples, tmp_path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.png").write_bytes(samples[0].read_bytes())
    (folder / "bad.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("no photo at all")
    result = await hand.run("photo_report", {"folder": str(folder), "output": str(tmp_path / "out")})
    assert result["photos"] == 1
    assert [item["name"] for item in result["left_out"]] == ["bad.jpg"]
    assert "not a readable picture" in result["left_out"][0]["reason"]
    assert "not a readable picture" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("files", "problem"),
    [(None, "is not a folder"), ({}, "holds no photos"), ({"a.png": "x", "b.jpg": "y"}, "none of the photos could be read")],
)
async def test_what_cannot_work_fails_with_a_reason(hand, tmp_path, files, problem) -> None:
    folder = tmp_path / "photos"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    result = await hand.run("photo_report", {"folder": str(folder), "output": str(tmp_path / "out")})
    assert hand.states[-1] == "failed"
    assert problem in result["problem"]


async def test_what_lies_beyond_the_limit_is_said(hand, samples, tmp_path) -> None:
    result = await hand.run("photo_report", {"folder": str(samples[0].parent), "output": str(tmp_path), "limit": 3})
    assert result["photos"] == 3
    assert f"{len(samples) - 3} photos beyond the limit" in (tmp_path / "report.html").read_text()


async def test_names_are_escaped_in_the_report(hand, samples, tmp_path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "<b>&'x'.png").write_bytes(samples[0].read_bytes())
    await hand.run("photo_report", {"folder": str(folder), "output": str(tmp_path / "out"), "title": "<script>"})
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>" not in page
    assert "<b>&'x'" not in page
    assert "&lt;b&gt;" in page


def test_the_blueprints_are_sound_and_their_tasks_are_declared(hand) -> None:
    for blueprint in hand.blueprints.values():
        report = blueprint.check(frozenset(hand.tasks))
        assert not report.errors
        assert not report.warnings
    assert set(hand.blueprints["photo_report"].task_names) == {"describe_image", "resize_image", "compare_images"}


def test_the_demo_knows_the_states_and_tasks_that_there_are(hand) -> None:
    from avtomatika.demo.run import OUTLINE

    report = hand.blueprints["photo_report"]
    assert set(OUTLINE.states) == set(report.states)
    assert OUTLINE.ends == report.end_states
    assert {name: task.capability for name, task in hand.tasks.items()} == OUTLINE.capabilities
