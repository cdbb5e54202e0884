"""A policy, its credentials and a folder for operations on the fake GitHub."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from avtomatika.operations.config import OperationsConfig
from avtomatika.operations.errors import OperationError
from tests.support.fake_github import READER, TOKEN, FakeGitHub
from tests.support.fakes import call, make_config
from tests.support.processes import free_port

#: The token as git sends it.
SENT = b64encode(f"x-access-token:{TOKEN}".encode()).decode()


@dataclass
class GitHubSite:
    fake: FakeGitHub
    config: OperationsConfig
    root: Path

    async def __call__(self, type_: str, **params: Any) -> Any:
        return await call(self.config, type_, params)

    async def fails(self, type_: str, **params: Any) -> OperationError:
        with pytest.raises(OperationError) as raised:
            await call(self.config, type_, params)
        assert TOKEN not in f"{raised.value} {raised.value.details}"
        return raised.value

    async def clone(self, name: str = "octocat/tool", **params: Any) -> Path:
        result = await self("github_clone", repository_url=name, target_directory=str(self.root / "clone"), **params)
        return Path(result["directory"])


def config_text(fake: FakeGitHub, root: Path) -> str:
    return f"""
[credentials.github]
token_env = "FAKE_GITHUB_TOKEN"
{fake.service}
[credentials.reader]
token_env = "FAKE_GITHUB_READER"
{fake.service}
[credentials.wrong]
token_env = "FAKE_GITHUB_WRONG"
{fake.service}
[credentials.nowhere]
token_env = "FAKE_GITHUB_TOKEN"
service = {{ api_url = "http://127.0.0.1:{free_port()}", git_url = "http://127.0.0.1:{free_port()}" }}
[policy.default]
operations = ["github_*"]
credentials = ["*"]
local_roots = ["{root}"]
options = {{ repositories = ["octocat/*", "octo-org/*"], force_push = true, max_clone_bytes = 100000 }}
"""


@contextmanager
def github_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHubSite]:
    monkeypatch.setenv("FAKE_GITHUB_TOKEN", TOKEN)
    monkeypatch.setenv("FAKE_GITHUB_READER", READER)
    monkeypatch.setenv("FAKE_GITHUB_WRONG", "ghp_wrong_token_of_nobody")
    root = tmp_path / "data"
    root.mkdir()
    with FakeGitHub(root=tmp_path / "served") as fake:
        fake.root.mkdir()
        yield GitHubSite(fake, make_config(tmp_path, config_text(fake, root)), root)
