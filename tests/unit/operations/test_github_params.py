"""What the operations on GitHub take, what a policy lets them name, and what an answer of GitHub's means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode as Code
from avtomatika.operations.errors import OperationError
from avtomatika.operations.github.base import Site, of_status, place_of
from avtomatika.operations.registry import registry
from tests.support.fakes import context, make_config

MISSING, FORMAT, RANGE, WRONG = (
    Code.VALIDATION_MISSING_REQUIRED,
    Code.VALIDATION_INVALID_FORMAT,
    Code.VALIDATION_OUT_OF_RANGE,
    Code.VALIDATION_INVALID_PARAMS,
)
CONFIG = """
[credentials.github]
token_env = "NOT_NEEDED"
[credentials.enterprise]
token_env = "NOT_NEEDED"
service = { api_url = "https://ghe.example.com/api/v3", git_url = "https://ghe.example.com" }
[credentials.plain]
token_env = "NOT_NEEDED"
service = { git_url = "http://ghe.example.com" }
[policy.default]
operations = ["github_*"]
credentials = ["github", "enterprise", "plain"]
local_roots = ["/srv/data"]
options = { repositories = ["acme/*"] }
"""


@pytest.mark.parametrize(
    ("type_", "params", "code"),
    [
        ("github_create_repo", {}, MISSING),
        ("github_create_repo", {"repo_name": ".."}, FORMAT),
        ("github_create_repo", {"repo_name": "a/b"}, FORMAT),
        ("github_create_repo", {"repo_name": "a\n"}, FORMAT),
        ("github_create_repo", {"repo_name": "a", "organisation": "-x"}, FORMAT),
        ("github_create_repo", {"repo_name": "a", "token": "ghp_x"}, WRONG),
        ("github_list_repos", {"limit": 0}, RANGE),
        ("github_list_repos", {"visibility": "secret"}, WRONG),
        ("github_clone", {"repository_url": "acme/x"}, MISSING),
        ("github_clone", {"repository_url": "acme/x", "target_directory": "x", "depth": 0}, RANGE),
        ("github_clone", {"repository_url": "acme/x", "target_directory": "x", "branch": "--upload-pack=id"}, FORMAT),
        ("github_clone", {"repository_url": "acme/x", "target_directory": "x", "branch": "a..b"}, FORMAT),
        ("github_clone", {"repository_url": "acme/x", "target_directory": "x", "branch": "a b"}, FORMAT),
        ("github_clone", {"repository_url": "acme/x", "target_directory": "x", "branch": "a.lock"}, FORMAT),
        ("github_push", {}, MISSING),
        ("github_push", {"local_directory": "x", "remote": "--receive-pack=id"}, FORMAT),
        ("github_push", {"local_directory": "x", "commit_message": ""}, WRONG),
        ("github_push", {"local_directory": "x", "author_name": "a <b>"}, FORMAT),
    ],
)
def test_parameters_that_do_not_fit_are_refused(type_: str, params: dict[str, Any], code: Code) -> None:
    with pytest.raises(OperationError) as raised:
        registry().get(type_).parse(params)
    assert raised.value.code is code


@pytest.mark.parametrize("branch", ["main", "release/1.2", "v1.0", "feature/ü", "a-b_c"])
def test_names_of_branches(branch: str) -> None:
    params = registry().get("github_clone").parse({"repository_url": "acme/x", "target_directory": "x", "branch": branch})
    assert params.branch == branch  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("repository", "full_name"),
    [
        ("acme/tool", "acme/tool"),
        ("acme/tool.git", "acme/tool"),
        ("https://github.com/acme/tool", "acme/tool"),
        ("https://github.com/acme/tool.git", "acme/tool"),
        ("https://GitHub.com/acme/tool/", "acme/tool"),
        ("http://github.com/acme/tool", None),
        ("https://github.com:8443/acme/tool", None),
        ("https://me:secret@github.com/acme/tool", None),
        ("https://github.com.evil.example/acme/tool", None),
        ("https://evil.example/acme/tool", None),
        ("https://github.com/acme/tool?x=1", None),
        ("https://github.com/acme/tool/tree/main", None),
        ("git@github.com:acme/tool.git", None),
        ("ssh://git@github.com/acme/tool", None),
        ("file:///srv/data/acme/tool", None),
        ("ext::sh -c id", None),
        ("acme/..", None),
        ("--upload-pack=id/x", None),
    ],
)
def test_a_repository_is_one_of_the_site(repository: str, full_name: str | None) -> None:
    if full_name is not None:
        assert Site().full_name(repository) == full_name
        return
    with pytest.raises(OperationError) as raised:
        Site().full_name(repository)
    assert raised.value.code is Code.VALIDATION_INVALID_FORMAT
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("type_", "params", "refused"),
    [
        ("github_clone", {"repository_url": "acme/x", "target_directory": "/srv/data/x"}, None),
        ("github_clone", {"repository_url": "other/x", "target_directory": "/srv/data/x"}, "'other/x'"),
        ("github_clone", {"repository_url": "acme/x", "target_directory": "/etc/x"}, "'/etc/x'"),
        ("github_clone", {"repository_url": "acme/x", "target_directory": "/srv/data/../x"}, "'/srv/data/../x'"),
        ("github_clone", {"repository_url": "acme/x", "target_directory": "/srv/data/x", "credential": "root"}, "'root'"),
        ("github_create_repo", {"repo_name": "x", "organisation": "other"}, "'other/x'"),
        ("github_push", {"local_directory": "/srv/other"}, "'/srv/other'"),
        ("github_push", {"local_directory": "/srv/data/x", "force": True}, "a forced push"),
        ("github_list_repos", {"credential": "root"}, "'root'"),
    ],
)
def test_the_policy_is_asked_for_all_that_parameters_name(
    type_: str, params: dict[str, Any], refused: str | None, tmp_path: Path
) -> None:
    operation = registry().get(type_)
    permit = context(make_config(tmp_path, CONFIG), type_, params).permit
    if refused is None:
        operation.allow(operation.parse(params), permit)
        return
    with pytest.raises(OperationError, match="the policy does not allow") as raised:
        operation.allow(operation.parse(params), permit)
    assert refused in raised.value.details["refused"]


def test_a_token_goes_over_tls_only(tmp_path: Path) -> None:
    permit = context(make_config(tmp_path, CONFIG), "github_clone", {}).permit
    site = place_of(permit, "enterprise")
    assert (site.api_url, site.url_of("a/b")) == ("https://ghe.example.com/api/v3", "https://ghe.example.com/a/b.git")
    assert place_of(permit, None) == Site()
    with pytest.raises(OperationError) as raised:
        place_of(permit, "plain")
    assert raised.value.code is Code.CONFIGURATION_ERROR


@pytest.mark.parametrize(
    ("status", "headers", "code", "kind"),
    [
        (401, {}, Code.GITHUB_AUTHENTICATION_FAILED, ErrorCode.PERMANENT),
        (403, {}, Code.GITHUB_AUTHENTICATION_FAILED, ErrorCode.PERMANENT),
        (403, {"x-ratelimit-remaining": "12"}, Code.GITHUB_AUTHENTICATION_FAILED, ErrorCode.PERMANENT),
        (403, {"X-RateLimit-Remaining": "0"}, Code.GITHUB_RATE_LIMIT_EXCEEDED, ErrorCode.TRANSIENT),
        (403, {"Retry-After": "60"}, Code.GITHUB_RATE_LIMIT_EXCEEDED, ErrorCode.TRANSIENT),
        (429, {}, Code.GITHUB_RATE_LIMIT_EXCEEDED, ErrorCode.TRANSIENT),
        (404, {}, Code.GITHUB_REPO_NOT_FOUND, ErrorCode.PERMANENT),
        (422, {}, Code.GITHUB_API_ERROR, ErrorCode.PERMANENT),
        (502, {}, Code.GITHUB_API_ERROR, ErrorCode.TRANSIENT),
    ],
)
def test_what_a_status_means(status: int, headers: dict[str, str], code: Code, kind: ErrorCode) -> None:
    found = of_status(status, headers)
    assert (found.code, found.kind) == (code, kind)
