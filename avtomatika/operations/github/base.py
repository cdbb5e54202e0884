"""What the operations on GitHub share: the family, what a failure means, where the service is, and names of repositories."""

from __future__ import annotations

import errno
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ConfigDict

from avtomatika.errors import ErrorCode
from avtomatika.operations.base import Family, Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.transport import judge_transport, retry_after, safe_url

if TYPE_CHECKING:
    from avtomatika.operations.policy import Permit

API_URL = "https://api.github.com"
GIT_URL = "https://github.com"

OWNER = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,38})"
NAME = r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,100}"
#: What `git check-ref-format` allows, and nothing that git could take for an option.
BRANCH = r"(?![-/.])(?!.*(?:\.\.|//|/\.|@\{|\.lock(?:/|\Z)|[/.]\Z))[^\x00-\x20\x7f~^:?*\[\\]{1,200}"
_FULL_NAME = re.compile(rf"(?P<owner>{OWNER})/(?P<name>{NAME})")


def judge(exc: BaseException) -> OperationError | None:
    """By the status of an answer and its headers, and by the type of what broke; never by a message's words."""
    status = getattr(exc, "status", None)
    if any(kind.__name__ == "GithubException" for kind in type(exc).__mro__) and isinstance(status, int):
        data = getattr(exc, "data", None)
        said = data.get("message") if isinstance(data, dict) else None
        return of_status(status, getattr(exc, "headers", None), str(said or "")[:500])
    if (known := judge_transport(exc, "GitHub")) is not None or not isinstance(exc, OSError):
        return known
    match exc.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return OperationError(TaskErrorCode.SYSTEM_PERMISSION_DENIED, f"the worker may not write there: {exc.strerror}")
        case errno.ENOSPC | errno.EDQUOT:
            return OperationError(TaskErrorCode.SYSTEM_DISK_SPACE, f"there is no space left: {exc.strerror}")
    return None


def of_status(status: int, headers: Mapping[str, str] | None, said: str = "", what: str = "GitHub") -> OperationError:
    """The failure that an HTTP status of GitHub's stands for."""
    found = {name.lower(): value for name, value in (headers or {}).items()}
    details: dict[str, Any] = {"status": status}
    if said:
        details["message"] = said
    limited = status == 429 or (status == 403 and ("retry-after" in found or found.get("x-ratelimit-remaining") == "0"))
    if limited:
        details |= {"retry_after": retry_after(found), "reset": found.get("x-ratelimit-reset")}
        return OperationError(TaskErrorCode.GITHUB_RATE_LIMIT_EXCEEDED, f"{what} allows no more requests now", details=details)
    if status in (401, 403):
        message = f"{what} refuses the credential" if status == 401 else f"{what}: the credential does not allow this"
        return OperationError(TaskErrorCode.GITHUB_AUTHENTICATION_FAILED, message, details=details)
    if status == 404:
        message = f"{what}: there is no such repository or owner, or the credential may not see it"
        return OperationError(TaskErrorCode.GITHUB_REPO_NOT_FOUND, message, details=details)
    kind = ErrorCode.TRANSIENT if status >= 500 or status == 408 else ErrorCode.PERMANENT
    return OperationError(TaskErrorCode.GITHUB_API_ERROR, f"{what} answers with status {status}", details=details, kind=kind)


family = Family("github", extra="github", modules=("github",), programs=("git",), judge=judge)


class GitHubParams(Params):
    """Its patterns look ahead, which pydantic's own engine cannot."""

    model_config = ConfigDict(regex_engine="python-re")


@dataclass(frozen=True, slots=True)
class Site:
    """Where GitHub is, and who asks.

    Attributes:
        api_url: of the REST API.
        git_url: what the addresses of repositories begin with.
        ca_file: certificates to trust instead of the machine's own.
        token: None for somebody unknown.
    """

    api_url: str = API_URL
    git_url: str = GIT_URL
    ca_file: str | None = None
    token: str | None = field(default=None, repr=False)
    username: str | None = None

    @property
    def authorization(self) -> str | None:
        """The header's value for git, which takes the token as a password."""
        if self.token is None:
            return None
        return "Basic " + b64encode(f"{self.username or 'x-access-token'}:{self.token}".encode()).decode()

    def url_of(self, full_name: str) -> str:
        return f"{self.git_url}/{full_name}.git"

    def full_name(self, repository: str) -> str:
        """``owner/name`` of a repository given so, or by its address at this site.

        Raises OperationError (VALIDATION_INVALID_FORMAT) for anything else.
        """
        path = repository
        if "://" in repository:
            parts, site = urlsplit(repository), urlsplit(self.git_url)
            same = (parts.scheme, parts.netloc.lower()) == (site.scheme, site.netloc.lower())
            if not same or parts.query or parts.fragment or not parts.path.startswith(f"{site.path}/"):
                raise _misfit(repository, f"it has to begin with {self.git_url}/, without a user or a query")
            path = parts.path.removeprefix(f"{site.path}/").removesuffix("/")
        found = _FULL_NAME.fullmatch(path.removesuffix(".git"))
        if found is None:
            raise _misfit(repository, "write owner/name")
        return path.removesuffix(".git")


def _misfit(repository: str, why: str) -> OperationError:
    where = repository.rpartition("@")[2]  # what is before it may be a password
    return OperationError(TaskErrorCode.VALIDATION_INVALID_FORMAT, f"{where!r} is no repository: {why}")


def place_of(permit: Permit, credential: str | None) -> Site:
    """The site that a credential is for, without its secrets; GitHub's own where its ``service`` names none."""
    entry = permit.credential(credential)
    service = entry.service if entry is not None else {}
    api_url, git_url = (
        safe_url(service.get(name) or default, f"credential {credential!r}: {name}")
        for name, default in (("api_url", API_URL), ("git_url", GIT_URL))
    )
    return Site(api_url, git_url, service.get("ca_file"))


def site_of(op: OperationContext, credential: str | None) -> Site:
    """The site with the token of its credential, which is masked from now on in every form that it is sent in."""
    site = place_of(op.permit, credential)
    if credential is None:
        return site
    found = op.credential(credential)
    token = found.token or found.password
    if token is None:
        raise OperationError(
            TaskErrorCode.CONFIGURATION_ERROR, f"credential {credential!r} has no token: set token_env or token_file"
        )
    site = Site(site.api_url, site.git_url, site.ca_file, token, found.username)
    op.hide((site.authorization or "").removeprefix("Basic "))
    return site
