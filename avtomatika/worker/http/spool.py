"""Results on disk that could not be delivered: they outlive the process, and its successor delivers them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from avtomatika.errors import ConfigurationError
from avtomatika.results import JSON

logger = logging.getLogger(__name__)

_ROOT = "avtomatika-spool"
_SUFFIX = ".json"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Entry:
    """One result for one orchestrator; `body` is what is posted."""

    url: str
    body: JSON

    @property
    def task_id(self) -> str:
        return str(self.body["task_id"])

    @property
    def name(self) -> str:
        """Of its file: ids come from elsewhere and are no file names."""
        return hashlib.sha256(f"{self.url}\n{self.task_id}".encode("utf-8", "surrogatepass")).hexdigest()[:40] + _SUFFIX


def default_root() -> Path:
    """`avtomatika-spool` in the user's state folder; in the folder for temporary files where there is none to write to."""
    root = platformdirs.user_state_path() / _ROOT
    try:
        _make_private(root)
    except (OSError, ConfigurationError) as exc:
        other = Path(tempfile.gettempdir()) / f"{_ROOT}-{os.getuid()}"
        _make_private(other)
        logger.warning("results are kept in %s: %s", other, exc, extra={"action": "spool"})
        return other
    return root


class Spool:
    """A folder that belongs to one living process. Entries of dead processes may lie in folders beside it."""

    def __init__(self, root: Path, worker_id: str, family: str | None = None) -> None:
        """
        Args:
            family: folders that begin with this belonged to processes like this one, under ids of their own: it is their heir.

        Raises:
            ConfigurationError: the folder cannot be used, or another process of this worker id lives.
        """
        self.folder = root / worker_id
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(self.folder)
            lock = _lock(self.folder)
        except OSError as exc:
            raise ConfigurationError(f"results cannot be kept in {self.folder}: {exc}; set WORKER_SPOOL_DIR") from None
        if lock is None:
            raise ConfigurationError(
                f"another process on this machine works as {worker_id!r}: give each worker process a WORKER_ID of its own"
            )
        self._locks = {self.folder: lock}
        self._places: dict[str, Path] = {}
        self._passing = family is not None  # nobody will have this worker id again
        if family is not None:
            self._inherit(root, family)

    def _inherit(self, root: Path, family: str) -> None:
        for folder in sorted(root.glob(f"{family}*")):
            if folder == self.folder or not folder.name.removeprefix(family).isdigit():
                continue
            with contextlib.suppress(OSError):
                lock = _lock(folder)
                if lock is not None:
                    self._locks[folder] = lock

    def entries(self) -> list[Entry]:
        """What lies here, the oldest first. What cannot be read is put aside."""
        found: list[tuple[float, Entry]] = []
        for path in self._files():
            try:
                value = json.loads(path.read_text(encoding="utf-8"))
                entry = Entry(str(value["url"]), _body(value["body"]))
                found.append((path.stat().st_mtime, entry))
            except (OSError, ValueError, KeyError, TypeError) as exc:
                logger.error("%s holds no result and is put aside: %r", path, exc, extra={"action": "spool"})
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(".bad"))
                continue
            self._places[entry.name] = path
        return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]

    def _files(self) -> Iterator[Path]:
        for folder in self._locks:
            yield from folder.glob(f"*{_SUFFIX}")

    def keep(self, entry: Entry) -> None:
        """Writes it so that it is there after a power failure, whole or not at all. Raises OSError."""
        if entry.name in self._places:
            return
        path = self.folder / entry.name
        data = json.dumps({"url": entry.url, "body": entry.body}).encode()
        file, temporary = tempfile.mkstemp(prefix=".", dir=self.folder)  # mode 600
        try:
            with os.fdopen(file, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync(self.folder)
        self._places[entry.name] = path

    def drop(self, entry: Entry) -> None:
        """It is delivered, or nobody wants it."""
        path = self._places.pop(entry.name, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Gives the folders free; empty ones that no process will use again go."""
        for folder, lock in self._locks.items():
            with contextlib.suppress(OSError):
                if self._passing and {path.name for path in folder.iterdir()} <= {_LOCK}:
                    (folder / _LOCK).unlink()
                    folder.rmdir()
            os.close(lock)
        self._locks.clear()


def _body(value: Any) -> JSON:
    if not isinstance(value, dict) or not isinstance(value["task_id"], str):
        raise TypeError("its body is no result")
    return value


def _make_private(folder: Path) -> None:
    """A folder that only this user can enter; one that belongs to another user is refused."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigurationError(f"{folder} is not a folder of this user's; set WORKER_SPOOL_DIR to another one")


def _lock(folder: Path) -> int | None:
    """The lock of a folder, which ends with this process however it ends; None where another one has it."""
    file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
