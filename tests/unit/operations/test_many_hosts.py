"""One operation on many hosts: in batches, up to the point where too many have failed, and again on those alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avtomatika.errors import WrongStateError
from avtomatika.jobs import FanOut, JobStatus
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, PolicyError
from avtomatika.operations.hosts import MAX_RESULT, batches, bounded, reason_to_stop, row_of
from avtomatika.operations.types import TaskStatus
from tests.support.queue import ACME, CONFIG, QueueMachine, failing, ok

HOSTS = [f"h{number}" for number in range(10)]


@pytest.mark.parametrize(
    ("serial", "sizes"),
    [
        (None, [10]),
        (4, [4, 4, 2]),
        ("30%", [3, 3, 3, 1]),
        ("1%", [1] * 10),
        ("100%", [10]),
        ([1, "20%", 5], [1, 2, 5, 2]),
        (99, [10]),
    ],
)
def test_batches(serial: Any, sizes: list[int]) -> None:
    found = batches(HOSTS, serial)

    assert [len(batch) for batch in found] == sizes
    assert [host for batch in found for host in batch] == HOSTS


ROWS = [{"status": "failed"}, {"status": "completed"}, {"status": "completed"}, {"status": "timeout"}]


@pytest.mark.parametrize(
    ("spread", "rows", "last", "stops"),
    [
        ({}, ROWS, False, False),
        ({}, ROWS[:1], False, True),  # all of the batch
        ({}, ROWS[:1], True, False),  # nothing is left to be stopped
        ({"max_fail_percentage": 50.0}, ROWS, False, False),
        ({"max_fail_percentage": 49.9}, ROWS, False, True),
        ({"max_fail_percentage": 0.0}, ROWS[1:3], False, False),
        ({"any_errors_fatal": True}, ROWS, True, True),
        ({"any_errors_fatal": True}, ROWS[1:3], False, False),
    ],
)
def test_when_no_further_batch_begins(spread: dict[str, Any], rows: list[dict[str, Any]], last: bool, stops: bool) -> None:
    assert (reason_to_stop(spread, rows, last=last) is not None) is stops


def test_a_long_result_is_shortened() -> None:
    small = {"exit_code": 0, "stdout": "x"}
    assert bounded(small) is small
    shortened = bounded({"exit_code": 0, "stdout": "a" * 50_000 + "the end", "lines": ["b" * 50_000]})
    assert (shortened["exit_code"], shortened["shortened"]) == (0, True)
    assert shortened["stdout"].startswith("aaa")
    assert shortened["stdout"].endswith("the end")
    assert len(str(shortened)) < 2 * MAX_RESULT
    row = row_of({"status": "success", "data": {"stdout": "a" * 5000}}, 1, hosts=1000)
    assert len(row["result"]["stdout"]) < 1100


async def test_each_host_has_its_row_and_batches_come_one_after_the_other(tmp_path: Path) -> None:
    machine = await QueueMachine(tmp_path).start()

    job = await machine.ran({"hosts": ["h3", "h1", "h2", "h1"], "serial": 2})

    assert job.status is JobStatus.FINISHED
    assert [call["host"] for call in machine.calls] == ["h3", "h1", "h2"]
    assert list(job.result["hosts"]) == ["h3", "h1", "h2"]
    assert job.result["hosts"]["h2"] == {"status": "completed", "batch": 2, "result": {"host": "h2", "reachable": True}}
    assert job.result["summary"] == {"total": 3, "succeeded": 3, "failed": 0, "skipped": 0, "stopped": None}


async def test_forks_bound_how_many_run_at_once(tmp_path: Path) -> None:
    machine = await QueueMachine(tmp_path).start()
    task_id = await machine.push({"group": "all", "forks": 3})
    await machine.deliver(machine.queue.pop(0))  # the step that fans out

    assert len(machine.queue) == 3
    assert (await machine.job(task_id)).waiting.max_concurrency == 3  # type: ignore[union-attr]
    await machine.drive()
    assert len(machine.calls) == 10
    assert (await machine.job(task_id)).status is JobStatus.FINISHED


async def test_a_retry_runs_those_that_have_not_succeeded(tmp_path: Path) -> None:
    bad = {"h1", "h4"}
    machine = await QueueMachine(tmp_path, lambda **params: failing() if params["host"] in bad else ok(**params)).start()
    job = await machine.ran({"hosts": HOSTS[:6], "serial": "50%"})

    assert job.status is JobStatus.FAILED
    queue = machine.queue_of()
    task = await queue.find(job.id)
    assert (task.status, task.error_code, task.progress) == (TaskStatus.FAILED, "NETWORK_CONNECTION_FAILED", 99)
    assert task.error == "2 of 6 hosts failed; first: cannot connect"
    assert task.error_details is not None
    assert list(task.error_details["failed_hosts"]) == ["h1", "h4"]
    assert task.result["hosts"]["h4"]["error_details"] == {"port": 1}

    bad.clear()
    machine.calls.clear()
    assert await queue.retry_task(job.id)
    await machine.drive()
    task = await queue.find(job.id)
    assert [call["host"] for call in machine.calls] == ["h1", "h4"]
    assert (task.status, task.error, task.retry_count) == (TaskStatus.COMPLETED, None, 1)
    assert task.result["summary"]["succeeded"] == 6


@pytest.mark.parametrize("options", [{"max_fail_percentage": 40}, {"any_errors_fatal": True}])
async def test_too_many_failures_stop_it_before_the_next_batch(tmp_path: Path, options: dict[str, Any]) -> None:
    machine = await QueueMachine(tmp_path, lambda **params: failing() if params["host"] == "h0" else ok(**params)).start()

    job = await machine.ran({"hosts": HOSTS, "serial": 2, **options})

    assert job.status is JobStatus.FAILED
    assert [call["host"] for call in machine.calls] == ["h0", "h1"]
    assert (job.result["summary"]["failed"], job.result["summary"]["skipped"]) == (1, 8)
    task = await machine.queue_of().find(job.id)
    assert "stopped: 1 of 2 hosts of a batch failed" in (task.error or "")

    machine.calls.clear()
    await machine.queue_of().retry(job.id)  # with what was not reached; the next batch stops it again
    await machine.drive()
    assert [call["host"] for call in machine.calls] == ["h0", "h2"]


async def test_failures_within_the_bound_are_borne(tmp_path: Path) -> None:
    machine = await QueueMachine(tmp_path, lambda **params: failing() if params["host"] == "h0" else ok(**params)).start()

    job = await machine.ran({"hosts": HOSTS, "serial": 5, "max_fail_percentage": 20})

    assert job.status is JobStatus.FINISHED
    assert (job.result["summary"]["failed"], job.result["summary"]["succeeded"]) == (1, 9)


async def test_a_host_is_tried_again_by_itself(tmp_path: Path) -> None:
    seen: list[str] = []

    def once(**params: Any) -> Any:
        seen.append(params["host"])
        return failing(kind="TRANSIENT_ERROR") if seen.count(params["host"]) == 1 and params["host"] == "h2" else ok(**params)

    machine = await QueueMachine(tmp_path, once).start()
    job = await machine.ran({"hosts": ["h1", "h2"]}, max_retries=1)

    assert job.status is JobStatus.FINISHED
    assert sorted(seen) == ["h1", "h2", "h2"]


async def test_a_dry_run_is_the_plan(tmp_path: Path) -> None:
    machine = await QueueMachine(tmp_path).start()

    many = await machine.ran({"group": "odd", "serial": 2, "dry_run": True})
    one = await machine.ran({"host": "h0", "dry_run": True})

    assert machine.calls == []
    assert many.result["plan"] == {
        "task_type": "network_test",
        "params": {"port": 1},
        "batches": [["h1", "h3"], ["h5", "h7"], ["h9"]],
        "forks": 5,
    }
    assert one.result["plan"] == {"task_type": "network_test", "params": {"host": "h0", "port": 1}}


@pytest.mark.parametrize(
    ("params", "code", "said"),
    [
        ({"hosts": []}, TaskErrorCode.VALIDATION_INVALID_PARAMS, "hosts"),
        ({"group": "none"}, TaskErrorCode.VALIDATION_INVALID_PARAMS, "has no hosts"),
        ({"group": "all", "hosts": ["h1"]}, TaskErrorCode.VALIDATION_INVALID_PARAMS, "not both"),
        ({"group": "all", "host": "h1"}, TaskErrorCode.VALIDATION_INVALID_PARAMS, "not both"),
        ({"host": "h1", "forks": 2}, TaskErrorCode.VALIDATION_INVALID_PARAMS, "forks: only where"),
        ({"group": "all", "forks": 0}, TaskErrorCode.VALIDATION_OUT_OF_RANGE, "forks"),
        ({"group": "all", "serial": "120%"}, TaskErrorCode.VALIDATION_INVALID_PARAMS, "serial"),
        ({"group": "all", "max_fail_percentage": 101}, TaskErrorCode.VALIDATION_OUT_OF_RANGE, "max_fail_percentage"),
        ({"group": "all", "port": 0}, TaskErrorCode.VALIDATION_OUT_OF_RANGE, "port"),
        ({"group": "all", "prot": 1}, TaskErrorCode.VALIDATION_INVALID_PARAMS, "prot"),
    ],
)
async def test_what_does_not_fit(tmp_path: Path, params: dict[str, Any], code: TaskErrorCode, said: str) -> None:
    machine = await QueueMachine(tmp_path).start()

    with pytest.raises(OperationError, match=said) as refused:
        await machine.push(params)

    assert refused.value.code is code
    assert await machine.store.count_listed("operation") == 0


@pytest.mark.parametrize("params", [{"hosts": ["h1", "forbidden"]}, {"group": "mixed"}, {"group": "*"}])
async def test_every_host_must_be_allowed(tmp_path: Path, params: dict[str, Any]) -> None:
    machine = await QueueMachine(tmp_path).start()

    with pytest.raises(PolicyError, match="'forbidden'"):
        await machine.push(params)


async def test_progress_goes_over_all_hosts(tmp_path: Path) -> None:
    machine = await QueueMachine(tmp_path).start()
    task_id = await machine.push({"group": "all", "serial": 5, "forks": 5})
    queue, seen = machine.queue_of(), []
    while machine.queue:
        await machine.deliver(machine.queue.pop(0))
        seen.append((await queue.find(task_id)).progress)

    assert seen == sorted(seen)
    assert {0, 50, 100} <= set(seen)
    assert any(50 < progress < 100 for progress in seen)


async def test_a_pause_comes_between_two_batches(tmp_path: Path) -> None:
    machine = await QueueMachine(tmp_path).start()
    task_id = await machine.push({"hosts": HOSTS[:4], "serial": 2})
    await machine.deliver(machine.queue.pop(0))
    await machine.deliver(machine.queue.pop(0))  # the first host runs
    queue = machine.queue_of()

    assert (await queue.pause(task_id)).current_step
    await machine.drive()
    assert (await queue.find(task_id)).status is TaskStatus.PAUSED
    assert [call["host"] for call in machine.calls] == ["h0", "h1"]

    await queue.resume(task_id)
    await machine.drive()
    assert (await queue.find(task_id)).status is TaskStatus.COMPLETED
    assert [call["host"] for call in machine.calls] == HOSTS[:4]


@pytest.mark.parametrize("rows", [0, 2])
async def test_a_batch_that_no_worker_has_begun_is_taken_back(tmp_path: Path, rows: int) -> None:
    """The first one, or a later one."""
    machine = await QueueMachine(tmp_path).start()
    task_id = await machine.push({"hosts": HOSTS[:6], "serial": 2})
    queue = machine.queue_of()
    while len((job := await machine.job(task_id)).state_history.get("rows", {})) < rows or not isinstance(job.waiting, FanOut):
        await machine.deliver(machine.queue.pop(0))

    assert (await queue.pause(task_id)).status is TaskStatus.PAUSED
    await machine.drive()
    assert len(machine.calls) == rows

    assert (await queue.resume(task_id)).status is not TaskStatus.PAUSED
    await machine.drive()
    assert (await queue.find(task_id)).status is TaskStatus.COMPLETED
    assert [call["host"] for call in machine.calls] == HOSTS[:6]


async def test_what_was_done_before_a_cancel_is_shown(tmp_path: Path) -> None:
    machine = await QueueMachine(tmp_path).start()
    task_id = await machine.push({"hosts": HOSTS[:4], "serial": 2})
    while len(machine.calls) < 3:
        await machine.deliver(machine.queue.pop(0))

    task = await machine.queue_of().cancel(task_id)

    assert task.status is TaskStatus.CANCELLED
    assert [row["status"] for row in task.result["hosts"].values()] == ["completed", "completed", "skipped", "skipped"]
    await machine.drive()
    assert len(machine.calls) == 3


async def test_a_task_that_no_client_pushed_is_completed_by_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a schedule makes it, or another blueprint."""
    machine = await QueueMachine(tmp_path).start()
    monkeypatch.setattr("avtomatika.operations.blueprint.get_settings", lambda: machine.settings)

    one = await machine.run("operation", task_type="network_test", params={"host": "h0", "port": 1})
    many = await machine.run("operation", task_type="network_test", params={"hosts": ["h0", "h1"], "port": 1})
    bad = await machine.run("operation", task_type="network_test", params={"host": "h0", "port": 0})

    assert (one.status, one.result) == (JobStatus.FINISHED, {"host": "h0", "reachable": True})
    assert many.result["summary"]["succeeded"] == 2
    assert bad.status is JobStatus.QUARANTINED
    assert "port: Input should be greater than" in (bad.error_message or "")


async def test_a_request_that_is_repeated_is_the_same_one_though_its_group_has_grown(tmp_path: Path) -> None:
    machine = await QueueMachine(tmp_path).start()
    task = {"task_type": "network_test", "params": {"group": "even", "port": 1}}
    first = await machine.service.create("operation", task, client=ACME, idempotency_key="k")
    path = tmp_path / "operations.toml"
    path.write_text(CONFIG + '[hosts.h10]\naddress = "127.0.0.1"\ngroups = ["all", "even"]\n')

    again = await machine.service.create("operation", task, client=ACME, idempotency_key="k")

    assert again.id == first.id
    with pytest.raises(WrongStateError, match="was used for another request"):
        await machine.service.create("operation", {**task, "max_retries": 7}, client=ACME, idempotency_key="k")
