"""Transfers against a real sshd: operations called as a worker calls them, and trees to compare."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avtomatika.operations.config import OperationsConfig
from avtomatika.operations.context import OperationContext
from avtomatika.operations.registry import registry
from tests.support.sshd import Sshd, config_of, context, running

MIB = 1 << 20


class Bed:
    """A directory for each side, and the operations between them.

    Attributes:
        here, there: of this worker, and of the host (it is the same machine, seen over SSH).
    """

    def __init__(self, folder: Path, config: OperationsConfig) -> None:
        self.folder = folder
        self.config = config
        self.here = folder / "here"
        self.there = folder / "there"
        self.here.mkdir()
        self.there.mkdir()

    def op(self, type_: str, *, job_id: str = "job", seconds: float = 60) -> OperationContext:
        return context(self.config, type_, job_id=job_id, seconds=seconds)

    def run(self, type_: str, *, op: OperationContext | None = None, **params: Any) -> dict[str, Any]:
        """An attempt: parameters are read, the policy is asked, the operation runs."""
        operation = registry().get(type_)
        op = op or self.op(type_)
        values = params if "source" in params else {"host": "box", **params}
        found = operation.parse(values)
        operation.allow(found, op.permit)
        result = operation.run(found, op)
        assert isinstance(result, dict)
        return result

    def up(self, name: str, to: str | None = None, **params: Any) -> dict[str, Any]:
        paths = {"source_path": f"{self.here}/{name}", "destination_path": f"{self.there}/{to or name}"}
        return self.run("scp_upload", **paths, **params)

    def down(self, name: str, to: str | None = None, **params: Any) -> dict[str, Any]:
        return self.run(
            "scp_download", source_path=f"{self.there}/{name}", destination_path=f"{self.here}/{to or name}", **params
        )


@contextmanager
def bed(folder: Path, options: Mapping[str, str] | None = None, policy: str | None = None) -> Iterator[Bed]:
    """A bed with an sshd of its own.

    Args:
        options: lines of the sshd's configuration.
        policy: allows the two directories, unless it is given.
    """
    folder.mkdir(exist_ok=True)
    with running(Sshd(folder / "sshd", options)) as server:
        yield bed_on(server, folder, policy)


def bed_on(server: Sshd, folder: Path, policy: str | None = None, port: int | None = None) -> Bed:
    """A bed on a server that runs; through another port, where a proxy is before it."""
    folder.mkdir(exist_ok=True)
    text = server.config(policy or policy_for(folder))
    if port is not None:
        text = text.replace(f"port = {server.port}", f"port = {port}")
    return Bed(folder, config_of(text, folder))


def policy_for(folder: Path, more: str = "") -> str:
    return f"""
[policy.default]
operations = ["scp_*", "ssh_copy"]
hosts = ["*"]
local_roots = ["{folder}/here"]
remote_roots = ["{folder}/there"]
{more}
"""


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that are nowhere the same, and the same at every call."""
    import random

    return random.Random(seed).randbytes(size)


def tree_of(top: Path) -> dict[str, tuple[Any, ...]]:
    """What is below a directory, with all that a transfer keeps: path -> (type, content or target, permissions, time)."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, directories, files in os.walk(top):
        for name in [*directories, *files]:
            path = Path(folder) / name
            about = path.lstat()
            what: Any = None
            if path.is_symlink():
                what, about_mode, mtime = os.readlink(path), 0, 0
            else:
                about_mode, mtime = stat.S_IMODE(about.st_mode), int(about.st_mtime)
                if path.is_file():
                    what = path.read_bytes()
            found[str(path.relative_to(top))] = (stat.S_IFMT(about.st_mode), what, about_mode, mtime)
    return found


def make_tree(top: Path, files: Mapping[str, bytes | str], *, mtime: int = 1_600_000_000) -> Path:
    """Files and what is above them; a value that begins with ``->`` is a link."""
    top.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, str) and data.startswith("->"):
            path.symlink_to(data[2:])
            continue
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        os.utime(path, (mtime, mtime))
    return top


def stopped_at(op: OperationContext, reason: Any, fraction: float) -> OperationContext:
    """The operation is told to stop, once it is as far as this."""
    said: Callable[..., None] = op.progress

    def progress(value: float, step: str | None = None, status: Any = None) -> None:
        said(value, step, status)
        if value >= fraction:
            op.stop(reason)

    op.progress = progress  # type: ignore[method-assign]
    return op


def parts_in(folder: Path) -> list[str]:
    """What is not complete, or was left."""
    return sorted(path.name for path in folder.rglob("*") if ".part-" in path.name)
