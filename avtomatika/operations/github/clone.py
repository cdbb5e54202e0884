"""A repository, cloned to a directory of the worker's machine."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from pydantic import Field

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.github.base import BRANCH, GitHubParams, family, place_of, site_of
from avtomatika.operations.github.git import Done, Git, opened_git
from avtomatika.operations.policy import Permit
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

#: Of what is received, and of the files that come out of it; a policy's option ``max_clone_bytes`` says otherwise.
MAX_BYTES = 5 << 30
#: Which part of the whole each phase of git's takes.
_PHASES = {
    "Counting objects": (0.02, 0.05),
    "Compressing objects": (0.05, 0.1),
    "Receiving objects": (0.1, 0.8),
    "Resolving deltas": (0.8, 0.9),
}


class Clone(GitHubParams):
    """Clones a repository.

    Args:
        repository_url: its address, or ``owner/name``.
        target_directory: a new or empty directory beneath the policy's `local_roots`.
        branch: or a tag; the repository's default branch without it.
        depth: so many commits of history only.
        credential: None for a public repository.
    """

    repository_url: str = Field(min_length=3, max_length=300)
    target_directory: str = Field(min_length=1, max_length=4000)
    branch: str | None = Field(None, pattern=rf"^{BRANCH}\Z")
    depth: int | None = Field(None, ge=1, le=1_000_000)
    credential: str | None = "github"


def _guard(params: Clone, permit: Permit) -> None:
    permit.matches("repositories", place_of(permit, params.credential).full_name(params.repository_url))
    permit.local_path(params.target_directory)


@family.operation("github_clone", timeout_seconds=1800, guard=_guard)
def github_clone(params: Clone, op: OperationContext) -> JSON:
    """Clones a repository: whole, or not at all."""
    began = time.monotonic()
    site = site_of(op, params.credential)
    full_name = site.full_name(params.repository_url)
    target = op.permit.local_path(params.target_directory)
    op.progress(0, f"cloning {full_name}", TaskStatus.DOWNLOADING)
    with opened_git(op, site) as git:
        if not _is_done(target, op.key):
            _make(git, params, full_name, target)
        return {
            "repository": full_name,
            "directory": str(target),
            "branch": git.run(target, "symbolic-ref", "--quiet", "--short", "HEAD").stdout.strip() or params.branch,
            "commit": git.run(target, "rev-parse", "--quiet", "--verify", "HEAD^{commit}").stdout.strip() or None,
            "seconds": round(time.monotonic() - began, 3),
        }


def _mark(repository: Path, key: str) -> Path:
    """A file that tells an attempt that an earlier one was done, but could not say so."""
    return repository / ".git" / f"avtomatika-{key}"


def _is_done(target: Path, key: str) -> bool:
    """Raises OperationError where something else is there."""
    if _mark(target, key).is_file():
        return True
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OperationError(
            TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, f"{target} is there and is not empty: name a new directory"
        )
    return False


def _make(git: Git, params: Clone, full_name: str, target: Path) -> None:
    """Everything happens in a directory beside the target, which takes its place in the end."""
    op = git.op
    most = int(op.permit.option("max_clone_bytes", MAX_BYTES))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:200]}.part-{op.key}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _receive(git, params, full_name, part, most)
        if git.run(part, "rev-parse", "--quiet", "--verify", "HEAD").exit_code == 0:  # else nothing was ever pushed to it
            _check_files(git, part, most)
            op.progress(0.9, "writing the files")
            git.must(part, "checkout", "--force", "--quiet")
        _mark(part, op.key).touch()
        os.rename(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    op.log(f"{full_name} is in {target}")


def _receive(git: Git, params: Clone, full_name: str, part: Path, most: int) -> None:
    def shown(phase: str, share: float) -> None:
        first, last = _PHASES.get(phase, (0.0, 0.0))
        git.op.progress(first + (last - first) * share, phase)

    def watch() -> None:
        if _size(part / ".git" / "objects" / "pack") > most:
            raise _too_large(full_name, most)

    argv = ["clone", "--no-checkout", "--progress", "--no-recurse-submodules", "--template="]
    argv += [] if params.branch is None else [f"--branch={params.branch}"]
    argv += [] if params.depth is None else [f"--depth={params.depth}"]
    done = git.run(part.parent, *argv, "--", git.site.url_of(full_name), str(part), progress=shown, tick=watch)
    if done.exit_code != 0:
        raise _failure(git, done, params, full_name, part)
    watch()


def _failure(git: Git, done: Done, params: Clone, full_name: str, part: Path) -> OperationError:
    known = git.explain(done, part.parent, full_name, "git-upload-pack")
    if known.code is not TaskErrorCode.GITHUB_API_ERROR or params.branch is None:
        return known
    if git.remote_head(part.parent, full_name, params.branch, "refs/heads/", "refs/tags/") is not None:
        return known
    return OperationError(
        TaskErrorCode.GITHUB_BRANCH_NOT_FOUND,
        f"{full_name} has no branch or tag {params.branch!r}",
        details={"repository": full_name, "branch": params.branch},
    )


def _check_files(git: Git, part: Path, most: int) -> None:
    """What is a few bytes when received may be many files: their sizes are added up before any is written."""
    total, rest = 0, b""

    def add(chunk: bytes) -> None:
        nonlocal total, rest
        *entries, rest = (rest + chunk).split(b"\0")
        for entry in entries:  # mode, type, id, size, and the name after a tab
            size = entry.split(b"\t", 1)[0].split()[-1]
            total += int(size) if size.isdigit() else 0

    done = git.run(part, "ls-tree", "-r", "-l", "-z", "HEAD", sink=add)
    if done.exit_code != 0 or total > most:
        raise _too_large(str(part), most)


def _too_large(what: str, most: int) -> OperationError:
    return OperationError(
        TaskErrorCode.SYSTEM_RESOURCE_LIMIT,
        f"{what} is larger than {most} bytes: clone it with a depth, or raise max_clone_bytes",
    )


def _size(folder: Path) -> int:
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    total += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:  # a temporary one that has got its name
                    continue
    except FileNotFoundError:
        return 0
    return total
