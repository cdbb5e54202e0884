"""Updates of the machine's packages, by its own package manager."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from avtomatika.errors import ErrorCode
from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.files import free_bytes
from avtomatika.operations.policy import Permit
from avtomatika.operations.system.family import family
from avtomatika.operations.system.process import run
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

#: Lines of output in a result: the last ones.
_LINES = 200
#: Bytes that a file system has to have left, or it is called full.
_FULL = 1 << 20
_DPKG_LOCK = Path("/var/lib/dpkg/lock-frontend")

Package = Annotated[str, Field(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9+._:~-]*[A-Za-z0-9+])?$", max_length=200)]


class SystemUpdate(Params):
    """What to bring up to date: these packages, or, without any, all that are installed."""

    manager: Literal["apt", "dnf"]
    packages: list[Package] = Field(default_factory=list, max_length=500)
    dry_run: bool = Field(True, description="say what would change, and change nothing")
    refresh: bool = Field(True, description="fetch the lists of packages first; a dry run of apt does without")


def _guard(params: SystemUpdate, permit: Permit) -> None:
    # Without the option, every package may be updated: none is installed that is not there already.
    if permit.option("packages") is not None:
        for package in params.packages or ["*"]:
            permit.matches("packages", package)


@family.operation("system_update", timeout_seconds=1800, max_retries=1, privileged=True, guard=_guard)
def system_update(params: SystemUpdate, op: OperationContext) -> JSON:
    """Updates packages that are installed; nothing is added but what they need, and nothing is removed."""
    program = shutil.which("apt-get" if params.manager == "apt" else "dnf")
    if program is None:
        raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"there is no {params.manager} on this machine")
    if not params.dry_run and os.geteuid() != 0:
        raise OperationError(
            TaskErrorCode.SYSTEM_PERMISSION_DENIED, "packages are updated by root; this worker runs as another user"
        )
    update = _apt if params.manager == "apt" else _dnf
    return update(params, op, program)


def _apt(params: SystemUpdate, op: OperationContext, program: str) -> JSON:
    if not params.dry_run:
        _look_at_lock(_DPKG_LOCK)
        if params.refresh:
            _call([program, "-q", "update"], op, 0.05, "fetching the lists of packages")
    what = ["install", "--only-upgrade", "--", *params.packages] if params.packages else ["upgrade"]
    plan, _ = _call([program, "-q", "-s", "--no-remove", *what], op, 0.2, "looking at what would change")
    changes = [change for line in plan if (change := _apt_change(line))]
    if params.dry_run:
        return {"manager": "apt", "dry_run": True, "packages": changes, "count": len(changes), "output": plan[-_LINES:]}
    keep = ["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold", "-o", "DPkg::Lock::Timeout=60"]
    lines, _ = _call([program, "-q", "-y", "--no-remove", *keep, *what], op, 0.3, f"updating {len(changes)} packages")
    return {"manager": "apt", "dry_run": False, "packages": changes, "count": len(changes), "output": lines[-_LINES:]}


def _apt_change(line: str) -> JSON | None:
    """``Inst name [old] (new origin [arch])`` of a simulation."""
    found = re.match(r"Inst (\S+)(?: \[([^\]]+)\])? \((\S+)", line)
    return {"name": found[1], "from": found[2], "to": found[3]} if found else None


def _dnf(params: SystemUpdate, op: OperationContext, program: str) -> JSON:
    refresh = ["--refresh"] if params.refresh else []
    # 100 says that there are updates, 0 that there are none.
    plan, code = _call(
        [program, "-q", *refresh, "check-update", *params.packages], op, 0.1, "looking at what would change", (0, 100)
    )
    changes = [change for line in plan if (change := _dnf_change(line))] if code == 100 else []
    if params.dry_run or code == 0:
        lines = plan
    else:
        lines, _ = _call([program, "-y", "upgrade", *params.packages], op, 0.3, f"updating {len(changes)} packages")
    return {"manager": "dnf", "dry_run": params.dry_run, "packages": changes, "count": len(changes), "output": lines[-_LINES:]}


def _dnf_change(line: str) -> JSON | None:
    """``name.arch  version  repository``."""
    found = re.fullmatch(r"(\S+)\.(\S+)\s+(\S+)\s+\S+", line.strip())
    return {"name": found[1], "from": None, "to": found[3]} if found else None


def _call(
    argv: Sequence[str], op: OperationContext, progress: float, step: str, good: tuple[int, ...] = (0,)
) -> tuple[list[str], int]:
    """The lines of a program, and its exit code; OperationError for a code that is not good."""
    op.progress(progress, step, TaskStatus.RUNNING)
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        del lines[:-20_000]
        op.log(line)

    code = run(argv, op, take, DEBIAN_FRONTEND="noninteractive")
    if code not in good:
        raise _failed(argv, code, lines)
    return lines, code


def _failed(argv: Sequence[str], code: int, lines: list[str]) -> OperationError:
    name = Path(argv[0]).name
    details = {"exit_code": code, "output": lines[-20:]}
    if code < 0:
        said = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return OperationError(TaskErrorCode.SYSTEM_PROCESS_KILLED, f"{name} was killed by {said}", details=details)
    full = [str(path) for path in ("/", "/var", "/boot") if Path(path).is_dir() and free_bytes(Path(path)) < _FULL]
    if full:
        return OperationError(TaskErrorCode.SYSTEM_DISK_SPACE, f"{name} failed, and {', '.join(full)} is full", details=details)
    # A package manager has one exit code for all that can go wrong: an archive out of reach, a package that does not exist.
    return OperationError(
        TaskErrorCode.EXTERNAL_SERVICE_ERROR,
        f"{name} ended with {code}: {_last(lines)}",
        details=details,
        kind=ErrorCode.TRANSIENT,
    )


def _last(lines: list[str]) -> str:
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")[:500]


def _look_at_lock(path: Path) -> None:
    """Raises OperationError (SYSTEM_SERVICE_UNAVAILABLE) while another package manager is at work."""
    try:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_UN)
    except FileNotFoundError:
        return
    except OSError as exc:
        if exc.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise OperationError(TaskErrorCode.SYSTEM_SERVICE_UNAVAILABLE, "another package manager is at work") from None
