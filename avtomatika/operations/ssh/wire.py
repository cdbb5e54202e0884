"""What paramiko leaves out: when the peer was last heard of, and which signal ended a command. It imports paramiko."""

from __future__ import annotations

import threading
import time
from typing import Any

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.common import MSG_CHANNEL_REQUEST, cMSG_CHANNEL_REQUEST


class Wire:
    """A socket, or a channel of a jump host, that knows when the peer was last heard of."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.heard = time.monotonic()

    def recv(self, size: int) -> bytes:
        data: bytes = self._inner.recv(size)
        self.heard = time.monotonic()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _channel_request(channel: paramiko.Channel, message: paramiko.Message) -> None:
    """paramiko reads ``exit-status`` only; the name in ``exit-signal`` (RFC 4254, 6.10) would be lost."""
    if message.get_text() == "exit-signal":
        message.get_boolean()
        channel.exit_signal = message.get_text()  # type: ignore[attr-defined]
        return
    message.rewind()
    message.get_int()
    channel._handle_request(message)  # type: ignore[attr-defined]


class _Login(AuthHandler):
    """paramiko asks for the service anew with each attempt to log in; some servers end the connection for that."""

    def _request_auth(self) -> None:
        transport: Any = self.transport
        if not transport.login_began:
            transport.login_began = True
            super()._request_auth()  # type: ignore[misc]
            return
        accepted = paramiko.Message()
        accepted.add_string("ssh-userauth")
        accepted.rewind()
        self._parse_service_accept(accepted)  # type: ignore[attr-defined]


class Transport(paramiko.Transport):
    """A transport that keeps the names of signals, and logs in by several steps where it has to."""

    _channel_handler_table = {**paramiko.Transport._channel_handler_table, MSG_CHANNEL_REQUEST: _channel_request}  # type: ignore[attr-defined]
    login_began = False

    def login(self, method: str, username: str, secret: Any) -> list[str]:
        """One step: ``publickey`` with a key, ``password`` with a password, ``interactive`` with a function that answers.

        Returns:
            What the peer wants besides; nothing where this was enough.

        Raises:
            AuthenticationException, SSHException
        """
        if not self.is_active() or not self.initial_kex_done:
            raise paramiko.SSHException("no session")
        done = threading.Event()
        handler: Any = _Login(self)
        self.auth_handler = handler
        getattr(handler, f"auth_{method}")(username, secret, done)
        return list(handler.wait_for_response(done))


def signal_of(channel: paramiko.Channel) -> str | None:
    """The signal that ended a channel's command, such as ``SIGKILL``; None where none did."""
    name = getattr(channel, "exit_signal", None)
    return f"SIG{name}" if name else None


def send_signal(channel: paramiko.Channel, name: str) -> None:
    """Asks the peer to send a signal to the channel's process group (RFC 4254, 6.9); OpenSSH does so from 7.9 on."""
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("signal")
    message.add_boolean(False)
    message.add_string(name)
    _send(channel, message)


def _send(channel: paramiko.Channel, message: paramiko.Message) -> None:
    transport: Any = channel.transport
    transport._send_user_message(message)


def send_eof(channel: paramiko.Channel) -> None:
    """Tells the peer that nothing more comes, as `shutdown_write` does.

    That one builds its message under the channel's lock and sends it outside: where the peer closes the channel in between, the
    end of file follows the close, and OpenSSH ends the whole connection.
    """
    with channel.lock:
        message = channel._send_eof()  # type: ignore[attr-defined]
        if message is not None and not channel.closed:
            _send(channel, message)
