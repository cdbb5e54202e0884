"""What exceptions mean, by their types; and the family where its libraries are missing."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys

import pytest

from avtomatika.errors import ErrorCode
from avtomatika.operations.registry import registry
from avtomatika.operations.ssh.failures import AuthenticationFailed, ConnectionFailed, HostKeyMismatch
from avtomatika.operations.ssh.judge import SCP_CODES, SSH_CODES, judge
from tests.support.processes import REPOSITORY

paramiko = pytest.importorskip("paramiko")
ssh = paramiko.ssh_exception

TRANSIENT, PERMANENT = ErrorCode.TRANSIENT, ErrorCode.PERMANENT


@pytest.mark.parametrize(
    ("exc", "of_ssh", "of_scp", "kind"),
    [
        (ConnectionFailed("gone"), "SSH_CONNECTION_FAILED", "SCP_CONNECTION_FAILED", TRANSIENT),
        (ConnectionFailed("never", permanent=True), "SSH_CONNECTION_FAILED", "SCP_CONNECTION_FAILED", PERMANENT),
        (AuthenticationFailed("no"), "SSH_AUTHENTICATION_FAILED", "SCP_AUTHENTICATION_FAILED", PERMANENT),
        (HostKeyMismatch("other"), "SSH_HOST_KEY_MISMATCH", "SSH_HOST_KEY_MISMATCH", PERMANENT),
        (ssh.AuthenticationException(), "SSH_AUTHENTICATION_FAILED", "SCP_AUTHENTICATION_FAILED", PERMANENT),
        (ssh.PasswordRequiredException(), "SSH_AUTHENTICATION_FAILED", "SCP_AUTHENTICATION_FAILED", PERMANENT),
        (ssh.IncompatiblePeer("kex"), "SSH_CONNECTION_FAILED", "SCP_CONNECTION_FAILED", PERMANENT),
        (ssh.ChannelException(4, "full"), "SSH_CONNECTION_FAILED", "SCP_CONNECTION_FAILED", TRANSIENT),
        (ssh.SSHException("dropped"), "SSH_CONNECTION_FAILED", "SCP_CONNECTION_FAILED", TRANSIENT),
        (
            ssh.NoValidConnectionsError({("::1", 22): OSError()}),
            "SSH_CONNECTION_FAILED",
            "SCP_TRANSFER_FAILED",
            TRANSIENT,
        ),
        (EOFError(), "SSH_CONNECTION_FAILED", "SCP_CONNECTION_FAILED", TRANSIENT),
        (socket.gaierror(-2, "unknown"), "SSH_CONNECTION_FAILED", "SCP_CONNECTION_FAILED", TRANSIENT),
        (TimeoutError(), "SSH_CONNECTION_FAILED", "SCP_TRANSFER_FAILED", TRANSIENT),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "SSH_CONNECTION_FAILED", "SCP_CONNECTION_FAILED", TRANSIENT),
        (FileNotFoundError(errno.ENOENT, "missing"), "SSH_COMMAND_FAILED", "SCP_FILE_NOT_FOUND", PERMANENT),
        (PermissionError(errno.EACCES, "denied"), "SSH_COMMAND_FAILED", "SCP_PERMISSION_DENIED", PERMANENT),
        (OSError("Failure"), "SSH_CONNECTION_FAILED", "SCP_TRANSFER_FAILED", TRANSIENT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_type_has_a_code_and_a_class(exc: BaseException, of_ssh: str, of_scp: str, kind: ErrorCode) -> None:
    for codes, expected in ((SSH_CODES, of_ssh), (SCP_CODES, of_scp)):
        found = judge(codes)(exc)
        assert found is not None
        assert (found.code, found.kind) == (expected, kind)


def test_what_nobody_knows_is_left_to_the_worker() -> None:
    assert judge(SSH_CODES)(ValueError("a fault of ours")) is None


def test_the_operations_have_the_judges_of_their_names() -> None:
    for operation in registry().families["ssh"].operations.values():
        found = operation.meaning(EOFError())
        assert found is not None
        assert found.code.startswith("SSH_" if operation.name in ("ssh_execute", "ssh_tunnel") else "SCP_")


WITHOUT = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("paramiko", "fabric", "invoke"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import avtomatika.operations.base as base
base.find_spec = lambda name: None
from avtomatika.operations.registry import registry
family = registry().families["ssh"]
assert "ssh_execute" in family.operations, family.operations
print(family.lacks())
"""


def test_without_its_libraries_it_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False
    )
    assert done.stdout == "paramiko, fabric cannot be imported: pip install 'avtomatika[ssh]'\n", done.stderr
