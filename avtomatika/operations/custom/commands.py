"""Programs and scripts on the worker's machine, as far as a policy names them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from avtomatika.errors import ErrorCode
from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.custom.family import family
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.operations.programs import Outcome, bare_environment, run_program
from avtomatika.results import JSON

_SHELL = "/bin/sh"
Word = Annotated[str, Field(max_length=100_000, pattern=r"^[^\x00]*$")]


class _Program(Params):
    """
    Attributes:
        env: of the program, which has nothing of the worker's; each name has to be allowed: it may change what a program does.
        stdin: a text for it.
        ok_codes: exit codes that are no failure.
        output_limit: bytes that are kept of each stream.
    """

    env: dict[str, Word] = Field(default_factory=dict, max_length=100)
    stdin: str = Field("", max_length=1024 * 1024)
    ok_codes: list[int] = Field(default_factory=lambda: [0], max_length=50)
    output_limit: int = Field(256 * 1024, ge=0, le=4 * 1024 * 1024)

    @field_validator("env")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is no name of an environment variable")
        return value


class CustomCommand(_Program):
    """
    Attributes:
        command: a program, found on PATH or named from the root; with `shell` a text for a shell.
        args: its arguments; with `shell` they are ``$1`` and so on.
        shell: needs free_text in the policy.
        cwd: else an empty folder that is removed afterwards.
    """

    command: Word = Field(min_length=1)
    args: list[Word] = Field(default_factory=list, max_length=1000)
    shell: bool = False
    cwd: str | None = None

    @property
    def argv(self) -> list[str]:
        return [_SHELL, "-c", self.command, "sh", *self.args] if self.shell else [self.command, *self.args]


class CustomScript(_Program):
    """
    Attributes:
        script_path: beneath a local root; with its arguments it has to be allowed as a command, too.
        interpreter: else the script is started itself, by its first line.
        working_dir: else an empty folder that is removed afterwards.
    """

    script_path: Word = Field(min_length=1)
    script_args: list[Word] = Field(default_factory=list, max_length=1000)
    interpreter: Word | None = Field(None, min_length=1)
    working_dir: str | None = None

    def argv(self, permit: Permit) -> list[str]:
        script = str(permit.local_path(self.script_path))
        return [*([] if self.interpreter is None else [self.interpreter]), script, *self.script_args]


def _guard(params: _Program, permit: Permit, argv: list[str], cwd: str | None) -> None:
    if "/" in argv[0] and not argv[0].startswith("/"):
        raise permit.refusal(f"the program {argv[0]!r}", "name it from the root, or by its name alone")
    permit.command(argv)
    if cwd is not None:
        permit.local_path(cwd)
    if not permit.entry.free_text:
        for name in params.env:
            permit.matches("env_names", name)


def _guard_command(params: CustomCommand, permit: Permit) -> None:
    if params.shell and not permit.entry.free_text:
        raise permit.refusal("a command for a shell", f"set free_text = true in [policy.{permit.entry.name}], or leave shell out")
    _guard(params, permit, params.argv, params.cwd)


def _guard_script(params: CustomScript, permit: Permit) -> None:
    _guard(params, permit, params.argv(permit), params.working_dir)


@family.operation("custom_command", timeout_seconds=300, max_retries=0, privileged=True, guard=_guard_command)
async def custom_command(params: CustomCommand, op: OperationContext) -> JSON:
    """Runs a program on the worker's machine."""
    return await _run(params, op, params.argv, params.cwd, TaskErrorCode.CUSTOM_COMMAND_FAILED)


@family.operation("custom_script", timeout_seconds=300, max_retries=0, privileged=True, guard=_guard_script)
async def custom_script(params: CustomScript, op: OperationContext) -> JSON:
    """Runs a script of the worker's machine."""
    return await _run(params, op, params.argv(op.permit), params.working_dir, TaskErrorCode.CUSTOM_SCRIPT_FAILED)


async def _run(params: _Program, op: OperationContext, argv: list[str], cwd: str | None, code: TaskErrorCode) -> JSON:
    op.progress(0.1, f"running {Path(argv[0]).name}")
    with _folder(op.permit, cwd) as folder:
        try:
            outcome = await run_program(
                argv,
                op,
                cwd=folder,
                env=bare_environment({"HOME": str(folder), **params.env}),
                stdin=params.stdin.encode(),
                most_output=params.output_limit,
            )
        except PermissionError as exc:
            raise OperationError(TaskErrorCode.SYSTEM_PERMISSION_DENIED, f"{argv[0]}: {exc.strerror}") from exc
        except OSError as exc:
            raise OperationError(code, f"{argv[0]} cannot be started: {exc.strerror}", kind=ErrorCode.PERMANENT) from exc
    return _result(outcome, params, argv, code)


def _result(outcome: Outcome, params: _Program, argv: list[str], code: TaskErrorCode) -> JSON:
    result = {
        "stdout": outcome.stdout,
        "stderr": outcome.stderr,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "truncated": outcome.truncated,
        "duration": outcome.duration,
    }
    program = Path(argv[0]).name
    if outcome.signal is not None:
        raise OperationError(TaskErrorCode.SYSTEM_PROCESS_KILLED, f"{program} was ended by {outcome.signal}", details=result)
    if outcome.exit_code not in params.ok_codes:
        raise OperationError(code, f"{program} ended with {outcome.exit_code}", details=result)
    return result


@contextmanager
def _folder(permit: Permit, cwd: str | None) -> Iterator[Path]:
    """Where it runs."""
    if cwd is not None:
        yield permit.local_path(cwd)
        return
    with tempfile.TemporaryDirectory(prefix="avtomatika-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
