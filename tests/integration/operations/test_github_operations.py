"""GitHub's API on a local port: what reaches it, and what its answers mean."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode as Code
from avtomatika.operations.errors import PolicyError
from tests.support.fake_github import API, TOKEN
from tests.support.github_site import GitHubSite, github_site

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not on PATH")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHubSite]:
    with github_site(tmp_path, monkeypatch) as site:
        yield site


async def test_a_repository_is_made(here: GitHubSite) -> None:
    made = await here("github_create_repo", repo_name="tool", description="A tool", initialize=True, license_template="mit")
    assert (made["full_name"], made["private"], made["description"]) == ("octocat/tool", True, "A tool")
    (sent,) = here.fake.calls("POST", f"{API}/user/repos")
    assert sent.json == {"name": "tool", "description": "A tool", "private": True, "auto_init": True, "license_template": "mit"}
    assert sent.headers["Authorization"] == f"token {TOKEN}"

    made = await here("github_create_repo", repo_name="site", organisation="octo-org", private=False)
    assert (made["full_name"], made["private"]) == ("octo-org/site", False)
    assert len(here.fake.calls("POST", f"{API}/orgs/octo-org/repos")) == 1


async def test_a_repository_is_made_once(here: GitHubSite) -> None:
    here.fake.lose("POST", f"{API}/user/repos")
    assert (await here("github_create_repo", repo_name="tool"))["full_name"] == "octocat/tool"
    assert len(here.fake.calls("POST", f"{API}/user/repos")) == 1
    assert (await here.fails("github_create_repo", repo_name="tool")).code is Code.GITHUB_REPO_ALREADY_EXISTS
    assert len(here.fake.calls("POST", f"{API}/user/repos")) == 1


async def test_a_name_that_was_taken_a_moment_ago(here: GitHubSite) -> None:
    here.fake.add("octocat/tool")
    here.fake.fail("GET", f"{API}/repos/octocat/tool", 404, body={"message": "Not Found"})
    assert (await here.fails("github_create_repo", repo_name="tool")).code is Code.GITHUB_REPO_ALREADY_EXISTS
    failure = await here.fails("github_create_repo", repo_name="other", gitignore_template="NoSuch")
    assert (failure.code, failure.kind, failure.details["status"]) == (Code.GITHUB_API_ERROR, ErrorCode.PERMANENT, 422)


async def test_only_what_the_policy_names_is_made_and_listed(here: GitHubSite) -> None:
    for name in ("octocat/a", "octocat/b", "hubot/c", "octo-org/d"):
        here.fake.add(name, private=name != "hubot/c")
    listed = await here("github_list_repos")
    assert [repo["full_name"] for repo in listed["repositories"]] == ["octocat/a", "octocat/b", "octo-org/d"]
    assert (await here("github_list_repos", owner="hubot"))["count"] == 0
    assert (await here("github_list_repos", owner="octo-org", visibility="private"))["count"] == 1
    assert (await here("github_list_repos", visibility="public"))["count"] == 0
    assert (await here("github_list_repos", limit=1))["truncated"] is True
    with pytest.raises(PolicyError):
        await here("github_create_repo", repo_name="c", organisation="hubot")


async def test_every_page_is_read(here: GitHubSite) -> None:
    here.fake.add("octocat/a")
    here.fake.repos |= {f"octocat/r{n}": {**here.fake.repos["octocat/a"], "full_name": f"octocat/r{n}"} for n in range(249)}
    listed = await here("github_list_repos", limit=1000)
    assert (listed["count"], listed["truncated"]) == (250, False)
    assert [seen.query.get("page") for seen in here.fake.calls("GET", f"{API}/user/repos")] == [None, "2", "3"]


@pytest.mark.parametrize(
    ("status", "headers", "body", "code", "kind"),
    [
        (401, {}, {"message": "Bad credentials"}, Code.GITHUB_AUTHENTICATION_FAILED, ErrorCode.PERMANENT),
        (403, {}, {"message": "Resource not accessible"}, Code.GITHUB_AUTHENTICATION_FAILED, ErrorCode.PERMANENT),
        (403, {"X-RateLimit-Remaining": "0"}, {"message": "?"}, Code.GITHUB_RATE_LIMIT_EXCEEDED, ErrorCode.TRANSIENT),
        (429, {"Retry-After": "30"}, {"message": "?"}, Code.GITHUB_RATE_LIMIT_EXCEEDED, ErrorCode.TRANSIENT),
        (404, {}, {"message": "Not Found"}, Code.GITHUB_REPO_NOT_FOUND, ErrorCode.PERMANENT),
        (500, {}, {"message": "?"}, Code.GITHUB_API_ERROR, ErrorCode.TRANSIENT),
        (502, {}, "<html>Bad gateway</html>", Code.GITHUB_API_ERROR, ErrorCode.TRANSIENT),
    ],
)  # fmt: skip
async def test_what_an_answer_means(here: GitHubSite, status: int, headers: Any, body: Any, code: Code, kind: ErrorCode) -> None:
    here.fake.fail("GET", f"{API}/user/repos", status, headers=headers, body=body)
    failure = await here.fails("github_list_repos")
    assert (failure.code, failure.kind, failure.details["status"]) == (code, kind, status)
    if "Retry-After" in headers:
        assert failure.details["retry_after"] == 30
    assert len(here.fake.calls("GET", f"{API}/user/repos")) == 1, "what is tried again is for the engine to say"


async def test_nobody_is_there(here: GitHubSite) -> None:
    failure = await here.fails("github_list_repos", credential="nowhere")
    assert (failure.code, failure.kind) == (Code.NETWORK_CONNECTION_FAILED, ErrorCode.TRANSIENT)
    failure = await here.fails(
        "github_clone", repository_url="octocat/x", target_directory=str(here.root / "x"), credential="nowhere"
    )
    assert failure.code is Code.NETWORK_CONNECTION_FAILED


async def test_a_credential_without_a_token(here: GitHubSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAKE_GITHUB_TOKEN")
    assert (await here.fails("github_list_repos")).code is Code.CONFIGURATION_ERROR
