"""What is read from a file, and read again when the file changes; where the new one is wrong, the old one stays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from avtomatika.errors import ConfigurationError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int] | None, ...]


class Book(Generic[T]):
    """
    Args:
        path: the file; None where none is set.
        read: reads all anew; raises ConfigurationError.
        others: files that are read with it.

    Attributes:
        current: what was read last without an error.
    """

    def __init__(self, path: Path | None, read: Callable[[], T], others: Iterable[Path | None] = ()) -> None:
        self.path = path
        self._files = [file for file in (path, *others) if file is not None]
        self._read = read
        self._stamp = self._look()
        self.current: T = read()

    def reload(self) -> None:
        """Reads the file now; raises ConfigurationError, and keeps the old, where it is wrong."""
        self._stamp = self._look()  # before reading: a change in between is seen next time
        self.current = self._read()

    def refresh(self) -> None:
        """Reads the file if it has changed; an error is logged, once a change."""
        if self._look() != self._stamp:
            self.try_reload()

    def try_reload(self) -> None:
        """Reads the file now; an error is logged."""
        try:
            self.reload()
        except ConfigurationError as exc:
            logger.error("%s; the old ones stay", exc, extra={"action": "config_refused", "path": str(self.path)})
        else:
            logger.info("%s was read again", self.path, extra={"action": "config_reloaded", "path": str(self.path)})

    def _look(self) -> Stamp:
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
