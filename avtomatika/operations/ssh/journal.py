"""What of a tree is done already: kept beside the files, so that the next attempt, on any worker, goes on from there."""

from __future__ import annotations

import json
import os
import threading
import time
from base64 import b64decode, b64encode
from contextlib import suppress

from avtomatika.operations.ssh.places import Parts, Place

_EVERY_SECONDS = 5.0
_MOST_BYTES = 64 << 20


class Journal:
    """A file in the top of the destination, a line for each file that is complete.

    Attributes:
        progress: how far the attempts before were.
    """

    def __init__(self, place: Place, key: str) -> None:
        self._place = place
        self._path: Parts = (f".part-{key}",)
        self._lock = threading.Lock()
        self._done: set[Parts] = set()
        self._new: list[Parts] = []
        self._offset = 0
        self._written_at = time.monotonic()
        self.progress = 0.0
        self.found = False

    def read(self) -> None:
        """What attempts before have left; a line that was cut off does not count."""
        found = self._place.stat(self._path)
        if found is None or found.size > _MOST_BYTES:
            return
        self.found = True
        reader = self._place.reader(self._path)
        try:
            data = b"".join(reader.blocks(0))
        finally:
            reader.close()
        whole, newline, _ = data.rpartition(b"\n")
        self._offset = len(whole) + len(newline)
        for line in whole.splitlines():
            with suppress(ValueError, TypeError, KeyError, AttributeError):
                said = json.loads(line)
                if "progress" in said:
                    self.progress = max(self.progress, min(1.0, float(said["progress"])))
                else:
                    self._done.add(tuple(os.fsdecode(b64decode(said["done"])).split("/")))

    def __contains__(self, path: Parts) -> bool:
        return path in self._done

    def add(self, *paths: Parts) -> None:
        with self._lock:
            self._new += paths

    def write(self, place: Place, progress: float, *, at_once: bool = False) -> None:
        """Now and then, and `at_once` before the operation ends."""
        with self._lock:
            if not at_once and time.monotonic() - self._written_at < _EVERY_SECONDS:
                return
            self._written_at = time.monotonic()
            lines = [json.dumps({"done": b64encode(os.fsencode("/".join(path))).decode()}) for path in self._new]
            data = "".join(f"{line}\n" for line in [*lines, json.dumps({"progress": progress})]).encode()
            writer = place.writer(self._path, self._offset)
            try:
                writer.write(data)
                writer.finish(0o600, None)
            finally:
                writer.close()
            self._offset += len(data)
            self._new.clear()

    def remove(self, place: Place) -> None:
        place.remove(self._path, missing_ok=True)
