"""Many small files over one SFTP channel, where the host has no tar: the requests of many files are in flight at a time."""

from __future__ import annotations

from typing import Any

from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.meter import Meter
from avtomatika.operations.ssh.outcomes import changed
from avtomatika.operations.ssh.places import Entry, Parts, Place, cleaning, part_name
from avtomatika.operations.ssh.remote import RemotePlace, attributes
from avtomatika.operations.ssh.tar import Failed, Item
from avtomatika.operations.ssh.transfer import How
from avtomatika.operations.throttle import Throttle

#: What every server takes in one request.
SMALL_FILE = 32768
_FILES = 64


class SmallFiles:
    """Copies files that fit into one request each. What does not go in this way is left to the usual one."""

    def __init__(self, op: OperationContext, source: Place, target: Place, how: How, meter: Meter, throttle: Throttle) -> None:
        self._op = op
        self._source = source
        self._target = target
        self._how = how
        self._meter = meter
        self._throttle = throttle

    def copy(self, batch: list[Item]) -> tuple[Failed, list[Item]]:
        """Copies a batch; what could not be copied, and what is to be copied one by one."""
        failed: Failed = {}
        left: list[Item] = []
        for start in range(0, len(batch), _FILES):
            self._op.checkpoint()
            self._some(batch[start : start + _FILES], failed, left)
        return failed, left

    def _some(self, items: list[Item], failed: Failed, left: list[Item]) -> None:
        read = self._read([item.entry for item in items])
        ready = []
        for item, data in zip(items, read, strict=True):
            if isinstance(data, OperationError):
                failed[item.path] = data
            elif data is None:
                left.append(item)
            else:
                ready.append((item, data))
        parts: list[Parts] = [(*item.path[:-1], part_name(item.path[-1], self._op.key)) for item, _ in ready]
        try:
            self._throttle.take(sum(len(data) for _, data in ready))
            good = self._write(parts, ready)
            self._drop([part for part, ok in zip(parts, good, strict=True) if not ok])
            pairs = [(part, item.path) for part, (item, _), ok in zip(parts, ready, good, strict=True) if ok]
            not_moved = self._target.replace_all(pairs)
        except BaseException:
            self._drop(parts)
            raise
        failed |= not_moved
        self._drop([part for part, path in pairs if path in not_moved])
        for (item, data), ok in zip(ready, good, strict=True):
            if not ok:
                left.append(item)
            elif item.path not in not_moved:
                self._meter.add(len(data))
                self._meter.file_done()

    def _read(self, entries: list[Entry]) -> list[bytes | OperationError | None]:
        if isinstance(self._source, RemotePlace):
            return _read_remote(self._source, entries)
        found: list[bytes | OperationError | None] = []
        for entry in entries:
            try:
                found.append(self._read_here(entry))
            except OperationError as exc:
                found.append(exc)
        return found

    def _read_here(self, entry: Entry) -> bytes:
        reader = self._source.reader(entry.place)
        try:
            data = b"".join(reader.blocks(0)) if reader.entry.size <= SMALL_FILE else b""
            if len(data) != entry.size or reader.entry.mtime != entry.mtime or reader.changed():
                raise changed(self._source.shown(entry.path))
            return data
        finally:
            reader.close()

    def _write(self, parts: list[Parts], ready: list[tuple[Item, bytes]]) -> list[bool]:
        """Which files are written completely."""
        about = [(data, self._how.mode_of(item.entry, item.replaced), self._how.mtime_of(item.entry)) for item, data in ready]
        if isinstance(self._target, RemotePlace):
            return _write_remote(self._target, parts, about)
        for part, (data, mode, mtime) in zip(parts, about, strict=True):
            writer = self._target.writer(part, 0)
            try:
                writer.write(data)
                writer.settle(mode, mtime)
            finally:
                writer.close()
        return [True] * len(parts)

    def _drop(self, parts: list[Parts]) -> None:
        if not parts:
            return
        with cleaning(self._target, self._op) as place:
            for part in parts:
                try:
                    place.remove(part, missing_ok=True)
                except OperationError:
                    return  # the connection is gone, or the disk is broken: what has failed says so


def _read_remote(place: RemotePlace, entries: list[Entry]) -> list[bytes | OperationError | None]:
    """The contents; None where the usual way has to find out what is wrong."""
    from paramiko import sftp as wire

    opened = place.pipeline(
        [(wire.CMD_OPEN, place.path(entry.place), wire.SFTP_FLAG_READ, attributes(None, None)) for entry in entries]
    )
    handles = [answer[1].get_binary() if answer[0] == wire.CMD_HANDLE else None for answer in opened]
    requests: list[tuple[Any, ...]] = []
    for handle, entry in zip(handles, entries, strict=True):
        if handle is not None:
            requests += (
                (wire.CMD_READ, handle, wire.int64(0), max(1, entry.size)),
                (wire.CMD_FSTAT, handle),
                (wire.CMD_CLOSE, handle),
            )
    answers = iter(place.pipeline(requests))
    found: list[bytes | OperationError | None] = []
    for handle, entry in zip(handles, entries, strict=True):
        if handle is None:
            found.append(None)
            continue
        (kind, message), about, _ = next(answers), next(answers), next(answers)
        data = message.get_binary() if kind == wire.CMD_DATA else b""
        now = place.attributes_of(about)
        same = now is not None and (now.st_size, int(now.st_mtime or 0)) == (entry.size, entry.mtime)
        found.append(data if same and len(data) == entry.size else None)
    return found


def _write_remote(place: RemotePlace, parts: list[Parts], about: list[tuple[bytes, int, int | None]]) -> list[bool]:
    """Which are written; one that is there already, or cannot be written, is for the usual way to say something about."""
    from paramiko import sftp as wire

    flags = wire.SFTP_FLAG_WRITE | wire.SFTP_FLAG_CREATE | wire.SFTP_FLAG_EXCL
    opened = place.pipeline([(wire.CMD_OPEN, place.path(part), flags, attributes(0o600, None)) for part in parts])
    handles = [answer[1].get_binary() if answer[0] == wire.CMD_HANDLE else None for answer in opened]
    requests: list[tuple[Any, ...]] = []
    counts = []
    for handle, (data, mode, mtime) in zip(handles, about, strict=True):
        before = len(requests)
        if handle is not None:
            if data:
                requests.append((wire.CMD_WRITE, handle, wire.int64(0), data))
            requests += ((wire.CMD_FSETSTAT, handle, attributes(mode, mtime)), (wire.CMD_CLOSE, handle))
        counts.append(len(requests) - before)
    answers = iter(place.pipeline(requests))
    found = []
    for count in counts:
        said = [place.is_ok(next(answers)) for _ in range(count)]
        found.append(bool(said) and all(said))
    return found
