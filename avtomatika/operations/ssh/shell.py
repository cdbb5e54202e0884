"""What is sent to the remote shell: a POSIX shell, in which every word that a task brings is quoted."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: A name that a shell can export, and nothing besides.
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Become:
    """Another user on the host.

    Attributes:
        method: ``sudo``, ``su`` or ``doas``.
        has_password: a password is answered where one is asked for.
    """

    user: str
    method: str
    has_password: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """A command as it is sent.

    Attributes:
        command: an argv, or the text of a shell command.
        stdin: whether something is sent to it; it reads nothing otherwise.
        token: what the lines begin with by which the script tells its process ids on stderr.
    """

    command: str | Sequence[str]
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bool = False
    become: Become | None = None
    token: str = field(default_factory=lambda: f"avtomatika-{secrets.token_hex(8)}")

    @property
    def marks(self) -> int:
        """How many such lines come before the command itself begins."""
        return 1 if self.become is None else 2

    @property
    def prompt(self) -> str:
        """What sudo is told to ask with."""
        return f"{self.token}-password:"

    @property
    def text(self) -> str:
        if self.become is None:
            return self._inner()
        return f"{self._mark()}\nexec {become(self.become, self._inner(), self.prompt)}"

    def _mark(self) -> str:
        # sshd makes each command's shell the leader of a session: its number is that of the process group, too.
        return f"echo {self.token} $$ >&2"

    def _inner(self) -> str:
        lines = [self._mark()]
        if not self.stdin:
            # Instead of an end of file, which paramiko may send after the channel is closed, and the connection is lost.
            lines.append("exec </dev/null")
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.env.items()]
        if self.cwd is not None:
            lines.append(f"cd {shlex.quote(self.cwd)} || exit 1")
        lines.append(self.command if isinstance(self.command, str) else f"exec {shlex.join(self.command)}")
        return "\n".join(lines)


def become(how: Become, script: str, prompt: str = "") -> str:
    """A command line that runs a script as another user."""
    user, quoted = shlex.quote(how.user), shlex.quote(script)
    if how.method == "su":
        return f"su -s /bin/sh -c {quoted} {user}"
    if how.method == "doas":
        return f"doas -n -u {user} /bin/sh -c {quoted}"
    asks = f"-S -p {shlex.quote(prompt)}" if how.has_password else "-n"
    return f"sudo {asks} -H -u {user} -- /bin/sh -c {quoted}"


def kill_script(pids: Sequence[int], grace: float = 2.0) -> str:
    """Ends process groups: TERM, and after `grace` seconds KILL. It prints ``gone`` where nothing is left of them."""
    groups = " ".join(f"-{pid}" for pid in pids)
    single = " ".join(map(str, pids))
    steps = max(1, round(grace * 10))
    wait = "i=0; while [ $i -lt {} ] && alive; do sleep 0.1; i=$((i+1)); done"
    return "\n".join(
        [
            f"alive() {{ for p in {groups}; do kill -s 0 -- $p 2>/dev/null && return 0; done; return 1; }}",
            f"kill -s TERM -- {groups} {single} 2>/dev/null",
            wait.format(steps),
            f"kill -s KILL -- {groups} {single} 2>/dev/null",
            wait.format(20),
            "alive || echo gone",
        ]
    )
