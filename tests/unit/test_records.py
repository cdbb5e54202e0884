"""The records: what goes into JSON comes out of it unchanged."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import uuid
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avtomatika.errors import RetryPolicyError
from avtomatika.jobs import (
    Approval,
    Client,
    Event,
    FanOut,
    Job,
    JobStatus,
    Message,
    Result,
    ResultError,
    RetryPolicy,
    SubJob,
    TaskInfo,
    Timer,
    WorkerRecord,
    new_id,
)

R = TypeVar("R", Job, TaskInfo, Event, Message, WorkerRecord)

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
objects = st.dictionaries(st.text(), values, max_size=3)
names = st.text(min_size=1)
numbers = st.floats(0, 1e10)
transitions = st.dictionaries(names, names, max_size=3)

results = st.builds(Result, status=names, data=objects, error=st.none() | st.builds(ResultError, names, st.text()))
policies = st.builds(
    RetryPolicy,
    max_attempts=st.none() | st.integers(1, 10),
    backoff_seconds=st.none() | numbers,
    max_backoff_seconds=numbers,
    jitter=st.floats(0, 1),
    retry_on=st.none() | st.lists(names, max_size=3),
    then=st.sampled_from(["quarantine", "failure"]),
)
tasks = st.builds(
    TaskInfo,
    id=names,
    job_id=names,
    type=names,
    params=objects,
    transitions=transitions,
    attempt=st.integers(1, 100),
    branch=st.none() | st.integers(0, 1000),
    queue=st.none() | st.text(),
    timeout_seconds=st.none() | numbers,
    retries=policies,
    resource_requirements=st.none() | objects,
    tracing_context=objects,
)
waits = st.one_of(
    st.none(),
    tasks,
    st.builds(FanOut, id=names, aggregate_into=names, total=st.integers(0, 1000)),
    st.builds(SubJob, job_id=names, blueprint_name=names, transitions=transitions),
    st.builds(
        Approval, id=names, integration=names, message=st.text(), transitions=transitions, token_hash=names, asked_at=numbers
    ),
)
jobs = st.builds(
    Job,
    id=names,
    blueprint_name=names,
    current_state=names,
    status=st.sampled_from(JobStatus),
    version=st.integers(0, 2**31),
    initial_data=objects,
    state_history=objects,
    client=st.builds(Client, name=st.text(), plan=st.text(), role=st.text(), admin=st.booleans(), params=objects),
    tags=st.lists(names, max_size=3).map(tuple),
    waiting=waits,
    result=values,
    error_message=st.none() | st.text(),
    parent_job_id=st.none() | names,
    child_job_ids=st.lists(names, max_size=3).map(tuple),
)


def through_json(record: R) -> R:
    return type(record).from_dict(json.loads(json.dumps(record.to_dict())))


@given(jobs)
def test_a_job_survives_json(job: Job) -> None:
    assert through_json(job) == job


@given(tasks)
def test_a_task_survives_json(task: TaskInfo) -> None:
    assert through_json(task) == task


@given(results)
def test_a_result_survives_json(result: Result) -> None:
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@pytest.mark.parametrize(
    "record",
    [
        Event("j:3:0", "j", "task_dispatched", 12.5, "start", "next", "t", "w@host", 2, 17.25, {"why": "x"}),
        Message("cpu.resize", "[]", {"id": "t"}, {"reply_to": "x"}, priority=7, key="step:j"),
        WorkerRecord("w@host", "boot", supported_tasks=("a", "b"), capabilities={"gpu": 1}, load={"gpu": 1}, hot_cache=("m",)),
    ],
    ids=lambda record: type(record).__name__,
)
def test_the_others_survive_json(record: Any) -> None:
    assert through_json(record) == record


@given(names.filter(lambda kind: "|" not in kind), st.text(), numbers)
def test_a_timer_is_found_again_by_its_member(kind: str, key: str, due: float) -> None:
    timer = Timer(kind, key, due)

    assert Timer.from_member(timer.member, due) == timer


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Job("j", "b", "start").status = JobStatus.FINISHED  # type: ignore[misc]


def test_the_terminal_statuses() -> None:
    terminal = {status.value for status in JobStatus if status.is_terminal}

    assert terminal == {"finished", "failed", "cancelled", "quarantined"}


@given(tasks)
def test_the_next_attempt_has_a_new_id_and_the_same_work(task: TaskInfo) -> None:
    again = task.again(now=5.0)

    assert again.id != task.id
    assert again.attempt == task.attempt + 1
    assert again.deaths == task.deaths
    assert dataclasses.replace(again, id=task.id, attempt=task.attempt, created_at=task.created_at) == task


def test_a_death_is_counted_apart() -> None:
    task = TaskInfo("t", "j", "resize", {}, {})

    assert task.again(died=True).deaths == 1


@pytest.mark.parametrize(("queue", "plain"), [(None, False), ("", True), ("fleet", True)])
def test_a_task_with_a_queue_is_a_plain_one(queue: str | None, plain: bool) -> None:
    assert TaskInfo("t", "j", "resize", {}, {}, queue=queue).is_plain is plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, Result("success")),
        (3, Result("success", {"result": 3})),
        ([1, 2], Result("success", {"result": [1, 2]})),
        ({"width": 3}, Result("success", {"width": 3})),
        ({"status": "needs_review", "data": {"why": "blurred"}}, Result("needs_review", {"why": "blurred"})),
        ({"status": "shipped", "order": 7}, Result("success", {"status": "shipped", "order": 7})),
        ({"status": 200}, Result("success", {"status": 200})),
        ({"status": "failure", "error": "no disk"}, Result("failure", {}, ResultError("", "no disk"))),
        (
            {"status": "failure", "error": {"code": "PERMANENT_ERROR", "message": "no"}},
            Result("failure", {}, ResultError("PERMANENT_ERROR", "no")),
        ),
        ({"status": "success", "data": [1]}, Result("success", {"result": [1]})),
        (Result("success", {"a": 1}), Result("success", {"a": 1})),
    ],
)
def test_what_a_handler_returns_becomes_an_envelope(value: Any, expected: Result) -> None:
    assert Result.from_value(value) == expected


@pytest.mark.parametrize(
    ("bad", "fix"),
    [
        ({"then": "retry"}, "'quarantine' or 'failure', not 'retry'"),
        ({"max_attempts": 0}, "at least 1, not 0"),
        ({"max_attempts": True}, "a whole number"),
        ({"max_attempts": 2.5}, "a whole number"),
        ({"backoff_seconds": -1}, "0 or more, not -1"),
        ({"backoff_seconds": "2"}, "a number of seconds"),
        ({"max_backoff_seconds": float("inf")}, "a number of seconds"),
        ({"max_backoff_seconds": None}, "a number of seconds"),
        ({"jitter": 1.5}, "from 0 (none) to 1, not 1.5"),
        ({"retry_on": "TRANSIENT_ERROR"}, "a list of codes"),
        ({"retry_on": 3}, "a list of codes"),
        ({"retry_on": [""]}, "codes, which are texts"),
        ({"retry_on": ["INVALID_INPUT_ERROR"]}, "fails the job at once"),
    ],
)
def test_a_retry_policy_refuses_nonsense(bad: dict[str, Any], fix: str) -> None:
    with pytest.raises(ValueError, match=rf"RetryPolicy\.{next(iter(bad))} .*{re.escape(fix)}"):
        RetryPolicy(**bad)


def test_what_is_refused_crosses_celery() -> None:
    with pytest.raises(RetryPolicyError) as caught:
        RetryPolicy(jitter=2)

    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_id_is_a_uuid_of_version_4_as_uuid_writes_it() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    for made in ids:
        read = uuid.UUID(made)
        assert (str(read), read.version, read.variant) == (made, 4, uuid.RFC_4122)
    assert {made[19] for made in ids} == set("89ab")
