"""Clones and pushes by git's own protocol, on a local port: what they do, what they refuse, and where the token is not."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from avtomatika.errors import ErrorCode
from avtomatika.jobs import JobStatus
from avtomatika.operations.codes import TaskErrorCode as Code
from avtomatika.operations.errors import OperationStopped, PolicyError, StopReason
from avtomatika.private import write_private
from tests.support.fake_github import GIT, TOKEN, commit, git
from tests.support.fakes import call, context
from tests.support.github_site import SENT, GitHubSite, config_text, github_site
from tests.support.operations import make_site, push
from tests.support.polling import eventually_async
from tests.support.processes import Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not on PATH")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHubSite]:
    with github_site(tmp_path, monkeypatch) as site:
        yield site


# --- clone ---------------------------------------------------------------------------------------------------------------------


async def test_a_repository_is_cloned(here: GitHubSite) -> None:
    bare = here.fake.add("octocat/tool", files={"README.md": "hello", "src/a.py": "1"})
    second = commit(bare, "main", {"README.md": "hello again"})
    result = await here("github_clone", repository_url="octocat/tool", target_directory="new/tool")
    target = here.root / "new" / "tool"
    assert (result["repository"], result["branch"], result["commit"], result["directory"]) == (
        "octocat/tool",
        "main",
        second,
        str(target),
    )
    assert (target / "README.md").read_text() == "hello again"
    assert (target / "src" / "a.py").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["tool"]
    assert git(target, "status", "--porcelain") == ""

    again = await here.fails("github_clone", repository_url="octocat/tool", target_directory="new/tool")
    assert again.code is Code.VALIDATION_CONSTRAINT_VIOLATION


async def test_a_branch_a_tag_and_a_depth(here: GitHubSite) -> None:
    bare = here.fake.add("octocat/tool", files={"a": "1"})
    first = git(bare, "rev-parse", "main")
    git(bare, "tag", "v1", "main")
    commit(bare, "main", {"a": "2"})
    commit(bare, "other", {"b": "1"})
    url = f"{here.fake.url}{GIT}/octocat/tool.git"
    assert (await here("github_clone", repository_url=url, target_directory="1", branch="other"))["branch"] == "other"
    assert (await here("github_clone", repository_url=url, target_directory="2", branch="v1"))["commit"] == first
    await here("github_clone", repository_url=url, target_directory="3", depth=1)
    assert git(here.root / "3", "rev-list", "--count", "HEAD") == "1"


async def test_an_empty_repository_and_a_public_one(here: GitHubSite) -> None:
    here.fake.add("octocat/empty", private=False)
    assert (await here("github_clone", repository_url="octocat/empty", target_directory="e"))["commit"] is None
    here.fake.add("octocat/public", private=False, files={"a": "1"})
    result = await here("github_clone", repository_url="octocat/public", target_directory="p", credential="reader")
    assert result["commit"]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"repository_url": "octocat/none"}, Code.GITHUB_REPO_NOT_FOUND),
        ({"branch": "none"}, Code.GITHUB_BRANCH_NOT_FOUND),
        ({"credential": "wrong"}, Code.GITHUB_AUTHENTICATION_FAILED),
    ],
)
async def test_why_a_clone_fails(here: GitHubSite, params: dict[str, Any], code: Code) -> None:
    here.fake.add("octocat/tool", files={"a": "1"})
    failure = await here.fails("github_clone", **{"repository_url": "octocat/tool", "target_directory": "x", **params})
    assert failure.code is code
    assert list(here.root.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "headers", "code"),
    [
        (429, {"Retry-After": "7"}, Code.GITHUB_RATE_LIMIT_EXCEEDED),
        (503, {}, Code.GITHUB_API_ERROR),
        (301, {"Location": "/elsewhere"}, Code.GITHUB_REPO_NOT_FOUND),
    ],
)
async def test_what_an_answer_to_git_means(here: GitHubSite, status: int, headers: dict[str, str], code: Code) -> None:
    here.fake.add("octocat/tool", files={"a": "1"})
    here.fake.fail("GET", f"{GIT}/octocat/tool.git/info/refs", status, headers=headers, body="no", times=2)
    failure = await here.fails("github_clone", repository_url="octocat/tool", target_directory="x")
    assert failure.code is code
    assert here.fake.calls("GET", "/elsewhere") == []


async def test_more_than_allowed_is_not_cloned(here: GitHubSite) -> None:
    here.fake.add("octocat/bomb", files={"zeros": "0" * 1_000_000})  # a pack of a kilobyte
    failure = await here.fails("github_clone", repository_url="octocat/bomb", target_directory="x")
    assert failure.code is Code.SYSTEM_RESOURCE_LIMIT
    assert list(here.root.iterdir()) == []


async def test_a_second_attempt_finds_what_the_first_has_done(here: GitHubSite) -> None:
    here.fake.add("octocat/tool", files={"a": "1"})
    params = {"repository_url": "octocat/tool", "target_directory": "x"}
    left = here.root / f".x.part-{context(here.config, 'github_clone', params, job_id='the same').key}"
    left.mkdir()
    (left / "half").write_text("of a worker that was killed")
    first = await call(here.config, "github_clone", params, job_id="the same")
    assert not left.exists()
    assert not (here.root / "x" / "half").exists()
    second = await call(here.config, "github_clone", params, job_id="the same", attempt=2)
    assert first["commit"] == second["commit"]


async def test_a_cancelled_clone_leaves_nothing_and_the_token_was_nowhere(here: GitHubSite) -> None:
    here.fake.add("octocat/tool", files={f"{n}": str(n) * 50 for n in range(200)})
    here.fake.hold = True
    params = {"repository_url": "octocat/tool", "target_directory": "x"}
    op = context(here.config, "github_clone", params)
    cloning = asyncio.create_task(call(here.config, "github_clone", params, op))
    await eventually_async(
        _is(lambda: len(here.fake.calls("POST", f"{GIT}/octocat/tool.git/git-upload-pack")) >= 2 and _gits(here))
    )
    await asyncio.sleep(0.3)
    running = _gits(here)
    lines = "\n".join("\0".join(process.cmdline()) for process in running)
    assert "clone" in lines
    assert "remote-http" in lines
    for secret in (TOKEN, SENT):
        assert secret not in lines

    op.stop(StopReason.CANCEL)
    with pytest.raises(OperationStopped):
        await cloning
    assert list(here.root.iterdir()) == []
    assert psutil.wait_procs(running, timeout=30)[1] == []
    here.fake.hold = False


def _is(look: Callable[[], Any]) -> Callable[[], Any]:
    async def looked() -> Any:
        return look()

    return looked


def _gits(here: GitHubSite) -> list[psutil.Process]:
    """The processes of git that this test's operation has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "git" in process.name() and any(f"{here.fake.port}" in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


async def test_the_token_stays_out_of_the_clone_its_log_and_its_result(here: GitHubSite) -> None:
    here.fake.add("octocat/tool", files={"a": "1"})
    params = {"repository_url": "octocat/tool", "target_directory": "x"}
    op = context(here.config, "github_clone", params)
    result = await call(here.config, "github_clone", params, op)
    (report,) = [op.take_report()]
    assert report is not None
    text = f"{result} {report}" + "".join(
        path.read_bytes().decode(errors="replace") for path in (here.root / "x").rglob("*") if path.is_file()
    )
    for secret in (TOKEN, SENT):
        assert secret not in text
    sent = here.fake.calls("GET", f"{GIT}/octocat/tool.git/info/refs")[0].headers["Authorization"]
    assert sent == f"Basic {SENT}"


# --- push ----------------------------------------------------------------------------------------------------------------------


async def test_changes_are_committed_and_pushed(here: GitHubSite) -> None:
    bare = here.fake.add("octocat/tool", files={"a": "1"})
    first = git(bare, "rev-parse", "main")
    folder = await here.clone()
    (folder / "a").write_text("2")
    (folder / "b").write_text("new")
    params = {"local_directory": str(folder), "branch": "main", "commit_message": "# not a comment\n", "author_name": "Ada"}
    result = await here("github_push", **params)
    assert result == {
        "repository": "octocat/tool", "branch": "main", "commit": git(bare, "rev-parse", "main"), "previous_commit": first,
        "committed": True, "forced": False, "up_to_date": False,
    }  # fmt: skip
    assert git(bare, "log", "-1", "--format=%an <%ae>%n%s", "main") == "Ada <Ada@users.noreply.github.com>\n# not a comment"
    assert git(bare, "show", "main:b") == "new"
    assert git(folder, "status", "--porcelain", "--branch") == "## main...origin/main"

    again = await here("github_push", **params)
    assert (again["committed"], again["up_to_date"], again["commit"]) == (False, True, result["commit"])


async def test_the_first_branch_of_an_empty_repository(here: GitHubSite) -> None:
    bare = here.fake.add("octocat/tool")
    folder = await here.clone()
    (folder / "a").write_text("1")
    result = await here("github_push", local_directory=str(folder), commit_message="first")
    assert (result["branch"], result["previous_commit"], result["commit"]) == ("main", None, git(bare, "rev-parse", "main"))


async def test_commits_that_are_not_here_are_a_conflict(here: GitHubSite) -> None:
    bare = here.fake.add("octocat/tool", files={"a": "1"})
    folder = await here.clone()
    theirs = commit(bare, "main", {"a": "theirs"})
    (folder / "a").write_text("ours")
    failure = await here.fails("github_push", local_directory=str(folder), commit_message="ours")
    assert (failure.code, failure.details["remote_commit"]) == (Code.GITHUB_MERGE_CONFLICT, theirs)
    assert git(bare, "rev-parse", "main") == theirs

    forced = await here("github_push", local_directory=str(folder), force=True)
    assert (forced["forced"], forced["previous_commit"], git(bare, "show", "main:a")) == (True, theirs, "ours")


async def test_a_rule_of_the_repository_is_no_conflict(here: GitHubSite) -> None:
    bare = here.fake.add("octocat/tool", files={"a": "1"})
    folder = await here.clone()
    hook = bare / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho non-fast-forward conflict >&2\nexit 1\n")
    hook.chmod(0o755)
    (folder / "a").write_text("2")
    failure = await here.fails("github_push", local_directory=str(folder), commit_message="2")
    assert (failure.code, failure.kind) == (Code.GITHUB_API_ERROR, ErrorCode.PERMANENT)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"credential": "reader"}, Code.GITHUB_AUTHENTICATION_FAILED),
        ({"credential": "wrong"}, Code.GITHUB_AUTHENTICATION_FAILED),
        ({"branch": "none"}, Code.GITHUB_BRANCH_NOT_FOUND),
        ({"remote": "upstream"}, Code.VALIDATION_INVALID_PARAMS),
        ({"branch": "other", "commit_message": "x"}, Code.VALIDATION_CONSTRAINT_VIOLATION),
    ],
)
async def test_why_a_push_fails(here: GitHubSite, params: dict[str, Any], code: Code) -> None:
    here.fake.add("octocat/tool", files={"a": "1"})
    folder = await here.clone()
    git(folder, "commit", "-q", "--allow-empty", "-m", "2")
    assert (await here.fails("github_push", local_directory=str(folder), **params)).code is code


async def test_a_repository_that_would_run_programs_is_not_pushed(here: GitHubSite) -> None:
    here.fake.add("octocat/tool", files={"a": "1", ".gitattributes": "* filter=evil"})
    folder = await here.clone()
    ran = here.root / "ran"
    for name in ("pre-commit", "pre-push", "reference-transaction", "post-commit", "post-index-change"):
        hook = folder / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
        hook.chmod(0o755)
    (folder / "a").write_text("2")
    assert (await here("github_push", local_directory=str(folder), commit_message="2"))["committed"]
    assert not ran.exists(), "a hook ran"

    for key in (
        "filter.evil.clean",
        "core.fsmonitor",
        "core.sshCommand",
        "remote.origin.receivepack",
        "credential.helper",
        "include.path",
    ):
        shutil.copy(folder / ".git" / "config", here.root / "kept")
        git(folder, "config", key, f"touch {ran}")
        failure = await here.fails("github_push", local_directory=str(folder), commit_message="3")
        assert failure.details["settings"] == [key.lower()]
        shutil.move(here.root / "kept", folder / ".git" / "config")
    git(folder, "config", "remote.origin.url", f"{here.fake.url}{GIT}/hubot/other.git")
    with pytest.raises(PolicyError):
        await here("github_push", local_directory=str(folder))
    git(folder, "config", "remote.origin.url", "https://evil.example/octocat/tool.git")
    assert (await here.fails("github_push", local_directory=str(folder))).code is Code.VALIDATION_INVALID_FORMAT
    assert not ran.exists()


async def test_a_repository_inside_another_is_not_looked_into(here: GitHubSite) -> None:
    here.fake.add("octocat/tool", files={"a": "1"})
    folder = await here.clone()
    inner = folder / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    failure = await here.fails("github_push", local_directory=str(folder), commit_message="x")
    assert failure.code is Code.VALIDATION_CONSTRAINT_VIOLATION
    link = here.root / "link"
    link.mkdir()
    (link / ".git").symlink_to(folder / ".git")
    assert (await here.fails("github_push", local_directory=str(link))).code is Code.VALIDATION_CONSTRAINT_VIOLATION


# --- Through the queue ---------------------------------------------------------------------------------------------------------


async def test_a_clone_through_real_processes(
    redis_broker: Broker, processes: Processes, tmp_path: Path, here: GitHubSite
) -> None:
    bare = here.fake.add("octocat/tool", files={"a": "1"})
    write_private(tmp_path / "token", f"{TOKEN}\n")
    text = config_text(here.fake, here.root).replace('token_env = "FAKE_GITHUB_TOKEN"', f'token_file = "{tmp_path / "token"}"')
    site = make_site(redis_broker, processes, tmp_path, text)
    site.orchestrator()
    site.worker("github")
    async with site.engine() as engine:
        job = await push(engine, "github_clone", {"repository_url": "octocat/tool", "target_directory": "x"})
        job = await engine.ended(job.id)
        assert job.status is JobStatus.FINISHED, job.error_message
        assert job.result["commit"] == git(bare, "rev-parse", "main")
        log = "\n".join(line.text for line in await engine.service.store.job_log(job.id))
        assert "octocat/tool is in" in log

        job = await engine.ended(
            (await push(engine, "github_clone", {"repository_url": "octocat/no", "target_directory": "y"})).id
        )
        assert (job.status, job.state_history["error_code"]) == (JobStatus.QUARANTINED, "GITHUB_REPO_NOT_FOUND")
    for _, said in processes.logs():
        assert TOKEN not in said
        assert SENT not in said
