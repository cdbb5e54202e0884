"""Many small files as one tar stream, where the host has tar: one round trip for all of them instead of several for each."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped
from avtomatika.operations.ssh.local import LocalPlace
from avtomatika.operations.ssh.meter import Meter
from avtomatika.operations.ssh.outcomes import changed, disk_full, refused, remote_failures
from avtomatika.operations.ssh.places import Entry, Kind, Parts, cleaning, part_name
from avtomatika.operations.ssh.remote import RemotePlace
from avtomatika.operations.ssh.tools import Running, ToolFailed, quoted
from avtomatika.operations.ssh.transfer import How
from avtomatika.operations.throttle import Throttle

#: Files up to this size go by tar; larger ones have a part file of their own, and go on where they stopped.
SMALL_FILE = 1 << 20
#: Fewer files are not worth it.
FEW = 8
_BATCH_FILES = 2000
_BATCH_BYTES = 64 << 20
_BATCH_NAMES = 256 << 10
_BLOCK = 512
_CLEANING_SECONDS = 5.0

Failed = dict[Parts, OperationError]


@dataclass(frozen=True, slots=True)
class Item:
    """A file to be copied, and its path in the destination."""

    entry: Entry
    replaced: Entry | None = None

    @property
    def path(self) -> Parts:
        return self.entry.path


def batches(items: list[Item]) -> Iterator[list[Item]]:
    """In their order, none of them too large to be begun anew."""
    batch: list[Item] = []
    size = names = 0
    for item in items:
        length = sum(len(os.fsencode(name)) + 1 for name in item.path)
        full = len(batch) >= _BATCH_FILES or size + item.entry.size > _BATCH_BYTES or names + length > _BATCH_NAMES
        if batch and full:
            yield batch
            batch, size, names = [], 0, 0
        batch.append(item)
        size += item.entry.size
        names += length
    if batch:
        yield batch


class TarUp:
    """To the host: into a directory of our own, and from there under the final names, each file at once."""

    def __init__(
        self, op: OperationContext, source: LocalPlace, target: RemotePlace, how: How, meter: Meter, throttle: Throttle
    ) -> None:
        self._op = op
        self._source = source
        self._target = target
        self._how = how
        self._meter = meter
        self._throttle = throttle
        self._staging = f".{op.key[:4]}.part-{op.key}"

    needs = ("tar", "head")

    def copy(self, batch: list[Item]) -> tuple[Failed, list[Item]]:
        """Copies a batch; what could not be copied, and what tar left out. Until it is complete it is in one flat directory."""
        self._clean()
        self._target.make_directory((self._staging,))
        failed: Failed = {}
        try:
            sent = self._send(batch, failed)
            pairs: list[tuple[Parts, Parts]] = [((self._staging, str(number)), item.path) for number, item in sent]
            failed |= self._target.replace_all(pairs)
        finally:
            self._clean()
        for _, item in sent:
            if item.path not in failed:
                self._meter.file_done()
        return failed, []

    def _send(self, batch: list[Item], failed: Failed) -> list[tuple[int, Item]]:
        """Names in the archive are numbers: a name is never read by the host's tar."""
        size = sum(_BLOCK + _padded(item.entry.size) for item in batch) + 2 * _BLOCK
        how = "-p" if self._how.preserve or self._how.mode is not None else ""
        times = "" if self._how.keeps_times else "-m"
        script = f"cd {quoted(self._target.path((self._staging,)))} && head -c {size} | tar -x -o {how} {times} -f -"
        sent = []
        with remote_failures(self._target.shown()):
            try:
                with self._target.peer.tools.running(script) as running:
                    stream = _Stream(running, self._op, self._throttle)
                    for number, item in enumerate(batch):
                        if self._send_one(stream, number, item, failed):
                            sent.append((number, item))
                    stream.write(bytes(size - stream.sent))
                    stream.flush()
                    status = running.wait()
                    if status != 0:
                        raise ToolFailed(status, running.stderr)
            except ToolFailed as exc:
                raise self._meaning(exc) from exc
        return sent

    def _send_one(self, stream: _Stream, number: int, item: Item, failed: Failed) -> bool:
        try:
            reader = self._source.reader(item.entry.place)
        except OperationError as exc:
            failed[item.path] = exc
            return False
        try:
            entry, size = reader.entry, reader.entry.size
            if size != item.entry.size:
                failed[item.path] = changed(self._source.shown(item.path))
                return False
            info = tarfile.TarInfo(str(number))
            info.size, info.mtime = size, max(0, entry.mtime)
            info.mode = self._how.mode_of(entry, item.replaced)
            stream.write(info.tobuf(tarfile.USTAR_FORMAT))
            at = 0
            for data in reader.blocks(0):
                data = data[: size - at]
                stream.write(data)
                self._meter.add(len(data))
                at += len(data)
                if at >= size:
                    break
            stream.write(bytes(_padded(size) - at))  # what is missing of a file that has become shorter, too
            if at != size or reader.changed():
                failed[item.path] = changed(self._source.shown(item.path))
                return False
            return True
        finally:
            reader.close()

    def _meaning(self, exc: ToolFailed) -> OperationError:
        free = self._target.free()
        if free is not None and free < _BLOCK * 8:
            return disk_full(self._target.shown(), free_bytes=free)
        if exc.status == -1 and not self._target.peer.alive:
            return OperationError(TaskErrorCode.SCP_TRANSFER_FAILED, f"{self._target.shown()}: the connection was cut")
        return refused(f"{self._target.shown()}: tar failed with {exc}", status=exc.status)

    def _clean(self) -> None:
        """Removes the directory of our own and what is in it; after a stop, too."""
        until = time.monotonic() + _CLEANING_SECONDS
        with suppress(Exception), cleaning(self._target, self._op) as place:
            while place.stat((self._staging,)) is not None:
                for entry in list(place.entries((self._staging,))):
                    place.remove(entry.path, entry.kind, missing_ok=True)
                try:
                    place.remove((self._staging,), Kind.DIRECTORY, missing_ok=True)
                except OperationError:  # a tar that was cut off has still written what was on its way
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.05)


class TarDown:
    """From the host: it gets a list of names, and what it sends has to be just these files, no longer than they were listed."""

    def __init__(
        self, op: OperationContext, source: RemotePlace, target: LocalPlace, how: How, meter: Meter, throttle: Throttle
    ) -> None:
        self._op = op
        self._source = source
        self._target = target
        self._how = how
        self._meter = meter
        self._throttle = throttle

    needs = ("tar", "gnu-tar", "head")

    def copy(self, batch: list[Item]) -> tuple[Failed, list[Item]]:
        """Copies a batch; what could not be copied, and what the host's tar left out (it does not say why)."""
        wanted = {"./" + "/".join(item.entry.place): item for item in batch}
        names = b"".join(os.fsencode(name) + b"\0" for name in wanted)
        top = quoted(self._source.path(()))
        script = f"cd {top} && head -c {len(names)} | tar -c --no-recursion --hard-dereference --null -T - -f -"
        failed: Failed = {}
        with remote_failures(self._source.shown()), self._source.peer.tools.running(script) as running:
            running.send(names)
            source = _Source(running, self._op, self._throttle, _most_bytes(batch))
            try:
                with tarfile.open(fileobj=io.BufferedReader(source, 1 << 20), mode="r|", errorlevel=2) as archive:
                    for member in archive:
                        self._take(archive, member, wanted, failed)
            except tarfile.TarError as exc:
                if not self._source.peer.alive:
                    raise EOFError from exc
                if wanted:
                    raise refused(f"{self._source.shown()}: no tar archive came: {running.stderr or exc}") from exc
        return failed, list(wanted.values())

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo, wanted: dict[str, Item], failed: Failed) -> None:
        item = wanted.pop(member.name if member.name.startswith("./") else f"./{member.name}", None)
        if item is None:
            raise refused(f"{self._source.shown()} sent a file that nobody asked for: nothing more of it is taken")
        if not member.isreg() or (member.size, int(member.mtime)) != (item.entry.size, item.entry.mtime):
            failed[item.path] = changed(self._source.shown(item.path))
            return
        tarfile.data_filter(member, self._target.shown())
        data = archive.extractfile(member)
        assert data is not None
        try:
            self._write(data.read, item, member)
        except OperationStopped:
            raise
        except OperationError as exc:
            if exc.code is TaskErrorCode.SCP_DISK_SPACE or exc.kind is ErrorCode.TRANSIENT:
                raise
            failed[item.path] = exc
        else:
            self._meter.file_done()

    def _write(self, read: Callable[[int], bytes], item: Item, member: tarfile.TarInfo) -> None:
        part = (*item.path[:-1], part_name(item.path[-1], self._op.key))
        try:
            writer = self._target.writer(part, 0)
            try:
                while data := read(1 << 20):
                    writer.write(data)
                    self._meter.add(len(data))
                writer.settle(self._how.mode_of(item.entry, item.replaced), self._how.mtime_of(item.entry))
            finally:
                writer.close()
            self._target.replace(part, item.path)
        except BaseException:
            with suppress(OperationError):
                self._target.remove(part, missing_ok=True)
            raise


class _Stream:
    """What is written to tar, in pieces that are worth a packet."""

    def __init__(self, running: Running, op: OperationContext, throttle: Throttle) -> None:
        self._running = running
        self._op = op
        self._throttle = throttle
        self._buffer = bytearray()
        self.sent = 0

    def write(self, data: bytes) -> None:
        self._buffer += data
        self.sent += len(data)
        if len(self._buffer) >= 1 << 18:
            self.flush()

    def flush(self) -> None:
        self._op.checkpoint()
        self._throttle.take(len(self._buffer))
        self._running.send(bytes(self._buffer))
        self._buffer.clear()


class _Source(io.RawIOBase):
    """What tar sends, as a file."""

    def __init__(self, running: Running, op: OperationContext, throttle: Throttle, most: int) -> None:
        self._running = running
        self._op = op
        self._throttle = throttle
        self._left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._op.checkpoint()
        data = self._running.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise refused("the host's tar sends more than it was asked for: nothing more of it is taken")
        self._throttle.take(len(data))
        buffer[: len(data)] = data
        return len(data)


def _most_bytes(batch: list[Item]) -> int:
    """What an archive of these files may have, with long names, and with some files that have grown meanwhile."""
    names = sum(2 * _padded(len(os.fsencode("/".join(item.entry.place)))) for item in batch)
    return sum(_padded(item.entry.size) + 4 * _BLOCK for item in batch) + names + _BATCH_BYTES


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
