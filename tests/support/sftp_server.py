"""An SSH server in this process whose SFTP misbehaves as a test says: OpenSSH's never does."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import asyncssh

from tests.support.sshd import keygen, public_key


class MisbehavingServer:
    """On a thread of its own; who has `client_key` may log in. It offers SFTP and no shell.

    Attributes:
        port: on 127.0.0.1.
    """

    username = "somebody"

    def __init__(self, directory: Path, sftp: type[asyncssh.SFTPServer]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.client_key = keygen(directory / "client")
        self._host_key = keygen(directory / "host")
        self._sftp = sftp
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sftp-server", daemon=True)
        self.port = 0
        self._thread.start()
        assert self._ready.wait(30)

    def config(self, policy: str) -> str:
        """A whole operations.toml with it as the host ``box``."""
        return (
            f'[credentials.key]\nusername = "{self.username}"\nkey_file = "{self.client_key}"\n'
            f'[hosts.box]\naddress = "127.0.0.1"\nport = {self.port}\ncredential = "key"\n'
            f'host_keys = ["{public_key(self._host_key)}"]\n{policy}'
        )

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[str(self._host_key)],
            authorized_client_keys=f"{self.client_key}.pub",
            sftp_factory=self._sftp,
            process_factory=None,
        )
        self.port = self._server.get_port()
