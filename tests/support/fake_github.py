"""GitHub on a local port: its REST API, and git over HTTP by git's own server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from base64 import b64decode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.fakes import FakeService

TOKEN = "ghp_0123456789abcdefghijklmnopqrstuvwxyz"
READER = "ghp_only_reads_456789abcdefghijklmnopqrst"
API, GIT = "/api/v3", "/git"


@dataclass
class FakeGitHub(FakeService):
    """A user ``octocat`` and an organisation ``octo-org``.

    Attributes:
        root: bare repositories: ``<owner>/<name>.git``.
        hold: while it is set, no pack is sent to its end.
    """

    root: Path = field(kw_only=True)
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    hold: bool = False

    @property
    def service(self) -> str:
        """Of the credential, as TOML."""
        return f'service = {{ api_url = "{self.url}{API}", git_url = "{self.url}{GIT}" }}'

    def add(self, full_name: str, *, private: bool = True, files: dict[str, str] | None = None) -> Path:
        """A repository with a commit of these files on main; an empty one without any."""
        path = self.root / f"{full_name}.git"
        _git(self.root, "init", "-q", "--bare", "--initial-branch=main", str(path))
        _git(path, "config", "http.receivepack", "true")
        if files is not None:
            commit(path, "main", files)
        owner, name = full_name.split("/")
        self.repos[full_name] = {
            "id": len(self.repos) + 1, "name": name, "full_name": full_name, "private": private, "description": None,
            "owner": self._owner(owner), "html_url": f"{self.url}{GIT}/{full_name}", "url": f"{self.url}{API}/repos/{full_name}",
            "clone_url": f"{self.url}{GIT}/{full_name}.git", "default_branch": "main", "language": "Python", "size": 12,
            "archived": False, "fork": False, "created_at": "2026-01-02T03:04:05Z", "pushed_at": "2026-01-03T03:04:05Z",
        }  # fmt: skip
        return path

    def _owner(self, login: str) -> dict[str, Any]:
        kind = "Organization" if login == "octo-org" else "User"
        place = "orgs" if kind == "Organization" else "users"
        return {
            "login": login,
            "id": 1,
            "type": kind,
            "url": f"{self.url}{API}/{place}/{login}",
            "html_url": f"{self.url}{GIT}/{login}",
        }

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(f"{API}/user", self._me),
            web.get(f"{API}/user/repos", self._my_repos),
            web.post(f"{API}/user/repos", self._create),
            web.get(f"{API}/users/{{owner}}", self._user),
            web.get(f"{API}/orgs/{{owner}}", self._user),
            web.get(f"{API}/users/{{owner}}/repos", self._repos_of),
            web.get(f"{API}/orgs/{{owner}}/repos", self._repos_of),
            web.post(f"{API}/orgs/{{owner}}/repos", self._create),
            web.get(f"{API}/repos/{{owner}}/{{name}}", self._repo),
            web.route("*", f"{GIT}/{{tail:.*}}", self._smart_http),
        ]

    def _token(self, request: web.Request) -> str | None:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            return b64decode(value).decode().partition(":")[2]
        return value or None

    def _need_token(self, request: web.Request) -> None:
        if self._token(request) not in (TOKEN, READER):
            raise web.HTTPUnauthorized(text='{"message": "Bad credentials", "status": "401"}', content_type="application/json")

    async def _me(self, request: web.Request) -> web.Response:
        self._need_token(request)
        return web.json_response(self._owner("octocat"))

    async def _user(self, request: web.Request) -> web.Response:
        if request.match_info["owner"] not in ("octocat", "octo-org", "hubot"):
            return _not_found()
        return web.json_response(self._owner(request.match_info["owner"]))

    async def _repo(self, request: web.Request) -> web.Response:
        found = self.repos.get(f"{request.match_info['owner']}/{request.match_info['name']}")
        if found is None or (found["private"] and self._token(request) not in (TOKEN, READER)):
            return _not_found()
        return web.json_response(found)

    async def _create(self, request: web.Request) -> web.Response:
        self._need_token(request)
        body = await request.json()
        full_name = f"{request.match_info.get('owner', 'octocat')}/{body['name']}"
        if full_name in self.repos:
            error = {
                "resource": "Repository",
                "code": "custom",
                "field": "name",
                "message": "name already exists on this account",
            }
            return web.json_response({"message": "Repository creation failed.", "errors": [error]}, status=422)
        if body.get("gitignore_template") == "NoSuch":
            return web.json_response({"message": "Validation Failed", "errors": [{"code": "invalid"}]}, status=422)
        files = {"README.md": "hello"} if body.get("auto_init") else None
        await asyncio.to_thread(lambda: self.add(full_name, private=body.get("private", False), files=files))
        self.repos[full_name]["description"] = body.get("description")
        return web.json_response(self.repos[full_name], status=201)

    async def _my_repos(self, request: web.Request) -> web.Response:
        self._need_token(request)
        return self._page(request, [repo for name, repo in self.repos.items() if not name.startswith("hubot/")])

    async def _repos_of(self, request: web.Request) -> web.Response:
        owner = request.match_info["owner"]
        public = "/users/" in request.path
        found = [repo for name, repo in self.repos.items() if name.startswith(f"{owner}/") and not (public and repo["private"])]
        return self._page(request, found)

    def _page(self, request: web.Request, repos: list[dict[str, Any]]) -> web.Response:
        page, size = int(request.query.get("page", 1)), int(request.query.get("per_page", 30))
        headers = {}
        if len(repos) > page * size:
            headers["Link"] = f'<{self.url}{request.path}?per_page={size}&page={page + 1}>; rel="next"'
        return web.json_response(repos[(page - 1) * size : page * size], headers=headers)

    async def _smart_http(self, request: web.Request) -> web.StreamResponse:
        """As GitHub answers: 401 to the unknown, 404 for what a token may not see, 403 for what it may not write."""
        path = request.match_info["tail"]
        full_name = "/".join(path.split("/")[:2]).removesuffix(".git")
        repo, token = self.repos.get(full_name), self._token(request)
        if token not in (TOKEN, READER) and (token is not None or repo is None or repo["private"]):
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="GitHub"'})
        if repo is None:
            return web.Response(status=404, text="Repository not found.")
        writes = path.endswith("git-receive-pack") or request.query.get("service") == "git-receive-pack"
        if writes and token != TOKEN:
            return web.Response(status=403 if token else 401, headers={"WWW-Authenticate": 'Basic realm="GitHub"'})
        return await self._backend(request, path, token)

    async def _backend(self, request: web.Request, path: str, token: str | None) -> web.StreamResponse:
        headers = request.headers
        env = {
            "PATH": os.environ["PATH"], "HOME": str(self.root), "GIT_CONFIG_NOSYSTEM": "1", "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": f"/{path}", "QUERY_STRING": request.query_string,
            "REQUEST_METHOD": request.method, "CONTENT_TYPE": headers.get("Content-Type", ""),
            "GIT_PROTOCOL": headers.get("Git-Protocol", ""),
        }  # fmt: skip
        if token is not None:
            env["REMOTE_USER"] = "octocat"
        body = await request.read()  # aiohttp has unpacked it
        env["CONTENT_LENGTH"] = str(len(body))
        process = await asyncio.create_subprocess_exec(
            "git", "http-backend", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )
        said, _ = await process.communicate(body)
        head, _, content = said.partition(b"\r\n\r\n")
        answer = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(answer.pop("Status", "200").split()[0])
        response = web.StreamResponse(status=status, headers=answer)
        await response.prepare(request)
        if self.hold and path.endswith("git-upload-pack") and b"PACK" in content:
            await response.write(content[: len(content) // 2])
            while self.hold:
                await asyncio.sleep(0.02)
        await response.write(content)
        return response


def _not_found() -> web.Response:
    return web.json_response(
        {"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"}, status=404
    )


def commit(bare: Path, branch: str, files: dict[str, str]) -> str:
    """One more commit on a branch of a bare repository; its id."""
    with tempfile.TemporaryDirectory() as folder:
        _git(Path(folder), "init", "-q", f"--initial-branch={branch}")
        _git(Path(folder), "remote", "add", "origin", str(bare))
        if _git(Path(folder), "ls-remote", "origin", branch):
            _git(Path(folder), "pull", "-q", "origin", branch)
        for name, text in files.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_text(text)
        _git(Path(folder), "add", "--all")
        _git(Path(folder), "commit", "-q", "-m", "a commit")
        _git(Path(folder), "push", "-q", "origin", branch)
        return _git(Path(folder), "rev-parse", "HEAD")


def git(folder: Path, *argv: str) -> str:
    """git in a folder, as somebody with no configuration."""
    return _git(folder, *argv)


def _git(folder: Path, *argv: str) -> str:
    identity = {
        f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "t"), ("EMAIL", "t@t"))
    }
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", **identity}
    done = subprocess.run(["git", *argv], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"git {argv}: {done.stderr}"
    return done.stdout.strip()
