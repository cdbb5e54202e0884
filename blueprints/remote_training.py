"""Operations as steps: a folder goes to a GPU box, a command runs on it there, and what the command has made comes back.

It needs workers of the capability `ssh`, the box in OPERATIONS_CONFIG_PATH, and a policy: docs/operations-blueprints.md has one.
"""

from __future__ import annotations

from typing import Any

from avtomatika import ActionFactory, Blueprint, RetryPolicy

remote_training = Blueprint("remote_training", api_version="v1", api_endpoint="/remote-training")

# A transfer goes on where it was cut: patience costs little. Both take the `failure` transition in the end, so that the process
# tidies up; without `then`, an operator would find the job in quarantine.
TRANSFER = RetryPolicy(max_attempts=4, then="failure")
# A training that has begun is not begun again by itself.
ONCE = RetryPolicy(max_attempts=1, then="failure")

REMOTE_ROOT = "/srv/jobs"


@remote_training.handler_for("upload", is_start=True)
async def upload(
    state_history: dict[str, Any], actions: ActionFactory, job_id: str, host: str, folder: str, remote_root: str = REMOTE_ROOT
) -> None:
    """The folder becomes a working directory of this job's own."""
    state_history["work"] = f"{remote_root}/{job_id}"
    actions.dispatch_task(
        "scp_upload",
        {"host": host, "source_path": folder, "destination_path": state_history["work"], "recursive": True},
        transitions={"success": "train", "failure": "give_up", "timeout": "give_up"},
        timeout_seconds=3600,
        retries=TRANSFER,
    )


@remote_training.handler_for("train")
async def train(
    state_history: dict[str, Any], actions: ActionFactory, host: str, work: str, command: list[str], seconds: float = 3600
) -> None:
    """Each line that the command writes is a line of the job's log at once. It leaves what it makes in `result/`."""
    state_history["uploaded_bytes"] = state_history["bytes_transferred"]
    actions.dispatch_task(
        "ssh_execute",
        {"host": host, "command": command, "cwd": work, "timeout": seconds, "idempotent": False},
        transitions={"success": "download", "failure": "give_up", "timeout": "give_up"},
        timeout_seconds=seconds + 60,
        retries=ONCE,
    )


@remote_training.handler_for("download")
async def download(actions: ActionFactory, host: str, work: str, output: str) -> None:
    actions.dispatch_task(
        "scp_download",
        {"host": host, "source_path": f"{work}/result", "destination_path": output, "recursive": True, "checksum": True},
        transitions={"success": "tidy", "failure": "give_up", "timeout": "give_up"},
        timeout_seconds=3600,
        retries=TRANSFER,
    )


@remote_training.handler_for("tidy")
async def tidy(state_history: dict[str, Any], actions: ActionFactory, host: str, work: str) -> None:
    """The result is here by now: what cannot be tidied up is no reason to fail."""
    state_history["trained"] = {name: state_history[name] for name in ("exit_code", "stdout", "truncated")}
    state_history["downloaded_files"] = state_history["files_transferred"]
    remove(actions, host, work, "finished")


@remote_training.handler_for("give_up")
async def give_up(state_history: dict[str, Any], actions: ActionFactory, host: str, work: str) -> None:
    """Why it failed is kept before the next task's answer takes its place."""
    code = state_history.get("error_code", "TIMEOUT")
    state_history["problem"] = {"error_code": code, "details": state_history.get("error_details")}
    remove(actions, host, work, "failed")


def remove(actions: ActionFactory, host: str, work: str, then: str) -> None:
    """Takes the working directory away, and goes on whatever comes of it."""
    actions.dispatch_task(
        "ssh_execute",
        {"host": host, "command": ["rm", "-rf", "--", work]},
        transitions=dict.fromkeys(("success", "failure", "timeout"), then),
        timeout_seconds=120,
        retries=RetryPolicy(max_attempts=2, then="failure"),
    )


@remote_training.handler_for("finished", is_end=True)
async def finished(state_history: dict[str, Any], output: str) -> dict[str, Any]:
    return {
        "output": output,
        "files": state_history["downloaded_files"],
        "uploaded_bytes": state_history["uploaded_bytes"],
        "stdout": state_history["trained"]["stdout"],
    }


@remote_training.handler_for("failed", is_end=True)
async def failed(problem: dict[str, Any]) -> dict[str, Any]:
    return problem
