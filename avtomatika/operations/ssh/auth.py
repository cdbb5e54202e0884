"""Who we are: with the named identity only, after the host has shown the right key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.failures import AuthenticationFailed, ConnectionFailed
from avtomatika.operations.ssh.route import Hop

if TYPE_CHECKING:
    import paramiko

    from avtomatika.operations.ssh.wire import Transport

#: Keys of an agent that are offered; a server gives up after six attempts.
_MAX_AGENT_KEYS = 4
#: Questions of keyboard-interactive that are answered.
_MAX_ROUNDS = 4
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0

Method = Callable[["Transport"], list[str]]


class Failures:
    """Failed logins of this process. Whoever goes on knocking with a wrong key locks the account, or is locked out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, float]] = {}

    def check(self, hop: Hop) -> None:
        """Raises AuthenticationFailed while it is too early for another attempt."""
        with self._lock:
            count, until = self._known.get(hop.key, (0, 0.0))
        left = until - time.monotonic()
        if left > 0:
            raise AuthenticationFailed(
                f"{hop.label}: the credential {hop.credential.name!r} was refused {count} times; "
                f"the next attempt is made in {left:.0f} s at the earliest"
            )

    def failed(self, hop: Hop) -> None:
        with self._lock:
            count = self._known.get(hop.key, (0, 0.0))[0] + 1
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (count - 1))
            self._known[hop.key] = (count, time.monotonic() + pause)

    def succeeded(self, hop: Hop) -> None:
        with self._lock:
            self._known.pop(hop.key, None)


def methods(hop: Hop) -> list[Method]:
    """What the credential can do. Its key is loaded now, before anything is connected: a wrong file is no wrong key.

    Raises:
        OperationError: CONFIGURATION_ERROR; it holds nothing that opens an SSH connection.
        AuthenticationFailed: the key cannot be decrypted.
    """
    credential, username = hop.credential, hop.username
    found: list[Method] = []
    if credential.agent:
        keys = list(_agent_keys(hop))
        found += [lambda transport, key=key: transport.login("publickey", username, key) for key in keys]  # type: ignore[misc]
    elif credential.key_file is not None:
        key = _load(hop)
        found.append(lambda transport: transport.login("publickey", username, key))
    if credential.password is not None:
        found.append(lambda transport: _password(transport, username, credential.password or ""))
    if not found:
        raise OperationError(
            TaskErrorCode.CONFIGURATION_ERROR,
            f"the credential {credential.name!r} has neither key_file, agent nor a password: SSH needs one of them",
        )
    return found


def authenticate(transport: Transport, hop: Hop, ways: list[Method]) -> None:
    """Tries each way once, and goes on where the peer wants more than one of them.

    Raises:
        AuthenticationFailed: none is enough.
        ConnectionFailed: the peer is gone, or does not answer.
    """
    import paramiko

    refused, attempts = "nothing was accepted", 0
    for way in ways:
        began = time.monotonic()
        try:
            further = way(transport)
        except paramiko.BadAuthenticationType as exc:
            refused = f"the peer wants {', '.join(exc.allowed_types)}"
            continue
        except paramiko.AuthenticationException as exc:
            attempts += 1
            if not transport.is_active() and attempts > 1:
                refused = "it closed the connection after several attempts"
                break
            if not transport.is_active():
                raise ConnectionFailed(f"{hop.label}: the peer closed the connection while it was being logged in to") from exc
            if transport.auth_timeout and time.monotonic() - began >= transport.auth_timeout:
                raise ConnectionFailed(f"{hop.label}: no answer to the login within {transport.auth_timeout:g} s") from exc
            continue
        if transport.is_authenticated():
            return
        refused = f"the peer wants {', '.join(further)} besides"
    raise AuthenticationFailed(f"{hop.label} refuses the credential {hop.credential.name!r}: {refused}")


def _password(transport: Transport, username: str, password: str) -> list[str]:
    """As a password; where the peer takes none, as the answer to its hidden questions (keyboard-interactive, as with PAM)."""
    import paramiko

    try:
        return transport.login("password", username, password)
    except paramiko.BadAuthenticationType as exc:
        if "keyboard-interactive" not in exc.allowed_types:
            raise
    rounds = iter(range(_MAX_ROUNDS))

    def answer(title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
        known = not prompts or next(rounds, None) is not None
        return [password if known and not echo else "" for _, echo in prompts]

    return transport.login("interactive", username, answer)


def _load(hop: Hop) -> paramiko.PKey:
    import paramiko
    from cryptography.exceptions import UnsupportedAlgorithm
    from paramiko.pkey import UnknownKeyType

    credential = hop.credential
    passphrase: Any = credential.passphrase.encode() if credential.passphrase else None
    try:
        try:
            key = paramiko.PKey.from_path(str(credential.key_file), passphrase)
        except TypeError:
            if passphrase is None:
                raise
            key = paramiko.PKey.from_path(str(credential.key_file), None)  # it has no passphrase
        if credential.certificate_file is not None:
            key.load_certificate(str(credential.certificate_file))
    except OSError as exc:
        raise OperationError(
            TaskErrorCode.CONFIGURATION_ERROR,
            f"credential {credential.name!r}: {exc.filename} cannot be read on this worker: {exc.strerror}",
        ) from None
    except TypeError:
        raise AuthenticationFailed(
            f"credential {credential.name!r}: its key is encrypted; name the variable with the passphrase in passphrase_env"
        ) from None
    except (ValueError, UnsupportedAlgorithm, paramiko.SSHException, UnknownKeyType) as exc:
        raise AuthenticationFailed(
            f"credential {credential.name!r}: {credential.key_file} is no key that can be used, or its passphrase is wrong "
            f"({type(exc).__name__})"
        ) from None
    return key


def _agent_keys(hop: Hop) -> Iterator[paramiko.PKey]:
    """The agent's keys; where the credential names a key file, only the one that belongs to it."""
    import paramiko

    credential = hop.credential
    keys = paramiko.Agent().get_keys()
    if credential.key_file is not None:
        public = credential.key_file.with_name(credential.key_file.name.removesuffix(".pub") + ".pub")
        try:
            wanted = paramiko.pkey.PublicBlob.from_file(str(public)).key_blob
        except (OSError, ValueError) as exc:
            raise OperationError(
                TaskErrorCode.CONFIGURATION_ERROR, f"credential {credential.name!r}: {public} tells no public key: {exc}"
            ) from None
        keys = tuple(key for key in keys if key.asbytes() == wanted)
    if not keys:
        raise AuthenticationFailed(
            f"credential {credential.name!r}: the agent of this worker (SSH_AUTH_SOCK) holds no such key: `ssh-add` it there"
        )
    yield from keys[:_MAX_AGENT_KEYS]
