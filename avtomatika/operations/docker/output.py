"""What a container writes, followed while it runs."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import Any

from avtomatika.operations.context import OperationContext
from avtomatika.operations.docker.references import Daemon
from avtomatika.operations.tail import Tail

logger = logging.getLogger(__name__)


class Follower:
    """Reads one stream of a container in a thread and a connection of its own, until the container ends."""

    def __init__(self, params: Daemon, op: OperationContext, container: str, stream: str, limit: int) -> None:
        from avtomatika.operations.docker.engine import connect

        self.tail = Tail(op, limit)
        self._client: Any = connect(params)
        self._container = container
        self._stream = stream
        self._thread = threading.Thread(target=self._read, name=f"{stream} of {container}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        wanted = {"stdout": self._stream == "stdout", "stderr": self._stream == "stderr"}
        try:
            for block in self._client.logs(self._container, stream=True, follow=True, **wanted):
                self.tail.add(block)
        except Exception as exc:  # a log driver that cannot be read, or the stop: the container's own end is what counts
            logger.info("%s of %s: %s", self._stream, self._container, exc, extra={"action": "container_output"})
        self.tail.close()

    def close(self, wait: float) -> None:
        """Waits for the rest for so many seconds."""
        self._thread.join(wait)
        self._client.break_off()
        self._thread.join(5)
        with suppress(OSError):
            self._client.close()
