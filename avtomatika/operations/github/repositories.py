"""Repositories by GitHub's API: one is made, many are listed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, PolicyError
from avtomatika.operations.github.base import NAME, OWNER, GitHubParams, Site, family, judge, place_of, site_of
from avtomatika.operations.policy import Permit
from avtomatika.results import JSON

if TYPE_CHECKING:
    from github import Github
    from github.AuthenticatedUser import AuthenticatedUser
    from github.Organization import Organization
    from github.Repository import Repository

#: Seconds for one request.
_TIMEOUT = 15


@contextmanager
def opened(site: Site) -> Iterator[Github]:
    """A client that asks each thing once: what is tried again, and when, is for the engine to say."""
    import github

    client = github.Github(
        auth=None if site.token is None else github.Auth.Token(site.token),
        base_url=site.api_url,
        timeout=_TIMEOUT,
        verify=site.ca_file or True,
        retry=None,
        seconds_between_requests=None,
        seconds_between_writes=None,
        per_page=100,
    )
    try:
        yield client
    finally:
        client.close()


class CreateRepository(GitHubParams):
    """Makes a repository, of the credential's owner or of an organisation."""

    repo_name: str = Field(pattern=rf"^{NAME}\Z")
    organisation: str | None = Field(None, pattern=rf"^{OWNER}\Z")
    description: str = Field("", max_length=350)
    private: bool = True
    initialize: bool = False
    gitignore_template: str | None = Field(None, pattern=r"^[A-Za-z0-9+._-]{1,100}\Z")
    license_template: str | None = Field(None, pattern=r"^[A-Za-z0-9+._-]{1,100}\Z")
    credential: str = "github"


def _guard_create(params: CreateRepository, permit: Permit) -> None:
    place_of(permit, params.credential)
    if params.organisation is not None:
        permit.matches("repositories", f"{params.organisation}/{params.repo_name}")


@family.operation("github_create_repo", timeout_seconds=120, guard=_guard_create)
def github_create_repo(params: CreateRepository, op: OperationContext) -> JSON:
    """Makes a repository."""
    with opened(site_of(op, params.credential)) as client:
        owner: Any = client.get_user() if params.organisation is None else client.get_organization(params.organisation)
        full_name = f"{owner.login}/{params.repo_name}"
        op.permit.matches("repositories", full_name)
        op.checkpoint()
        if (found := _find(client, full_name)) is not None:
            raise _exists(found)
        op.progress(0.3, f"making {full_name}")
        try:
            made = _create(owner, params)
        except Exception as exc:
            made = _in_spite_of(exc, client, full_name)
    op.log(f"{made.full_name} is there: {made.html_url}")
    return shown(made)


def _create(owner: AuthenticatedUser | Organization, params: CreateRepository) -> Repository:
    templates: dict[str, Any] = {"gitignore_template": params.gitignore_template, "license_template": params.license_template}
    return owner.create_repo(
        params.repo_name,
        description=params.description,
        private=params.private,
        auto_init=params.initialize,
        **{name: value for name, value in templates.items() if value is not None},
    )


def _in_spite_of(exc: Exception, client: Github, full_name: str) -> Repository:
    """The repository, where the request has made it although its answer was lost; else raises what the failure is.

    A moment ago it was not there. GitHub answers a name that is taken and a field that does not fit with the same status.
    """
    known = judge(exc)
    if known is None:
        raise exc
    status = known.details.get("status")
    if known.kind is not ErrorCode.TRANSIENT and status != 422:
        raise known from exc
    found = _find(client, full_name)
    if found is None:
        raise known from exc
    if status == 422:
        raise _exists(found) from exc
    return found


def _find(client: Github, full_name: str) -> Repository | None:
    from github import GithubException

    try:
        return client.get_repo(full_name)
    except GithubException as exc:
        if exc.status == 404:
            return None
        raise


def _exists(found: Repository) -> OperationError:
    return OperationError(
        TaskErrorCode.GITHUB_REPO_ALREADY_EXISTS,
        f"there is a repository {found.full_name} already",
        details={"full_name": found.full_name, "created_at": found.created_at.isoformat()},
    )


class ListRepositories(GitHubParams):
    """Lists the repositories of an owner: a user or an organisation; of the credential's own without one."""

    owner: str | None = Field(None, pattern=rf"^{OWNER}\Z")
    visibility: Literal["all", "public", "private"] = "all"
    limit: int = Field(100, ge=1, le=1000)
    credential: str | None = "github"


@family.operation("github_list_repos", timeout_seconds=120, guard=lambda params, permit: place_of(permit, params.credential))
def github_list_repos(params: ListRepositories, op: OperationContext) -> JSON:
    """Lists repositories: those that the policy allows."""
    if params.owner is None and params.credential is None:
        raise OperationError(
            TaskErrorCode.VALIDATION_MISSING_REQUIRED, "name an owner, or a credential to list what its owner has"
        )
    listed: list[JSON] = []
    truncated = False
    with opened(site_of(op, params.credential)) as client:
        for repository in _of_owner(client, params):
            op.checkpoint()
            if not _is_wanted(repository, params, op.permit):
                continue
            if len(listed) == params.limit:
                truncated = True
                break
            listed.append(shown(repository))
            op.progress(len(listed) / (params.limit + 1), f"{len(listed)} repositories")
    op.log(f"{len(listed)} repositories listed")
    return {"repositories": listed, "count": len(listed), "truncated": truncated}


def _of_owner(client: Github, params: ListRepositories) -> Iterator[Repository]:
    if params.owner is None:
        return iter(client.get_user().get_repos(visibility=params.visibility))
    owner = client.get_user(params.owner)
    if owner.type == "Organization":
        return iter(client.get_organization(params.owner).get_repos(type=params.visibility))
    if params.credential is not None and client.get_user().login.lower() == params.owner.lower():
        return iter(client.get_user().get_repos(visibility=params.visibility, affiliation="owner"))
    return iter(owner.get_repos())


def _is_wanted(repository: Repository, params: ListRepositories, permit: Permit) -> bool:
    if params.visibility != "all" and repository.private is not (params.visibility == "private"):
        return False
    try:
        return permit.matches("repositories", repository.full_name)
    except PolicyError:
        return False


def shown(repository: Repository) -> JSON:
    """What is told of a repository; `size` in KiB."""
    return {
        "full_name": repository.full_name,
        "private": repository.private,
        "description": repository.description or "",
        "default_branch": repository.default_branch,
        "url": repository.html_url,
        "clone_url": repository.clone_url,
        "language": repository.language,
        "size": repository.size,
        "archived": repository.archived,
        "fork": repository.fork,
        "created_at": repository.created_at.isoformat(),
        "pushed_at": None if repository.pushed_at is None else repository.pushed_at.isoformat(),
    }
