"""What a running operation says and is told."""

from __future__ import annotations

import threading
import time

import pytest

from avtomatika.jobs import Client
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import CredentialEntry, OperationsConfig, PolicyEntry
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.policy import permit_of
from avtomatika.operations.types import TaskStatus


def a_context(config: OperationsConfig | None = None, **fields: object) -> OperationContext:
    config = config or OperationsConfig(policy={"default": PolicyEntry(name="default")})
    return OperationContext("scp_upload", {"host": "a"}, permit_of(Client(), "operation", config), **{"job_id": "j", **fields})


def test_progress_never_goes_back_and_is_told_once() -> None:
    op = a_context()
    assert op.take_report() is None

    op.progress(0.5, "half", TaskStatus.UPLOADING)
    op.progress(0.2)
    report = op.take_report()

    assert report is not None
    assert (report.progress, report.step, report.status) == (0.5, "half", TaskStatus.UPLOADING)
    assert op.take_report() is None
    op.progress(7)
    report = op.take_report()
    assert report is not None
    assert (report.progress, report.step) == (1.0, "half")


def test_a_line_alone_does_not_repeat_the_progress() -> None:
    op = a_context()
    op.log("one\ntwo")
    report = op.take_report()
    assert report is not None
    assert report.progress is None
    assert [text for _, text in report.lines] == ["one", "two"]


def test_a_flood_of_lines_loses_its_oldest() -> None:
    op = a_context()
    for number in range(1500):
        op.log(str(number))
    report = op.take_report()
    assert report is not None
    assert [text for _, text in report.lines][::999] == ["500", "1499"]


def test_a_stop_is_seen_at_the_next_checkpoint_and_the_first_reason_counts() -> None:
    op, called = a_context(), []
    op.checkpoint()
    with op.on_stop(lambda: called.append(1)):
        op.stop(StopReason.PAUSE)
        op.stop(StopReason.CANCEL)
    assert called == [1]
    with pytest.raises(OperationStopped) as stopped:
        op.checkpoint()
    assert stopped.value.reason is op.stop_reason is StopReason.PAUSE
    with pytest.raises(OperationStopped), op.on_stop(lambda: called.append(2)):
        raise AssertionError("a block that begins after the stop is not run")


def test_a_callback_that_fails_hides_no_other_one() -> None:
    op, called = a_context(), []

    def fail() -> None:
        raise OSError("closed already")

    with op.on_stop(fail), op.on_stop(lambda: called.append(1)):
        op.stop(StopReason.CANCEL)
    assert called == [1]


def test_a_wait_ends_with_the_stop() -> None:
    op = a_context()
    threading.Timer(0.05, op.stop, [StopReason.SHUTDOWN]).start()
    began = time.monotonic()
    with pytest.raises(OperationStopped):
        op.wait(60)
    assert time.monotonic() - began < 30


def test_the_key_is_that_of_the_work_and_not_of_the_attempt() -> None:
    first, again = a_context(task_id="1", attempt=1), a_context(task_id="2", attempt=2)
    assert first.key == again.key != a_context(job_id="other").key


def test_a_deadline_bounds_what_it_may_wait() -> None:
    assert a_context().seconds_left() is None
    assert a_context().seconds_left(5) == 5
    op = a_context(seconds=1)
    assert 0 < (op.seconds_left(60) or 0) <= 1


def test_a_credential_is_resolved_when_it_is_asked_for_and_masked_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OperationsConfig(
        credentials={"deploy": CredentialEntry(name="deploy", username="d", password_env="DEPLOY_PASSWORD")},
        policy={"default": PolicyEntry(name="default", credentials=("*",))},
    )
    op = a_context(config)
    with pytest.raises(OperationError, match="DEPLOY_PASSWORD is not set") as refused:
        op.credential("deploy")
    assert refused.value.code is TaskErrorCode.CONFIGURATION_ERROR

    monkeypatch.setenv("DEPLOY_PASSWORD", "s3cret-of-deploy")
    found = op.credential("deploy")

    assert found.password == "s3cret-of-deploy"
    assert "s3cret" not in repr(found)
    op.log("logged in with s3cret-of-deploy")
    report = op.take_report()
    assert report is not None
    assert report.lines[0][1] == "logged in with ***"
    assert op.mask.json({"a": ["s3cret-of-deploy", 1]}) == {"a": ["***", 1]}


def test_an_unknown_credential_is_told() -> None:
    with pytest.raises(OperationError, match=r"\[credentials.nobody\]"):
        a_context().credential("nobody")
