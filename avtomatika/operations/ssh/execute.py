"""ssh_execute: a command on a host."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from avtomatika.errors import ErrorCode
from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.operations.ssh._family import family
from avtomatika.operations.ssh.capture import SHOWN, printable
from avtomatika.operations.ssh.failures import ConnectionFailed
from avtomatika.operations.ssh.params import SshParams, Username
from avtomatika.operations.ssh.pool import lease
from avtomatika.operations.ssh.process import Ended, RemoteProcess, TimedOut
from avtomatika.operations.ssh.route import allow
from avtomatika.operations.ssh.shell import ENV_NAME, Become, Script
from avtomatika.results import JSON

_MAX_COMMAND = 100_000
_MAX_STDIN = 1024 * 1024
Word = Annotated[str, StringConstraints(max_length=_MAX_COMMAND, pattern=r"^[^\x00]*$")]


class BecomeParams(Params):
    """Another user on the host; the policy's options name those that are allowed: ``become = ["root"]``.

    Attributes:
        credential: whose password is answered where one is asked for. Without it, none may be needed. doas asks on a terminal
            only, and so takes none.
    """

    user: Username = "root"
    method: Literal["sudo", "su", "doas"] = "sudo"
    credential: str | None = Field(None, min_length=1, max_length=128)

    @model_validator(mode="after")
    def _doas_asks_on_a_terminal(self) -> BecomeParams:
        if self.method == "doas" and self.credential is not None:
            raise ValueError("doas asks for a password on a terminal only: allow it without one (nopass), or use sudo")
        return self


class SshExecute(SshParams):
    """A command on a host.

    Attributes:
        command: an argv, each word of which arrives as it is; or a text that the user's login shell on the host reads.
        cwd: an absolute path on the host.
        env: exported before the command; the names are to be allowed by the policy. Others on the host can see the values.
        stdin: what it reads; without it, it reads nothing.
        timeout: seconds that it may take.
        idle_timeout: seconds that it may say nothing.
        ok_codes: exit codes that are a success.
        idempotent: it may run twice. Where it may not, a cut connection is no reason to run it again.
        max_output: bytes that are kept of each stream.
    """

    command: Word | list[Word] = Field(min_length=1)
    cwd: str | None = Field(None, pattern=r"^/[^\x00\n]*$", max_length=4096)
    env: dict[str, Word] = Field(default_factory=dict, max_length=256)
    stdin: str | None = Field(None, max_length=_MAX_STDIN)
    timeout: float | None = Field(60, gt=0, le=86_400)
    idle_timeout: float | None = Field(None, gt=0, le=86_400)
    ok_codes: list[int] = Field(default_factory=lambda: [0], min_length=1, max_length=256)
    become: BecomeParams | None = None
    idempotent: bool = True
    max_output: int = Field(1024 * 1024, ge=1024, le=16 * 1024 * 1024)

    @field_validator("command")
    @classmethod
    def _names_a_program(cls, command: str | list[str]) -> str | list[str]:
        program = command if isinstance(command, str) else command[0]
        if not program.strip():
            raise ValueError("it names no program")
        if not isinstance(command, str) and (program.startswith("-") or sum(map(len, command)) > _MAX_COMMAND):
            raise ValueError("a program's name begins with no dash, and all words together are at most 100000 characters long")
        return command

    @field_validator("env")
    @classmethod
    def _is_exportable(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not ENV_NAME.match(name):
                raise ValueError(f"{name!r} is no name of an environment variable: letters, digits and _ only")
        return env


def guard(params: SshExecute, permit: Permit) -> list[str] | None:
    """Everything that the parameters name. Returns the argv that a pattern of the policy allows; None for free text."""
    allow(params, permit, params.host)
    argv = permit.command(params.command)
    if argv is not None:
        # What a pattern allows is a program and its arguments; LD_PRELOAD or PATH would make another program of it.
        for name in params.env:
            if not permit.entry.free_text and name not in permit.option("env", ()):
                raise permit.refusal(f"the variable {name}", f"name it in env of [policy.{permit.entry.name}.options]")
        if params.cwd is not None and not permit.entry.free_text:
            permit.remote_path(params.cwd)
    if params.become is not None:
        if params.become.user not in permit.option("become", ()):
            raise permit.refusal(
                f"to become {params.become.user!r}", f"name the user in become of [policy.{permit.entry.name}.options]"
            )
        permit.credential(params.become.credential, permit.host(params.host))
    return argv


@family.operation("ssh_execute", timeout_seconds=600, max_retries=2, guard=guard)
def ssh_execute(params: SshExecute, op: OperationContext) -> JSON:
    """Runs a command on a host, and returns its exit code and output."""
    argv = guard(params, op.permit)
    password = None
    become = None
    if params.become is not None:
        if params.become.credential is not None:
            password = op.credential(params.become.credential).password
        become = Become(params.become.user, params.become.method, password is not None)
    command = argv if argv is not None else params.command
    script = Script(command, params.cwd, params.env, stdin=params.stdin is not None, become=become)
    op.progress(0.1, f"connecting to {params.host}")
    began = False
    try:
        with lease(op, params, cut_on_stop=False) as connection:
            op.progress(0.5, "running the command")
            began = True
            process = RemoteProcess(
                connection,
                script,
                stdin=(params.stdin or "").encode(),
                password=password,
                show=lambda line, is_error: op.log(_shown(op, line, is_error)),
                limit=params.max_output,
            )
            ended = process.run(op, params.timeout, params.idle_timeout)
            facts = connection.facts
    except TimedOut as exc:
        kind = ErrorCode.TRANSIENT if params.idempotent else ErrorCode.PERMANENT
        details = _details(exc.ended)
        raise OperationError(
            TaskErrorCode.SSH_TIMEOUT, f"{params.host}: the command was ended, {exc}", details=details, kind=kind
        ) from None
    except ConnectionFailed as exc:
        if began and not params.idempotent:
            raise ConnectionFailed(f"{exc}; it is not run again, since it is not idempotent", permanent=True) from exc
        raise
    op.progress(1.0, "the command has ended")
    return _result(params, ended, facts)


def _shown(op: OperationContext, line: str, is_error: bool) -> str:
    # Masked before it is cut: half a secret would not be found.
    line = printable(op.mask(line))[:SHOWN]
    return f"stderr: {line}" if is_error else line


def _result(params: SshExecute, ended: Ended, facts: dict[str, str]) -> JSON:
    if ended.exit_code not in params.ok_codes:
        how = f"was ended by {ended.signal}" if ended.signal else f"ended with {ended.exit_code}"
        said = printable(ended.stderr.end(300)).strip().rsplit("\n", 1)[-1]
        raise OperationError(
            TaskErrorCode.SSH_COMMAND_FAILED,
            f"{params.host}: the command {how}{f': {said}' if said else ''}",
            details=_details(ended),
        )
    return {
        **facts,
        "exit_code": ended.exit_code,
        "signal": ended.signal,
        "stdout": ended.stdout.text,
        "stderr": ended.stderr.text,
        "truncated": ended.stdout.truncated or ended.stderr.truncated,
        "duration": round(ended.duration, 6),
    }


def _details(ended: Ended) -> dict[str, Any]:
    return {
        "exit_code": ended.exit_code,
        "signal": ended.signal,
        "stdout": ended.stdout.end(),
        "stderr": ended.stderr.end(),
        "truncated": ended.stdout.truncated or ended.stderr.truncated,
        "duration": round(ended.duration, 6),
    }
