"""git as a child process: its environment, its progress, and what its failures mean."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from avtomatika.operations.codes import TaskErrorCode as Code
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.github.base import Site, judge
from avtomatika.operations.github.git import Done, Git, broken, opened_git
from tests.support.fakes import context, make_config
from tests.support.processes import REPOSITORY, clean_environment


@pytest.fixture
def op(tmp_path: Path) -> OperationContext:
    return context(make_config(tmp_path, ""), "github_clone", {})


def test_the_environment_is_bare(op: OperationContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_SSH_COMMAND", "GIT_TRACE_CURL", "AWS_SECRET_ACCESS_KEY", "GIT_CONFIG_PARAMETERS"):
        monkeypatch.setenv(name, "x")
    env = Git(op, Site(token="ghp_secret"), tmp_path).environment(tmp_path)
    assert not {"GIT_DIR", "GIT_SSH_COMMAND", "GIT_TRACE_CURL", "AWS_SECRET_ACCESS_KEY", "GIT_CONFIG_PARAMETERS"} & set(env)
    count = int(env["GIT_CONFIG_COUNT"])
    settings = {env[f"GIT_CONFIG_KEY_{number}"]: env[f"GIT_CONFIG_VALUE_{number}"] for number in range(count)}
    assert settings["http.https://github.com/.extraHeader"].startswith("Authorization: Basic ")
    assert (settings["protocol.allow"], settings["core.hooksPath"]) == ("never", "/dev/null")
    assert "protocol.http.allow" not in settings


@pytest.mark.parametrize("url", ["ext::touch {ran}", "file://{folder}", "ssh://example.invalid/x", "http://127.0.0.1:1/x"])
def test_https_is_the_only_protocol(op: OperationContext, tmp_path: Path, url: str) -> None:
    folder = tmp_path / "folder"
    subprocess.run(["git", "init", "-q", str(folder)], check=True, env=clean_environment())
    with opened_git(op, Site()) as git:
        done = git.run(tmp_path, "ls-remote", url.format(ran=tmp_path / "ran", folder=folder))
    assert done.exit_code == 128
    assert not (tmp_path / "ran").exists()


def test_progress_is_read_from_its_numbers(op: OperationContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        "printf 'Cloning\\nremote: Counting objects:  50%% (1/2)\\rReceiving objects:   7%% (7/100), 1.00 MiB | 2 MiB/s\\r' >&2\n"
        "printf 'Receiving objects: 100%% (100/100), done.\\nremote: \\033[31mred\\033[0m\\n' >&2\necho out\nexit 3\n"
    )
    program.chmod(0o755)
    git = Git(op, Site(), tmp_path)
    seen: list[tuple[str, float]] = []
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    done = git.run(tmp_path, "clone", progress=lambda phase, share: seen.append((phase, share)))
    assert (done.exit_code, done.stdout) == (3, "out\n")
    assert seen == [("Counting objects", 0.5), ("Receiving objects", 0.07), ("Receiving objects", 1.0)]
    assert done.stderr == "Cloning\nremote: red\n"


def test_a_stop_ends_all_that_git_has_started(op: OperationContext, tmp_path: Path) -> None:
    git = Git(op, Site(), tmp_path)
    op.stop(StopReason.CANCEL)
    with pytest.raises(OperationStopped):
        git.run(tmp_path, "version")


def test_what_a_failure_on_this_machine_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken(Done(128, "", ""), tmp_path / "new" / "one", "clone").code is Code.GITHUB_API_ERROR
    assert broken(Done(-9, "", ""), tmp_path, "clone").code is Code.SYSTEM_PROCESS_KILLED
    full = SimpleNamespace(f_bavail=0, f_frsize=4096, f_favail=10, f_files=100)
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    assert broken(Done(128, "", "No space left"), tmp_path, "clone").code is Code.SYSTEM_DISK_SPACE
    for number, code in ((errno.EACCES, Code.SYSTEM_PERMISSION_DENIED), (errno.ENOSPC, Code.SYSTEM_DISK_SPACE)):
        known = judge(OSError(number, "?"))
        assert isinstance(known, OperationError)
        assert known.code is code
    assert judge(OSError(errno.EIO, "?")) is None


def test_the_families_load_without_their_libraries() -> None:
    program = (
        "import sys; sys.modules |= {'github': None, 'ollama': None}\n"
        "from avtomatika.operations import github, ollama, vast\n"
        "print(github.family.lacks(), ollama.family.lacks(), vast.family.lacks(), sep='\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "github cannot be imported: pip install 'avtomatika[github]'",
        "ollama cannot be imported: pip install 'avtomatika[ollama]'",
        "None",
    ]
