"""How far a job is, read from histories as the engine writes them, and how that is shown."""

from __future__ import annotations

import io

from rich.console import Console

from avtomatika.demo.progress import Outline, read
from avtomatika.demo.view import Lines, Picture

OUTLINE = Outline(
    states=("collect", "prepare", "gather", "compare", "finished", "failed"),
    ends=frozenset({"finished", "failed"}),
    capabilities={"describe_image": "cpu", "resize_image": "cpu", "compare_images": "gpu", "write_report": "cpu"},
)


def event(event_type: str, state: str | None = None, worker_id: str | None = None, **details) -> dict:
    return {"event_type": event_type, "state": state, "worker_id": worker_id, "details": details}


def branch(kind: str, worker: str, status: str = "success") -> dict:
    return event("branch_finished", None, worker, type=kind, status=status)


START = [
    event("job_created", "collect"),
    event("transition", "collect"),
    event("tasks_dispatched", "prepare", count=6, types=["describe_image", "resize_image"]),
]
HALF = [
    *START,
    branch("describe_image", "worker-1@x"),
    branch("describe_image", "worker-2@x"),
    branch("resize_image", "worker-1@x", "failure"),
]
LATE = [
    *HALF,
    event("aggregated", "gather"),
    event("transition", "gather"),
    event("task_dispatched", "compare", type="compare_images"),
]


def job(status: str, state: str, **more) -> dict:
    return {"status": status, "current_state": state, **more}


def counts(progress) -> dict:
    return {task.name: (task.done, task.failed, task.total) for task in progress.tasks}


def marks(progress) -> dict:
    return {state.name: state.mark for state in progress.states}


def test_branches_are_counted_by_task_and_worker() -> None:
    progress = read(OUTLINE, job("waiting_for_parallel_tasks", "prepare"), HALF)
    assert counts(progress)["describe_image"] == (2, 0, 3)
    assert counts(progress)["resize_image"] == (0, 1, 3)
    assert progress.tasks[0].workers == {"worker-1@x": 1, "worker-2@x": 1}
    assert (progress.ended, progress.total) == (3, 6)
    assert marks(progress) == {
        "collect": "done",
        "prepare": "active",
        "gather": "waiting",
        "compare": "waiting",
        "finished": "waiting",
    }


def test_an_attempt_that_is_tried_again_counts_once() -> None:
    failed = event("task_finished", "compare", "w@x", type="compare_images", status="failure")
    again = event("task_retry", "compare", type="compare_images", reason="x")
    done = event("task_finished", "compare", "w@x", type="compare_images", status="success")
    waiting = job("waiting_for_worker", "compare")
    assert counts(read(OUTLINE, waiting, [*LATE, failed, again]))["compare_images"] == (0, 0, 1)
    assert counts(read(OUTLINE, waiting, [*LATE, failed, again, done]))["compare_images"] == (1, 0, 1)


def test_tasks_of_a_child_count_too() -> None:
    child = [event("task_dispatched", "write", type="write_report")]
    progress = read(OUTLINE, job("waiting_for_sub_job", "compare"), LATE, [(job("waiting_for_worker", "write"), child)])
    assert counts(progress)["write_report"] == (0, 0, 1)


def test_the_end_is_marked_as_what_it_is() -> None:
    over = read(OUTLINE, job("finished", "finished", result={"report": "x"}), [*LATE, event("job_finished", "finished")])
    assert over.is_over
    assert set(marks(over).values()) == {"done"}
    assert "failed" not in marks(over)
    bad = read(OUTLINE, job("failed", "failed", error_message="why"), [*LATE, event("job_failed", "failed")])
    assert marks(bad)["failed"] == "failed"
    assert bad.error == "why"
    stuck = read(OUTLINE, job("quarantined", "compare"), LATE)
    assert marks(stuck)["compare"] == "failed"


def test_lines_say_each_change_once() -> None:
    out = io.StringIO()
    view = Lines(Console(file=out, width=80))
    with view:
        view.say("starting")
        for _ in range(3):
            view.show(read(OUTLINE, job("waiting_for_parallel_tasks", "prepare"), START))
        view.show(read(OUTLINE, job("waiting_for_worker", "compare"), LATE))
        view.show(read(OUTLINE, job("finished", "finished"), [*LATE, event("job_finished", "finished")]))
    lines = out.getvalue().splitlines()
    assert [line.split("s  ", 1)[1].split("  ")[0] for line in lines] == ["starting", "● prepare", "● compare", "✔ finished"]
    assert "describe_image 0/3, resize_image 0/3" in lines[1]


def test_the_picture_shows_states_tasks_and_workers() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=140, height=40)
    with Picture(console, "blueprint photo_report") as view:
        view.say("starting Redis")
        view.show(read(OUTLINE, job("waiting_for_parallel_tasks", "prepare"), HALF))
    text = out.getvalue()
    for words in ("photo_report", "collect", "prepare", "describe_image", "2/3", "worker-1: 1, worker-2: 1", "cpu", "gpu"):
        assert words in text
