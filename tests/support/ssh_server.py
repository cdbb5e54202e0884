"""An SSH server in this process, for what OpenSSH does for root alone: passwords, questions, and faults of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from tests.support.sshd import keygen, public_key


@dataclass
class Door:
    """Who may come in, and how.

    Attributes:
        password: of everybody.
        questions: they are asked (keyboard-interactive), and no password is taken.
        logins: users and passwords that were tried.
        answers: what a command is answered with, instead of its own text.
    """

    password: str = "sesame"
    questions: bool = False
    logins: list[tuple[str, str]] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)


class _Server(asyncssh.SSHServer):
    def __init__(self, door: Door) -> None:
        self._door = door

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return not self._door.questions

    def validate_password(self, username: str, password: str) -> bool:
        self._door.logins.append((username, password))
        return password == self._door.password

    def kbdint_auth_supported(self) -> bool:
        return self._door.questions

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> object:
        return "Login", "", "", [("Name:", True), ("Password:", False)]

    def validate_kbdint_response(self, username: str, responses: list[str]) -> bool:
        self._door.logins.append((username, responses[1]))
        return responses[1] == self._door.password


@dataclass
class Serving:
    """A running server."""

    port: int
    host_key: str
    door: Door

    def host(self, name: str = "box", **more: str) -> str:
        lines = [f"[hosts.{name}]", 'address = "127.0.0.1"', f"port = {self.port}", f'host_keys = ["{self.host_key}"]']
        return "\n".join([*lines, *(f'{key} = "{value}"' for key, value in {"credential": "password", **more}.items())]) + "\n"


@contextlib.contextmanager
def serving(directory: Path, door: Door) -> Iterator[Serving]:
    """Serves in a thread: each command is answered with its own text, ``exit N`` ends with N, ``drop`` cuts the connection."""
    key = keygen(directory / "asyncssh-host")
    loop = asyncio.new_event_loop()

    async def command(process: asyncssh.SSHServerProcess) -> None:
        asked = (process.command or "").rsplit("\n", 1)[-1]
        if asked == "drop":
            process.channel.get_connection().abort()
            return
        if asked.startswith("exit "):
            process.exit(int(asked.split()[1]))
            return
        if asked.startswith("signal "):
            process.exit_with_signal(asked.split()[1])
            return
        process.stdout.write(f"{door.answers.get(asked, asked)}\n")
        process.exit(0)

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            lambda: _Server(door), "127.0.0.1", 0, server_host_keys=[str(key)], process_factory=command
        )

    acceptor = loop.run_until_complete(listen())
    thread = threading.Thread(target=loop.run_forever, name="asyncssh", daemon=True)
    thread.start()
    try:
        yield Serving(acceptor.get_port(), public_key(key), door)
    finally:
        asyncio.run_coroutine_threadsafe(_close(acceptor), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _close(acceptor: asyncssh.SSHAcceptor) -> None:
    acceptor.close()  # without wait_closed(): since Python 3.12 that waits for the clients, whose connections may be kept
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
