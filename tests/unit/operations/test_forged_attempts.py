"""An attempt takes what it does, and by whose right, from the store: whatever its message says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avtomatika.errors import InvalidInputError, TransientError
from avtomatika.jobs import Client, Job, TaskInfo
from avtomatika.operations import Family, OperationContext, Params
from avtomatika.operations.registry import registry
from avtomatika.operations.run import Attempt
from avtomatika.settings import read_settings

CONFIG = """
audit_file = "audit.jsonl"
[hosts.box]
address = "192.0.2.1"
[policy.ops]
operations = ["network_*"]
hosts = ["box"]
[policy.nobody]
operations = ["network_*"]
[policy."blueprint:nightly"]
operations = ["network_test"]
hosts = ["*"]
"""


class Store:
    """Two jobs, and a task of each."""

    def __init__(self) -> None:
        params = {"host": "box", "port": 1}
        self.jobs = {
            "of-ops": Job("of-ops", "operation", "run", client=Client("a", role="ops")),
            "of-nobody": Job("of-nobody", "operation", "run", client=Client("b", role="nobody", params={"role": "ops"})),
            "of-nightly": Job("of-nightly", "nightly", "run", client=Client("b", role="nobody")),
        }
        self.tasks = {f"task-{name}": TaskInfo(f"task-{name}", name, "network_test", params, {}) for name in self.jobs}
        params = {**params, "role": "ops"}
        self.tasks["task-of-nightly"] = TaskInfo("task-of-nightly", "of-nightly", "network_test", params, {})

    async def get_task(self, task_id: str) -> Any:
        info = self.tasks.get(task_id)
        return None if info is None else SimpleNamespace(info=info)

    async def task_progress(self, *_: Any) -> None:
        pass

    async def load(self, job_id: str) -> Job | None:
        return self.jobs.get(job_id)


async def refusal(tmp_path: Path, task_id: str, job_id: str | None, operation: str = "network_test") -> dict[str, Any]:
    """What the audit says last."""
    (tmp_path / "operations.toml").write_text(CONFIG)
    settings = read_settings(operations_config_path=tmp_path / "operations.toml")
    runtime: Any = SimpleNamespace(store=Store(), settings=settings, clock=lambda: 0.0, boot_id="boot")
    with pytest.raises(InvalidInputError):
        await Attempt(runtime, registry().get(operation), task_id, job_id, 1, None).run()
    return json.loads((tmp_path / "audit.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("task_id", "job_id", "operation"),
    [
        ("made-up", "made-up", "network_test"),
        ("made-up", "of-ops", "network_test"),
        ("made-up", None, "network_test"),
        ("task-of-ops", None, "network_test"),
        ("task-of-ops", "made-up", "network_test"),
        ("task-of-nobody", "of-ops", "network_test"),  # one job's task with another one's rights
    ],
)
async def test_a_message_that_fits_no_task_does_nothing(tmp_path: Path, task_id: str, job_id: str | None, operation: str) -> None:
    line = await refusal(tmp_path, task_id, job_id, operation)
    assert (line["event"], line["who"], line["task_id"]) == ("refused", "", task_id)
    assert "runs for a job only" in line["rule"]


async def test_a_task_is_no_other_operation(tmp_path: Path) -> None:
    others = [operation.name for operation in registry() if operation.name != "network_test"]
    for operation in others[:1]:
        line = await refusal(tmp_path, "task-of-ops", "of-ops", operation)
        assert "runs for a job only" in line["rule"]


async def test_a_role_is_the_clients_own(tmp_path: Path) -> None:
    line = await refusal(tmp_path, "task-of-nobody", "of-nobody")
    assert (line["who"], line["role"], "for the role 'nobody'" in line["rule"]) == ("b", "nobody", True)


async def test_a_blueprint_may_have_a_policy_of_its_own(tmp_path: Path) -> None:
    """Its params are its author's: allowed here, and refused for what they are."""
    line = await refusal(tmp_path, "task-of-nightly", "of-nightly")
    assert "role: Extra inputs are not permitted" in line["rule"]
    assert line["error_code"] == "VALIDATION_INVALID_PARAMS"


class Nothing(Params):
    pass


async def test_what_an_unknown_exception_says_is_masked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    family = Family("leaking")

    @family.operation("network_leak")
    def leak(params: Nothing, op: OperationContext) -> dict[str, Any]:
        """Fails as libraries do that know a secret."""
        op.hide("hunter2-hunter2")
        op.progress(0.5)
        try:
            raise ValueError("hunter2-hunter2 was wrong")
        except ValueError as exc:
            raise RuntimeError("cannot log in with hunter2-hunter2") from exc

    (tmp_path / "operations.toml").write_text(CONFIG)
    store = Store()
    store.tasks["task"] = TaskInfo("task", "of-ops", "network_leak", {}, {})
    settings = read_settings(operations_config_path=tmp_path / "operations.toml")
    runtime: Any = SimpleNamespace(store=store, settings=settings, clock=lambda: 0.0, boot_id="boot")
    with pytest.raises(TransientError, match=r"RuntimeError: cannot log in with \*\*\*") as caught:
        await Attempt(runtime, family.operations["network_leak"], "task", "of-ops", 1, None).run()
    assert caught.value.__cause__ is None
    assert "RuntimeError: cannot log in with ***" in caplog.text
    assert "Traceback" in caplog.text
    assert "hunter2-hunter2" not in caplog.text
    last = json.loads((tmp_path / "audit.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["outcome"], last["error_code"]) == ("ended", "failed", "UNKNOWN_ERROR")
