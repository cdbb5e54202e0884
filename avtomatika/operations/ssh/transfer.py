"""One file, from one place to another: under a name of its own until it is complete, and from where it stopped before."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.ssh.meter import Meter
from avtomatika.operations.ssh.outcomes import changed, disk_full, refused
from avtomatika.operations.ssh.places import Entry, Kind, Parts, Place, cleaning, part_name
from avtomatika.operations.throttle import Throttle

#: A part file keeps what was written to it when the operation stops for one of these.
_GOES_ON = frozenset({StopReason.PAUSE, StopReason.SHUTDOWN, StopReason.TIMEOUT})
_DEFAULT_MODE = 0o644
#: Smaller files are begun anew: to ask what is there would take longer.
_RESUMED_FROM = 1 << 20
#: Of what is kept: no setuid, setgid or sticky bit, and nobody else may write.
_KEPT_BITS = 0o775


@dataclass(frozen=True, slots=True)
class How:
    """How files are copied; see `TransferParams`."""

    preserve: bool = True
    resume: bool = True
    checksum: bool = False
    mode: int | None = None
    times: bool = False  # are kept, whatever `preserve` says

    @property
    def keeps_times(self) -> bool:
        return self.preserve or self.times

    def mode_of(self, source: Entry, replaced: Entry | None = None) -> int:
        """The permissions of the copy: asked for, else the source's, else those of what it replaces."""
        if self.mode is not None:
            return self.mode
        if self.preserve:
            return source.mode & _KEPT_BITS
        return replaced.mode & 0o777 if replaced is not None and replaced.kind is Kind.FILE else _DEFAULT_MODE

    def mtime_of(self, source: Entry) -> int | None:
        return source.mtime if self.keeps_times else None


@dataclass(frozen=True, slots=True)
class Copied:
    """
    Attributes:
        size: of the file.
        resumed_at: how much of it was there from an attempt before.
        sha256: where it was asked for; equal on both sides.
    """

    size: int
    resumed_at: int = 0
    sha256: str | None = None


class FileCopier:
    """Copies files between two places, one at a time. Threads that share `meter` and `throttle` have one each."""

    def __init__(self, op: OperationContext, source: Place, target: Place, how: How, meter: Meter, throttle: Throttle) -> None:
        self._op = op
        self._source = source
        self._target = target
        self._how = how
        self._meter = meter
        self._throttle = throttle

    def copy(self, entry: Entry, path: Parts, replaced: Entry | None = None) -> Copied:
        """
        Raises:
            OperationError: SCP_CHECKSUM_MISMATCH, SCP_DISK_SPACE, SCP_FILE_NOT_FOUND, SCP_PERMISSION_DENIED, SCP_TRANSFER_FAILED.
                A transient one leaves the part file to the next attempt.
        """
        part = (*path[:-1], part_name(path[-1], self._op.key))
        try:
            copied = self._fill(entry, part, replaced)
            self._target.replace(part, path)
        except OperationStopped as exc:
            if exc.reason not in _GOES_ON:
                self._drop(part)
            raise
        except OperationError as exc:
            stopped = self._op.stop_reason
            if (exc.kind is not ErrorCode.TRANSIENT or not self._how.resume) and stopped not in _GOES_ON:
                self._drop(part)
            raise
        self._meter.file_done()
        return copied

    def _fill(self, entry: Entry, part: Parts, replaced: Entry | None) -> Copied:
        """Fills the part file, and proves what is in it."""
        how, meter = self._how, self._meter
        reader = self._source.reader(entry.place)
        try:
            size = reader.entry.size
            offset = self._there(entry, part, size)
            free = self._target.free(part[:-1]) if size >= _RESUMED_FROM else None
            if free is not None and free < size - offset:
                raise disk_full(self._target.shown(part), free_bytes=free, needed_bytes=size - offset)
            meter.there(offset)
            sums = hashlib.sha256() if how.checksum and not offset else None
            at = offset
            writer = self._target.writer(part, offset)
            try:
                for data in reader.blocks(offset):
                    self._op.checkpoint()
                    self._throttle.take(len(data))
                    writer.write(data)
                    if sums is not None:
                        sums.update(data)
                    at += len(data)
                    if at > size:
                        break
                    meter.add(len(data))
                if at != size or reader.changed():
                    raise self._changed(entry, part)
                writer.finish(how.mode_of(reader.entry, replaced), how.mtime_of(reader.entry))
            finally:
                writer.close()
        finally:
            reader.close()
        return Copied(size, offset, self._proven(entry, part, sums.hexdigest() if sums else None) if how.checksum else None)

    def _there(self, entry: Entry, part: Parts, size: int) -> int:
        """How much of the file is there already: proven by a hash of both sides, for a size says nothing of what is in it."""
        if not self._how.resume or size < _RESUMED_FROM:
            return 0
        found = self._target.stat(part)
        if found is None or found.kind is not Kind.FILE or not 0 < found.size <= size:
            return 0
        if self._target.sha256(part, found.size) != self._source.sha256(entry.place, found.size):
            self._op.log(f"{self._target.shown(part)} is not the beginning of {self._source.shown(entry.path)}: it is begun anew")
            return 0
        self._op.log(f"{self._target.shown(part)} goes on at {found.size} of {size} bytes")
        return found.size

    def _proven(self, entry: Entry, part: Parts, known: str | None) -> str:
        here = known or self._source.sha256(entry.place)
        there = self._target.sha256(part)
        if here != there:
            self._drop(part)
            raise OperationError(
                TaskErrorCode.SCP_CHECKSUM_MISMATCH,
                f"{self._target.shown(part)} is not what {self._source.shown(entry.path)} is: nothing of it is kept",
                details={"source_sha256": here, "destination_sha256": there},
            )
        return here

    def _changed(self, entry: Entry, part: Parts) -> OperationError:
        self._drop(part)
        return changed(self._source.shown(entry.path))

    def _drop(self, part: Parts) -> None:
        """Removes a part file, after a stop or a failure, too."""
        with suppress(Exception), cleaning(self._target, self._op) as place:
            place.remove(part, missing_ok=True)


def required(place: Place, path: Parts) -> Entry:
    """What lies at a path that a task names; links on the way to it, and itself one, are followed inside the tree's root."""
    found = place.stat(path, follow=True)
    if found is None:
        kind = ErrorCode.PERMANENT if place.remote else ErrorCode.INVALID_INPUT
        raise OperationError(TaskErrorCode.SCP_FILE_NOT_FOUND, f"{place.shown(path)}: no such file or directory", kind=kind)
    if found.kind not in (Kind.FILE, Kind.DIRECTORY):
        raise refused(f"{place.shown(path)} is neither a file nor a directory")
    return found
