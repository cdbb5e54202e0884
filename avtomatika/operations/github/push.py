"""A branch of a repository on the worker's machine, pushed to GitHub; first of all what has changed is committed, where asked."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import Field

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.github.base import BRANCH, GitHubParams, family, place_of, site_of
from avtomatika.operations.github.git import Done, Git, opened_git
from avtomatika.operations.policy import Permit
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

#: What a repository may set for itself. Much of the rest names programs that git would run.
_HARMLESS = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|autocrlf|eol|safecrlf|quotepath)"
    r"|remote\.[^\n]+\.(url|fetch|tagopt|prune)"
    r"|branch\.[^\n]+\.(remote|merge|rebase|description)"
    r"|user\.(name|email)|init\.defaultbranch|pull\.(rebase|ff)|extensions\.objectformat|submodule\.[^\n]+\.(url|active)"
)
_PHASES = {"Counting objects": (0.3, 0.4), "Compressing objects": (0.4, 0.5), "Writing objects": (0.5, 0.9)}


class Push(GitHubParams):
    """Pushes a branch.

    Args:
        local_directory: of the repository, beneath the policy's `local_roots`.
        branch: the one that is checked out without it.
        remote: whose address in the repository's configuration is pushed to.
        commit_message: commits all changes first, to the branch that is checked out.
        force: puts the branch in the place of what is at GitHub; needs ``force_push = true`` in the policy's options.
    """

    local_directory: str = Field(min_length=1, max_length=4000)
    branch: str | None = Field(None, pattern=rf"^{BRANCH}\Z")
    remote: str = Field("origin", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z")
    commit_message: str | None = Field(None, min_length=1, max_length=10_000)
    author_name: str | None = Field(None, pattern=r"^[^\x00-\x1f<>]{1,200}\Z")
    author_email: str | None = Field(None, pattern=r"^[^\x00-\x20<>]{1,200}\Z")
    force: bool = False
    credential: str = "github"


def _guard(params: Push, permit: Permit) -> None:
    place_of(permit, params.credential)
    permit.local_path(params.local_directory)
    if params.force and permit.option("force_push", False) is not True:
        raise permit.refusal("a forced push", f"set force_push = true in [policy.{permit.entry.name}.options]")


@family.operation("github_push", timeout_seconds=900, guard=_guard)
def github_push(params: Push, op: OperationContext) -> JSON:
    """Pushes a branch to GitHub."""
    site = site_of(op, params.credential)
    name = params.author_name or site.username or "avtomatika"
    identity = (name, params.author_email or f"{re.sub(r'[^A-Za-z0-9.-]', '-', name)}@users.noreply.github.com")
    folder = op.permit.local_path(params.local_directory)
    with opened_git(op, site, identity) as git:
        op.progress(0.05, f"looking at {folder}", TaskStatus.VALIDATING)
        full_name = _check(git, folder, params.remote)
        op.permit.matches("repositories", full_name)
        branch, committed = _branch(git, folder, params)
        return {**_push(git, folder, full_name, branch, params), "committed": committed}


def _check(git: Git, folder: Path, remote: str) -> str:
    """The repository's name at GitHub. Raises OperationError for a directory whose own settings are not harmless."""
    inner = folder / ".git"
    if not inner.is_dir() or inner.is_symlink() or not (inner / "config").is_file():
        raise OperationError(TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, f"{folder} is no repository of git: clone one first")
    if {folder.stat().st_uid, inner.stat().st_uid} != {os.geteuid()}:
        raise OperationError(TaskErrorCode.SYSTEM_PERMISSION_DENIED, f"{folder} belongs to another user than the worker's")
    elsewhere = [name for name in ("commondir", "objects/info/alternates", "config.worktree") if (inner / name).exists()]
    if elsewhere or any((inner / name).is_symlink() for name in ("config", "objects", "refs", "HEAD")):
        raise OperationError(
            TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, f"{folder} keeps a part of itself elsewhere: clone it anew"
        )
    said = git.must(git.home, "config", "--file", str(inner / "config"), "--no-includes", "--list", "-z")
    settings = [entry.partition("\n")[::2] for entry in said.split("\0") if entry]
    odd = sorted({key for key, _ in settings if not _HARMLESS.fullmatch(key)})
    if odd:
        raise OperationError(
            TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
            f"{folder} has settings of its own that may run programs: {', '.join(odd)[:500]}; take them out of .git/config",
            details={"settings": odd[:50]},
        )
    urls = [value for key, value in settings if key == f"remote.{remote}.url"]
    if len(urls) != 1:
        raise OperationError(TaskErrorCode.VALIDATION_INVALID_PARAMS, f"{folder} has no remote {remote!r} with one address")
    return git.site.full_name(urls[0])


def _branch(git: Git, folder: Path, params: Push) -> tuple[str, bool]:
    """The branch to push, and whether something was committed to it."""
    current = git.run(folder, "symbolic-ref", "--quiet", "--short", "HEAD").stdout.strip()
    branch = params.branch or current
    if not branch:
        raise OperationError(TaskErrorCode.VALIDATION_MISSING_REQUIRED, f"no branch is checked out in {folder}: name one")
    committed = False
    if params.commit_message is not None:
        if branch != current:
            raise OperationError(
                TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
                f"{current or 'no branch'!r} is checked out, not {branch!r}: check it out first",
            )
        committed = _commit(git, folder, params.commit_message)
    if git.run(folder, "rev-parse", "--quiet", "--verify", f"refs/heads/{branch}").exit_code != 0:
        raise OperationError(
            TaskErrorCode.GITHUB_BRANCH_NOT_FOUND,
            f"{folder} has no branch {branch!r}",
            details={"branch": branch, "directory": str(folder)},
        )
    return branch, committed


def _commit(git: Git, folder: Path, message: str) -> bool:
    """Commits what has changed; False where nothing has, as in a second attempt."""
    git.op.progress(0.1, "committing", TaskStatus.PREPARING)
    _check_nested(git, folder)
    git.must(folder, "add", "--all")
    if git.run(folder, "diff", "--cached", "--quiet").exit_code == 0:
        git.op.log("there is nothing to commit")
        return False
    git.must(folder, "commit", "--quiet", "--no-verify", "--cleanup=whitespace", "--file=-", stdin=message.encode())
    return True


def _check_nested(git: Git, folder: Path) -> None:
    """git looks into a repository inside another one, by the inner one's settings; so there must be none."""
    for place, folders, files in os.walk(folder):
        git.op.checkpoint()
        if Path(place) == folder:
            folders.remove(".git")
        if ".git" in folders or ".git" in files:
            raise OperationError(
                TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, f"{place} is a repository inside {folder}: commit without it"
            )


def _push(git: Git, folder: Path, full_name: str, branch: str, params: Push) -> JSON:
    op, ref, url = git.op, f"refs/heads/{branch}", git.site.url_of(full_name)
    ours = git.must(folder, "rev-parse", "--verify", ref)
    before = git.remote_head(folder, full_name, branch)
    said: JSON = {"repository": full_name, "branch": branch, "commit": ours, "previous_commit": before, "forced": False}
    if before == ours:
        op.log(f"{full_name} has {branch} as it is here")
        return {**said, "up_to_date": True}

    def shown(phase: str, share: float) -> None:
        first, last = _PHASES.get(phase, (0.0, 0.0))
        op.progress(first + (last - first) * share, phase)

    op.progress(0.3, f"pushing {branch} to {full_name}", TaskStatus.UPLOADING)
    argv = ["push", "--porcelain", "--progress", "--no-verify"]
    # Only what was seen a moment ago is replaced: a commit that came in between stays.
    argv += [f"--force-with-lease={ref}:{before or ''}"] if params.force else []
    done = git.run(folder, *argv, "--", url, f"{ref}:{ref}", progress=shown)
    flag = _flag(done, ref)
    if done.exit_code != 0:
        raise (
            _refused(git, folder, full_name, branch, ours, params.force)
            if flag == "!"
            else git.explain(done, folder, full_name, "git-receive-pack")
        )
    git.run(folder, "update-ref", f"refs/remotes/{params.remote}/{branch}", ours)
    op.log(f"{branch} of {full_name} is at {ours[:12]} now")
    return {**said, "forced": flag == "+", "up_to_date": False}


def _flag(done: Done, ref: str) -> str:
    """The first letter of the line that `--porcelain` has for the ref: space, +, *, = or !; empty without such a line."""
    for line in done.stdout.splitlines():
        parts = line.split("\t")
        if len(parts) >= 2 and parts[1].endswith(f":{ref}"):
            return parts[0] or " "
    return ""


def _refused(git: Git, folder: Path, full_name: str, branch: str, ours: str, force: bool) -> OperationError:
    """GitHub does not take the branch: because it has commits that are not here, or by a rule of the repository's."""
    theirs = git.remote_head(folder, full_name, branch)
    details = {"repository": full_name, "branch": branch, "commit": ours, "remote_commit": theirs}
    if theirs is not None and not force and git.run(folder, "merge-base", "--is-ancestor", theirs, ours).exit_code != 0:
        return OperationError(
            TaskErrorCode.GITHUB_MERGE_CONFLICT,
            f"{full_name} has commits on {branch} that are not here: merge them first",
            details=details,
        )
    return OperationError(
        TaskErrorCode.GITHUB_API_ERROR,
        f"{full_name} does not take {branch}: a rule or a hook of it refuses",
        details=details,
        kind=ErrorCode.PERMANENT,
    )
