"""The checker of whole runs finds what was planted, and finds nothing where all is well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avtomatika.jobs import Event, Job, JobStatus
from tests.support import effects
from tests.support.checker import Evidence, violations
from tests.support.effects import Run

JOB = Job("j", "b", "end", status=JobStatus.FINISHED, version=4)


def event(version: int, event_type: str, number: int = 0, at: float = 10.0, **fields: Any) -> Event:
    return Event(f"j:{version}:{number}", "j", event_type, at, **fields)


EVENTS = (
    event(0, "job_created"),
    event(1, "task_dispatched", task_id="t1", attempt=1),
    event(2, "task_lost", task_id="t1", attempt=1),
    event(3, "task_finished", task_id="t2", attempt=2),
    event(4, "job_finished"),
)
RUNS = (
    Run("j:work", "j", "t1", 1, "w1", 100, 1.0, "gpu", ("api",)),
    Run("j:work", "j", "t2", 2, "w2", 200, 3.0, "gpu", ("api",), 4.0, "done"),
)
GOOD = Evidence(
    accepted={"j"},
    jobs={"j": JOB},
    events={"j": EVENTS},
    stream=EVENTS,
    runs=RUNS,
    leftovers={"outbox": 0},
    slots={"gpu": 1},
    limits={"api": 1},
    died={100: 2.0},
)


def test_a_run_in_which_all_is_well() -> None:
    assert violations(GOOD) == []


def test_a_branch_that_was_given_to_another_worker_holds_its_limit_no_longer() -> None:
    """Its first worker was frozen for so long that it counted as dead, and goes on with it now."""
    frozen = Run("j:work:0", "j", "b1", 1, "w3", 300, 2.0, "gpu", ("api",), 9.0, "done")
    again = Run("j:work:0", "j", "b2", 2, "w4", 400, 6.0, "gpu", ("api",), 7.0, "done")
    lost = event(2, "branch_lost", 1, at=5.0, task_id="b2", attempt=2)
    events = (*EVENTS[:3], lost, *EVENTS[3:])

    evidence = replace(GOOD, events={"j": events}, stream=events, runs=(frozen, again))

    assert violations(evidence) == []
    assert "limit api: 2 runs at once, where 1 may be" in violations(replace(evidence, events={"j": EVENTS}, stream=EVENTS))


def _with_events(*events: Event) -> Evidence:
    return replace(GOOD, events={"j": events}, stream=events)


PLANTED = {
    "a job that is gone": (replace(GOOD, accepted={"j", "k"}), "job k was accepted and is gone"),
    "a job that has not ended": (
        replace(GOOD, jobs={"j": replace(JOB, status=JobStatus.RUNNING)}),
        "job j has not ended: it is running",
    ),
    "two ends": (
        replace(_with_events(*EVENTS, event(5, "job_failed")), jobs={"j": replace(JOB, version=5)}),
        "job j: job_failed after its end",
    ),
    "an end that no event tells": (_with_events(*EVENTS[:-1]), "job j is finished, and no event says so"),
    "two runs of an attempt": (
        replace(GOOD, runs=(*RUNS, replace(RUNS[1], pid=300, began=5.0, ended=6.0))),
        "j:work: attempt t2 ran 2 times",
    ),
    "an attempt under two ids": (
        replace(GOOD, runs=(*RUNS, replace(RUNS[1], task_id="t3", pid=300, began=5.0, ended=6.0))),
        "j:work: attempt 2 ran under 2 ids",
    ),
    "an attempt without a reason": (
        _with_events(EVENTS[0], EVENTS[1], EVENTS[3], EVENTS[4]),
        "j:work: attempt 2 ran, and no event says why there is one",
    ),
    "a result that counts twice": (
        _with_events(*EVENTS[:4], event(3, "task_finished", 1, task_id="t2"), EVENTS[4]),
        "job j: the result of attempt t2 counted 2 times",
    ),
    "a slot over its limit": (
        replace(GOOD, runs=(*RUNS, Run("j:more", "j", "t9", 1, "w2", 200, 3.5, "gpu", (), 3.6, "done"))),
        "gpu of process 200: 2 runs at once, where 1 may be",
    ),
    "a limit over its count": (
        replace(GOOD, runs=(*RUNS, Run("j:more", "j", "t9", 1, "w3", 300, 3.5, "gpu", ("api",), 3.6, "done"))),
        "limit api: 2 runs at once, where 1 may be",
    ),
    "a job that nothing leads on": (replace(GOOD, uncovered=["job j waits for nothing"]), "job j waits for nothing"),
    "something left": (replace(GOOD, leftovers={"outbox": 2}), "2 left in outbox"),
    "a version that goes back": (
        _with_events(EVENTS[0], EVENTS[2], EVENTS[1], EVENTS[3], EVENTS[4]),
        "job j: task_dispatched of version 1 after version 2 of j",
    ),
    "a version that the record has not": (
        replace(GOOD, jobs={"j": replace(JOB, version=3)}),
        "job j is at version 3, and an event tells of 4",
    ),
    "an event that is there twice": (_with_events(*EVENTS[:3], EVENTS[2], *EVENTS[3:]), "job j: event j:2:0 is there 2 times"),
    "a stream that lacks an event": (
        replace(GOOD, stream=EVENTS[:-1]),
        "1 events are in the stream or in a job's list alone, such as j:4:0",
    ),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_violation_is_found(what: str) -> None:
    evidence, sentence = PLANTED[what]

    assert sentence in violations(evidence)


def test_what_is_no_violation() -> None:
    handed_back = replace(RUNS[1], pid=300, began=2.0, ended=2.5, outcome="cancelled")
    frozen = replace(RUNS[0], ended=9.0, outcome="done")  # its worker went on after it was given up at 2.0
    lost = replace(EVENTS[2], timestamp=2.0)
    events = (*EVENTS[:2], lost, *EVENTS[3:])
    evidence = replace(GOOD, runs=(frozen, handed_back, RUNS[1]), events={"j": events}, stream=events)

    assert violations(evidence) == []


def test_a_job_that_was_tried_again_ends_twice() -> None:
    events = (
        *EVENTS[:4],
        event(4, "job_failed"),
        event(5, "job_retried"),
        event(6, "job_finished"),
    )
    evidence = replace(_with_events(*events), jobs={"j": replace(JOB, version=6)})

    assert violations(evidence) == []


def test_a_store_that_may_forget_loses_jobs_and_repeats_attempts() -> None:
    again = replace(RUNS[1], pid=300, began=5.0, ended=6.0)
    anew = replace(RUNS[1], task_id="t3", pid=300, began=7.0, ended=8.0)

    assert violations(replace(GOOD, lossy=True, accepted={"j", "k"}, runs=(*RUNS, again, anew))) == []


def test_the_log_of_effects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "effects"
    monkeypatch.setenv(effects.LOG, str(log))
    fields = {"job_id": "j", "task_id": "t", "attempt": 1, "worker": "w", "slot": "gpu", "limits": ["api"]}

    with effects.effect(token="one", **fields):
        pass
    with pytest.raises(ValueError, match="no"), effects.effect(token="two", **fields):
        raise ValueError("no")
    with pytest.raises(KeyboardInterrupt), effects.effect(token="three", **fields):
        raise KeyboardInterrupt
    effects.append(log, {"event": "begin", "run": "x", "pid": 1, "at": 1.0, "token": "four", **fields})

    runs = effects.read(log)
    assert [(run.token, run.outcome) for run in runs] == [
        ("one", "done"),
        ("two", "raised"),
        ("three", "cancelled"),
        ("four", None),
    ]
    assert runs[0].ended is not None
    assert runs[0].ended >= runs[0].began
    assert runs[3] == Run("four", "j", "t", 1, "w", 1, 1.0, "gpu", ("api",))
