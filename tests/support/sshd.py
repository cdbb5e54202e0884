"""A real OpenSSH server on a port of its own, with keys of its own; nothing of this machine's own server or user is touched."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from avtomatika.jobs import Client
from avtomatika.operations.config import OperationsConfig, read_config
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped
from avtomatika.operations.policy import permit_of
from avtomatika.operations.registry import registry
from tests.support.polling import DEADLINE, eventually
from tests.support.processes import MARK, ManagedProcess, free_port, port_is_open
from tests.support.requirements import missing, require

#: Where Debian's sshd insists on an empty directory, when it is root that runs it.
_PRIVSEP = Path("/run/sshd")


def keygen(path: Path, *options: str, type_: str = "ed25519", passphrase: str = "") -> Path:
    """Makes a key pair and returns the private key's path."""
    command = ["ssh-keygen", "-q", "-t", type_, "-N", passphrase, "-C", path.name, "-f", str(path), *options]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return path


def public_key(path: Path) -> str:
    """``ssh-ed25519 AAAA…``, without a comment."""
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


class Sshd(ManagedProcess):
    """An sshd in which the user that runs the tests can log in with `client_key`.

    Attributes:
        options: lines of its configuration that replace the usual ones.
        username: who can log in.
        client_key: the private key that it accepts.
        host_key: its own private key.
    """

    def __init__(
        self, directory: Path, options: Mapping[str, str] | None = None, *, port: int = 0, host_key_type: str = "ed25519"
    ):
        directory.mkdir(parents=True, exist_ok=True)
        binary = require("sshd")
        if os.getuid() == 0:
            try:
                _PRIVSEP.mkdir(mode=0o755, exist_ok=True)
            except OSError as exc:
                missing("sshd", f"{_PRIVSEP} cannot be made ({exc})")
        self.directory = directory
        self.options = dict(options or {})
        self.port = port or free_port()
        self.username = pwd.getpwuid(os.getuid()).pw_name
        self.client_key = keygen(directory / "client")
        self.host_key = keygen(directory / "host", type_=host_key_type)
        shutil.copy(f"{self.client_key}.pub", directory / "authorized_keys")
        super().__init__(f"sshd-{self.port}", [binary, "-D", "-e", "-f", str(directory / "sshd_config")], directory=directory)

    def start(self) -> None:
        usual = {
            "ListenAddress": "127.0.0.1",
            "Port": str(self.port),
            "HostKey": str(self.host_key),
            "PidFile": str(self.directory / "sshd.pid"),
            "AuthorizedKeysFile": str(self.directory / "authorized_keys"),
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "LogLevel": "VERBOSE",
            "MaxStartups": "100",
            "PrintMotd": "no",
            "Subsystem": "sftp internal-sftp",
            # What it starts for its users is found again, and ended with it. A bash of a deeper level reads no .bashrc.
            "SetEnv": f"{MARK}={self.env[MARK]} SHLVL=2",
        }
        lines = [f"{name} {value}" for name, value in {**usual, **self.options}.items() if value]
        (self.directory / "sshd_config").write_text("\n".join(lines) + "\n")
        super().start()

    def wait_ready(self, deadline: float = DEADLINE) -> None:
        def look() -> bool:
            if not self.running:
                raise RuntimeError(f"{self.name} ended with {self.returncode}:\n{self.log()[-5000:]}")
            return port_is_open(self.port)

        eventually(look, deadline=deadline, what=f"port {self.port} of {self.name}")

    def change_host_key(self) -> None:
        """From its next start on it is another machine."""
        for path in (self.host_key, Path(f"{self.host_key}.pub")):
            path.unlink()
        keygen(self.host_key)

    @property
    def known_hosts(self) -> str:
        """The line of a known_hosts file."""
        return f"[127.0.0.1]:{self.port} {public_key(self.host_key)}"

    def host(self, name: str = "box", **more: str) -> str:
        """Its table of the inventory."""
        values = {"address": "127.0.0.1", "credential": "key", **more}
        lines = [f"[hosts.{name}]", f"port = {self.port}", *(f'{key} = "{value}"' for key, value in values.items())]
        if not {"host_keys", "fingerprint", "known_hosts"} & set(more):
            lines.append(f'host_keys = ["{public_key(self.host_key)}"]')
        return "\n".join(lines) + "\n"

    def credential(self, name: str = "key", key: Path | None = None, **more: str) -> str:
        """The table of a credential that it accepts."""
        values = {"username": self.username, "key_file": str(key or self.client_key), **more}
        return "\n".join([f"[credentials.{name}]", *(f'{key} = "{value}"' for key, value in values.items())]) + "\n"

    def config(self, policy: str = "") -> str:
        """A whole operations.toml: the host ``box``, the credential ``key``, and a policy that allows all of SSH and SCP."""
        return self.credential() + self.host() + (policy or POLICY)


#: Everything that the SSH operations can do, on every host of the inventory.
POLICY = """
[policy.default]
operations = ["scp_*", "ssh_*"]
hosts = ["*"]
free_text = true
remote_roots = ["/"]
local_roots = ["/"]
"""


def config_of(text: str, directory: Path) -> OperationsConfig:
    """An operations.toml, read."""
    path = directory / f"operations-{abs(hash(text))}.toml"
    path.write_text(text)
    return read_config(path)


def context(
    config: OperationsConfig,
    type_: str = "ssh_execute",
    *,
    role: str = "default",
    seconds: float | None = 60,
    job_id: str = "job",
) -> OperationContext:
    """What an operation of a client of this role is given."""
    permit = permit_of(Client(name="somebody", role=role), "operation", config)
    return OperationContext(type_, {}, permit, task_id="task", job_id=job_id, seconds=seconds)


@contextlib.contextmanager
def running(server: Sshd) -> Iterator[Sshd]:
    """Starts it for a block."""
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()


def perform(op: OperationContext, **params: Any) -> Any:
    """Runs the operation of a context as a worker does: checks, policy, and what its exceptions mean.

    Raises:
        OperationError, OperationStopped
    """
    operation = registry().get(op.type)
    parsed = operation.parse(params)
    operation.allow(parsed, op.permit)
    try:
        return op.mask.json(operation.run(parsed, op))
    except (OperationError, OperationStopped):
        raise
    except Exception as exc:
        known = operation.meaning(exc)
        if known is None:
            raise
        raise known from exc


def told(op: OperationContext) -> str:
    """All that an operation has logged."""
    report = op.take_report()
    return "\n".join(line for _, line in report.lines) if report else ""
