"""Many files, from one place to another: small ones in batches, by tar where the host has it, others over several channels."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.ssh.journal import Journal
from avtomatika.operations.ssh.local import LocalPlace
from avtomatika.operations.ssh.meter import Meter
from avtomatika.operations.ssh.outcomes import refused
from avtomatika.operations.ssh.places import Entry, Kind, Parts, Place, cleaning, shown_path
from avtomatika.operations.ssh.remote import RemotePlace
from avtomatika.operations.ssh.small import SMALL_FILE as SMALLER_FILE
from avtomatika.operations.ssh.small import SmallFiles
from avtomatika.operations.ssh.tar import FEW, SMALL_FILE, Item, TarDown, TarUp, batches
from avtomatika.operations.ssh.transfer import FileCopier, How
from avtomatika.operations.throttle import Throttle

#: Failures that are told one by one; the others are counted.
MOST_TOLD = 100


class Overwrite(StrEnum):
    """What is done where the destination has a file of this name already."""

    ALWAYS = "always"
    NEVER = "never"
    NEWER = "newer"  # where the source was changed later
    DIFFERENT = "different"  # where size or time of change differ
    FAIL = "fail"

    def takes(self, entry: Entry, found: Entry | None) -> bool:
        """Whether the file is to be copied. Raises OperationError where it must not be."""
        if found is None:
            return True
        if found.kind is Kind.DIRECTORY:
            raise refused(f"{shown_path(entry.path)} is a directory in the destination")
        match self:
            case Overwrite.NEVER:
                return False
            case Overwrite.NEWER:
                return entry.mtime > found.mtime
            case Overwrite.DIFFERENT:
                return (entry.size, entry.mtime) != (found.size, found.mtime)
            case Overwrite.FAIL:
                raise refused(f"{shown_path(entry.path)} is in the destination already, and overwrite is 'fail'")
        return True


@dataclass(slots=True)
class Copier:
    """Copies what it is told of one tree into another.

    Attributes:
        failed: by path; one failure does not keep the other files back, unless they would meet it, too.
    """

    op: OperationContext
    source: Place
    target: Place
    how: How
    meter: Meter
    throttle: Throttle
    channels: int = 4
    journal: Journal | None = None
    failed: dict[Parts, OperationError] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def directories(self, entries: Iterable[Entry]) -> int:
        """Makes them, parents first; how many are new."""
        made = 0
        for entry in entries:
            self.op.checkpoint()
            try:
                made += self.target.make_directory(entry.path)
            except OperationError as exc:
                self._failed(entry.path, exc)
        return made

    def links(self, entries: Iterable[Entry], existing: dict[Parts, Entry]) -> int:
        """Makes links; how many are new."""
        made = 0
        for entry in entries:
            found = existing.get(entry.path) or self.target.stat(entry.path)
            if found is not None and found.kind is Kind.LINK and found.target == entry.target:
                continue
            try:
                if found is not None and found.kind is not Kind.DIRECTORY:
                    self.target.remove(entry.path)
                self.target.make_link(entry.path, entry.target or "")
                made += 1
            except OperationError as exc:
                self._failed(entry.path, exc)
        return made

    def finish_directories(self, entries: Iterable[Entry]) -> None:
        """Their permissions and times, children first: making a file in one changes its time."""
        if self.how.preserve:
            for entry in sorted(entries, key=lambda entry: -len(entry.path)):
                if entry.path not in self.failed:
                    with suppress(OperationError):
                        self.target.touch(entry.path, (entry.mode & 0o775) | 0o700, entry.mtime)

    def files(self, items: list[Item]) -> None:
        """Copies files; their directories are there. A stop, or what would meet every file, ends it."""
        try:
            left = self._in_batches(items)
            self._one_by_one(left)
        except (OperationStopped, OperationError) as exc:
            goes_on = isinstance(exc, OperationStopped) and exc.reason is not StopReason.CANCEL
            self.leave(goes_on or getattr(exc, "kind", None) is ErrorCode.TRANSIENT)
            raise

    def leave(self, goes_on: bool) -> None:
        """What is done is kept for the next attempt, where there will be one; after a stop, too."""
        if self.journal is None:
            return
        with suppress(Exception), cleaning(self.target, self.op) as place:
            if goes_on and self.how.resume:
                self.journal.write(place, self.meter.fraction, at_once=True)
            else:
                self.journal.remove(place)

    def _in_batches(self, items: list[Item]) -> list[Item]:
        """Copies the small files, many at a time; what is left for the usual way."""
        way, largest = self._way()
        small = [item for item in items if item.entry.size <= largest]
        if self.how.checksum or len(small) < FEW:
            return items
        left = [item for item in items if item.entry.size > largest]
        for batch in batches(small):
            self.op.checkpoint()
            failed, left_out = way.copy(batch)
            left += left_out
            for path, exc in failed.items():
                self._failed(path, exc)
            others = {item.path for item in left_out}
            self._done(self.target, *(item.path for item in batch if item.path not in failed and item.path not in others))
        return left

    def _way(self) -> tuple[TarUp | TarDown | SmallFiles, int]:
        """How small files go, and how large one of them may be."""
        common = (self.how, self.meter, self.throttle)
        source, target = self.source, self.target
        if isinstance(source, LocalPlace) and isinstance(target, RemotePlace) and target.peer.tools.have(*TarUp.needs):
            return TarUp(self.op, source, target, *common), SMALL_FILE
        if isinstance(source, RemotePlace) and isinstance(target, LocalPlace) and source.peer.tools.have(*TarDown.needs):
            return TarDown(self.op, source, target, *common), SMALL_FILE
        return SmallFiles(self.op, source, target, *common), SMALLER_FILE

    def _one_by_one(self, items: list[Item]) -> None:
        if not items:
            return
        waiting = deque(items)
        ends: list[BaseException] = []
        threads = [
            threading.Thread(target=self._work, args=(waiting, ends, number), name=f"scp-{number}", daemon=True)
            for number in range(1, min(self.channels, len(items)))
        ]
        for thread in threads:
            thread.start()
        self._work(waiting, ends, 0)
        for thread in threads:
            thread.join()
        if ends:
            raise next((end for end in ends if isinstance(end, OperationStopped)), ends[0])

    def _work(self, waiting: deque[Item], ends: list[BaseException], number: int) -> None:
        """One thread: the first has the places themselves, the others channels of their own, as far as the host opens them."""
        places: list[Place] = []
        try:
            source, target = self.source, self.target
            if number:
                try:
                    places += (source := source.clone(),)
                    places += (target := target.clone(),)
                except OperationError:
                    return
            copier = FileCopier(self.op, source, target, self.how, self.meter, self.throttle)
            while not ends:
                try:
                    item = waiting.popleft()
                except IndexError:
                    return
                self.op.checkpoint()
                self._copy(copier, target, item)
        except BaseException as exc:
            ends.append(exc)
        finally:
            for place in places:
                place.close()

    def _copy(self, copier: FileCopier, target: Place, item: Item) -> None:
        try:
            copier.copy(item.entry, item.path, item.replaced)
        except OperationError as exc:
            self._failed(item.path, exc)
        else:
            self._done(target, item.path)

    def _done(self, target: Place, *paths: Parts) -> None:
        if self.journal is not None:
            self.journal.add(*paths)
            self.journal.write(target, self.meter.fraction)

    def _failed(self, path: Parts, exc: OperationError) -> None:
        """Notes a failure of one file; raises one that every other file would meet, too."""
        if exc.code is TaskErrorCode.SCP_DISK_SPACE or (exc.kind is ErrorCode.TRANSIENT and "changed" not in exc.details):
            raise exc
        with self._lock:
            self.failed[path] = exc
        self.op.log(f"failed {shown_path(path)}: {exc}")


def partial_failure(failed: dict[Parts, OperationError], result: dict[str, Any]) -> OperationError:
    """A tree of which some could not be copied: the first failure's code, and all that was done. Such a task is not finished."""
    first = next(iter(failed.values()))
    told = [
        {"path": shown_path(path), "error_code": exc.code.value, "message": str(exc)}
        for path, exc in list(failed.items())[:MOST_TOLD]
    ]
    again = all(exc.kind is ErrorCode.TRANSIENT for exc in failed.values())
    return OperationError(
        first.code,
        f"{len(failed)} of the files could not be copied; the first: {first}",
        details={**result, "failed": told, "failed_count": len(failed)},
        kind=ErrorCode.TRANSIENT if again else ErrorCode.PERMANENT,
    )
