"""git as a child process: in a bare environment, where alone the token is, and without a hook or a helper of anybody's."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.github.base import Site, of_status
from avtomatika.operations.transport import judge_transport
from avtomatika.processes import Process, end, spawn

#: The first that reads settings from its environment (GIT_CONFIG_COUNT).
_OLDEST = (2, 31)
#: Of what git says: bytes that are kept, and lines that are logged.
_MAX_OUTPUT = 1 << 20
_MAX_LINES = 200
_PASSED_ON = (
    "PATH",
    "LD_LIBRARY_PATH",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
)
_PROGRESS = re.compile(r"^(?:remote: )?(?P<phase>[A-Z][a-z]+(?: [a-z]+)*): +(?P<percent>\d{1,3})% \(\d+/\d+\)")
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.sshCommand": "false",
    "core.askPass": "",
    "core.editor": "false",
    "core.pager": "cat",
    "credential.helper": "",
    "commit.gpgSign": "false",
    "push.gpgSign": "false",
    "push.recurseSubmodules": "no",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "protocol.allow": "never",
    "protocol.ext.allow": "never",
    "protocol.file.allow": "never",
    "protocol.https.allow": "always",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
}


@dataclass(frozen=True, slots=True)
class Done:
    """How git ended. `exit_code` is negative where a signal ended it."""

    exit_code: int
    stdout: str
    stderr: str


class Git:
    """git for one operation, on one site.

    Args:
        home: an empty directory; nobody's configuration lies there.
        identity: the name and the address of whoever commits.
    """

    def __init__(
        self, op: OperationContext, site: Site, home: Path, identity: tuple[str, str] = ("avtomatika", "avtomatika@localhost")
    ) -> None:
        self.op = op
        self.site = site
        self.home = home
        self._identity = identity
        self._lines = 0

    def environment(self, directory: Path) -> dict[str, str]:
        name, email = self._identity
        env = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
        env |= {
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "false",
            "GIT_CEILING_DIRECTORIES": str(directory.parent),
            "GIT_AUTHOR_NAME": name,
            "GIT_AUTHOR_EMAIL": email,
            "GIT_COMMITTER_NAME": name,
            "GIT_COMMITTER_EMAIL": email,
        }
        settings = dict(_SETTINGS)
        if self.site.git_url.startswith("http://"):  # of this very machine, as `base` has made sure
            settings["protocol.http.allow"] = "always"
        if self.site.ca_file is not None:
            settings["http.sslCAInfo"] = self.site.ca_file
        if self.site.authorization is not None:
            settings[f"http.{self.site.git_url}/.extraHeader"] = f"Authorization: {self.site.authorization}"
        env["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, (key, value) in enumerate(settings.items()):
            env[f"GIT_CONFIG_KEY_{number}"] = key
            env[f"GIT_CONFIG_VALUE_{number}"] = value
        return env

    def run(
        self,
        directory: Path,
        *argv: str,
        stdin: bytes = b"",
        progress: Callable[[str, float], None] = lambda phase, share: None,
        sink: Callable[[bytes], None] | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> Done:
        """Runs git there until it ends; a stop ends it, and all that it has started.

        Args:
            progress: is told the phase and how much of it is done, 0..1.
            sink: gets what git writes to stdout instead of `Done.stdout`.
            tick: is called now and then; what it raises ends git, too.
        """
        with tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            process = spawn(
                ["git", *argv],
                sig=signal.SIGTERM,  # it takes its lock files away
                env=self.environment(directory),
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=directory,
            )
        try:
            out, err = self._talk(process, progress, sink, tick)
        finally:
            end([process], (signal.SIGTERM, 5.0))
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        return Done(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))

    def _talk(
        self,
        process: Process,
        progress: Callable[[str, float], None],
        sink: Callable[[bytes], None] | None,
        tick: Callable[[], None],
    ) -> tuple[bytes, bytes]:
        out, err, line = bytearray(), bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                self.op.checkpoint()
                tick()
                for key, _ in selector.select(0.2):
                    chunk = _read(key.fileobj)  # type: ignore[arg-type]
                    if not chunk:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stdout:
                        if sink is not None:
                            sink(chunk)
                        elif len(out) < _MAX_OUTPUT:
                            out += chunk
                    else:
                        line += chunk
                        *lines, rest = re.split(rb"[\r\n]", bytes(line))
                        line = bytearray(rest[:4096])
                        for said in lines:
                            self._heard(said, err, progress)
        while process.poll() is None:  # it has closed its streams, and is about to end
            self.op.wait(0.02)
        self._heard(bytes(line), err, progress)
        return bytes(out), bytes(err)

    def _heard(self, line: bytes, kept: bytearray, progress: Callable[[str, float], None]) -> None:
        text = _CONTROLS.sub("", line.decode(errors="replace")).strip()[:1000]
        if not text:
            return
        if (found := _PROGRESS.match(text)) is not None:
            progress(found["phase"], min(100, int(found["percent"])) / 100)
            return
        kept += f"{text}\n".encode()
        del kept[:-4096]
        self._lines += 1
        if self._lines <= _MAX_LINES:
            self.op.log(f"git: {text}")

    def must(self, directory: Path, *argv: str, stdin: bytes = b"") -> str:
        """The output of a command that has no reason to fail; OperationError where it does."""
        done = self.run(directory, *argv, stdin=stdin)
        if done.exit_code != 0:
            raise broken(done, directory, argv[0])
        return done.stdout.strip()

    def remote_head(self, directory: Path, full_name: str, branch: str, *kinds: str) -> str | None:
        """The commit of a branch at the site (or of another kind of ref, such as ``refs/tags/``); None where there is none."""
        refs = [f"{kind}{branch}" for kind in kinds or ("refs/heads/",)]
        done = self.run(directory, "ls-remote", "--exit-code", self.site.url_of(full_name), *refs)
        if done.exit_code == 2:
            return None
        if done.exit_code != 0:
            raise self.explain(done, directory, full_name, "git-upload-pack")
        return done.stdout.split("\t", 1)[0].strip()

    def explain(self, done: Done, directory: Path, full_name: str, service: str) -> OperationError:
        """Why git failed with a repository. git says it in words alone, so the site itself is asked, as git asks it."""
        try:
            response = httpx.get(
                f"{self.site.url_of(full_name)}/info/refs",
                params={"service": service},
                headers={} if self.site.authorization is None else {"Authorization": self.site.authorization},
                timeout=15,
                verify=httpx.create_ssl_context(verify=self.site.ca_file or True),
            )
        except httpx.TransportError as exc:
            return judge_transport(exc, "GitHub") or broken(done, directory, service)
        if response.is_redirect:
            return OperationError(TaskErrorCode.GITHUB_REPO_NOT_FOUND, f"{full_name} has moved: name it as it is called now")
        if response.is_error:
            return of_status(response.status_code, response.headers, what=f"the repository {full_name}")
        return broken(done, directory, service)


def broken(done: Done, directory: Path, what: str) -> OperationError:
    """A failure that the site is not the cause of."""
    details = {"exit_code": done.exit_code, "stderr": done.stderr[-2000:]}
    place = next(path for path in (directory, *directory.parents) if path.exists())
    found = os.statvfs(place)
    if found.f_bavail * found.f_frsize < 1 << 20 or found.f_favail == 0 < found.f_files:
        return OperationError(TaskErrorCode.SYSTEM_DISK_SPACE, f"there is no space left for {directory}", details=details)
    if not os.access(place, os.W_OK | os.X_OK):
        return OperationError(TaskErrorCode.SYSTEM_PERMISSION_DENIED, f"the worker may not write to {place}", details=details)
    if done.exit_code < 0:
        return OperationError(
            TaskErrorCode.SYSTEM_PROCESS_KILLED, f"git {what} was ended by signal {-done.exit_code}", details=details
        )
    return OperationError(
        TaskErrorCode.GITHUB_API_ERROR,
        f"git {what} failed with exit code {done.exit_code}",
        details=details,
        kind=ErrorCode.TRANSIENT,
    )


def _read(stream: IO[bytes]) -> bytes:
    return os.read(stream.fileno(), 1 << 16)


@contextmanager
def opened_git(op: OperationContext, site: Site, identity: tuple[str, str] | None = None) -> Iterator[Git]:
    """git with a home of its own; OperationError (CONFIGURATION_ERROR) where it is too old to be kept in check."""
    with tempfile.TemporaryDirectory(prefix="avtomatika-git-") as home:
        git = Git(op, site, Path(home)) if identity is None else Git(op, site, Path(home), identity)
        said = git.must(Path(home), "version")
        found = re.search(r"(\d+)\.(\d+)", said)
        if found is None or (int(found[1]), int(found[2])) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"{said or 'git'} is too old: install {oldest} or later")
        yield git
