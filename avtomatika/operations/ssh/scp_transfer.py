"""scp_upload, scp_download and ssh_copy: a file or a directory, from one place to another."""

from __future__ import annotations

import time
from typing import Any

from avtomatika.errors import ErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.operations.ssh._family import family, scp_judge
from avtomatika.operations.ssh.copier import Copier, Overwrite, partial_failure
from avtomatika.operations.ssh.ends import End, connected
from avtomatika.operations.ssh.journal import Journal
from avtomatika.operations.ssh.meter import Meter, size_text
from avtomatika.operations.ssh.outcomes import refused
from avtomatika.operations.ssh.places import Entry, Kind, Parts, Place
from avtomatika.operations.ssh.route import allow
from avtomatika.operations.ssh.scp_params import CopyParams, ScpDownload, ScpParams, ScpUpload, SshCopy
from avtomatika.operations.ssh.tar import Item
from avtomatika.operations.ssh.transfer import FileCopier, required
from avtomatika.operations.ssh.tree import Scan, Tree
from avtomatika.operations.throttle import Throttle
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON


def _may_upload(params: ScpUpload, permit: Permit) -> None:
    allow(params, permit, params.host)
    permit.local_path(params.source_path)
    permit.remote_path(params.destination_path)


def _may_download(params: ScpDownload, permit: Permit) -> None:
    allow(params, permit, params.host)
    permit.remote_path(params.source_path)
    permit.local_path(params.destination_path)


def _may_copy(params: SshCopy, permit: Permit) -> None:
    for side in (params.source, params.destination):
        allow(side, permit, side.host)
        permit.remote_path(side.path)


@family.operation("scp_upload", timeout_seconds=300, max_retries=3, pausable=True, guard=_may_upload, judge=scp_judge)
def scp_upload(params: ScpUpload, op: OperationContext) -> JSON:
    """Copies a file or a directory of this worker to a host."""
    return _with_host(params, op, up=True)


@family.operation("scp_download", timeout_seconds=300, max_retries=3, pausable=True, guard=_may_download, judge=scp_judge)
def scp_download(params: ScpDownload, op: OperationContext) -> JSON:
    """Copies a file or a directory of a host to this worker."""
    return _with_host(params, op, up=False)


@family.operation("ssh_copy", timeout_seconds=300, max_retries=3, pausable=True, guard=_may_copy, judge=scp_judge)
def ssh_copy(params: SshCopy, op: OperationContext) -> JSON:
    """Copies a file or a directory from one host to another, through this worker."""
    common = {"idle": params.idle_timeout, "tools": params.remote_tools}
    source, destination = params.source, params.destination
    with (
        connected(op, source, source.host, **common) as (from_peer, from_facts),  # type: ignore[arg-type]
        connected(op, destination, destination.host, **common) as (to_peer, to_facts),  # type: ignore[arg-type]
    ):
        ends = End(op, source.path, from_peer), End(op, destination.path, to_peer)
        found = Transfer(op, params, *ends, TaskStatus.UPLOADING).run()
    return {**found, "source": {**from_facts, "path": source.path}, "destination": {**to_facts, "path": destination.path}}


def _with_host(params: ScpParams, op: OperationContext, *, up: bool) -> JSON:
    with connected(op, params, params.host, idle=params.idle_timeout, tools=params.remote_tools) as (peer, facts):
        source = End(op, params.source_path, None if up else peer)
        target = End(op, params.destination_path, peer if up else None)
        found = Transfer(op, params, source, target, TaskStatus.UPLOADING if up else TaskStatus.DOWNLOADING).run()
    return {**found, **facts, "source_path": params.source_path, "destination_path": params.destination_path}


class Transfer:
    """One file, or one tree, to where the task says."""

    def __init__(self, op: OperationContext, params: CopyParams, source: End, target: End, status: TaskStatus) -> None:
        self._op = op
        self._params = params
        self._source = source
        self._target = target
        self._status = status
        self._throttle = Throttle(None if params.bandwidth_limit is None else int(params.bandwidth_limit), op.wait)
        self._places: list[Place] = []

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        try:
            source = self._opened(self._source.directory())
            top = required(source, ())
            target = self._target.below(self._source.name) if self._target.into else self._target
            if top.kind is Kind.DIRECTORY:
                if not self._params.recursive:
                    raise refused(f"{source.shown()} is a directory: set recursive to copy it with all that is in it")
                found = self._tree(source, top, self._opened(target.directory()))
            else:
                source.close()  # some hosts open one channel at a time
                found = self._file(self._source, target)
        finally:
            for place in self._places:
                place.close()
        seconds = time.monotonic() - began
        rate = int(found["bytes_transferred"] / seconds) if seconds else 0
        count = found["files_transferred"]
        self._op.log(
            f"copied {count} file{'' if count == 1 else 's'}, {size_text(found['bytes_transferred'])}, {size_text(rate)}/s"
        )
        self._op.progress(1.0, "complete", self._status)
        return {**found, "duration": round(seconds, 3), "rate": rate}

    def _opened(self, place: Place) -> Place:
        self._places.append(place)
        return place

    def _file(self, source_end: End, target_end: End) -> dict[str, Any]:
        source, path = source_end.parent()
        target, name = target_end.parent()
        self._places += (source, target)
        entry = required(source, path)
        entry = Entry(path, entry.kind, entry.size, entry.mode, entry.mtime)
        target.make_top()
        replaced = target.stat(name)
        if replaced is not None and replaced.kind is Kind.DIRECTORY:
            raise refused(f"{target.shown(name)} is a directory: write a / at its end to put the file into it")
        if not self._takes(entry, replaced):
            self._op.log(f"skipped {target.shown(name)}: it is there, and overwrite is {self._params.overwrite.value!r}")
            return {"files_transferred": 0, "bytes_transferred": 0, "files_skipped": 1}
        meter = Meter(self._op, self._status, entry.size)
        copied = FileCopier(self._op, source, target, self._params.how, meter, self._throttle).copy(entry, name, replaced)
        found: dict[str, Any] = {
            "files_transferred": 1,
            "bytes_transferred": meter.bytes,
            "files_skipped": 0,
            "resumed_at": copied.resumed_at,
        }
        return found if copied.sha256 is None else {**found, "sha256": copied.sha256}

    def _takes(self, entry: Entry, found: Entry | None) -> bool:
        """Whether a file is to be copied. What an attempt before has copied, and was not able to tell of, is no obstacle."""
        again = self._op.attempt > 1 and self._params.overwrite is Overwrite.FAIL and found is not None
        if again and Overwrite.DIFFERENT.takes(entry, found) is False:
            return False
        return self._params.overwrite.takes(entry, found)

    def _tree(self, source: Place, top: Entry, target: Place) -> dict[str, Any]:
        params = self._params
        tree = Scan(self._op, source, params.filter, params.symlinks, params.limits).run()
        new = target.make_top()
        journal = Journal(target, self._op.key)
        existing = self._existing(target, journal, new)
        items, failed, skipped = self._chosen(tree, existing, journal)
        files = tree.of(Kind.FILE)
        meter = Meter(self._op, self._status, sum(entry.size for entry in files), len(files))
        chosen = {item.path for item in items}
        meter.there(sum(entry.size for entry in files if entry.path not in chosen), len(files) - len(items))
        if journal.found:
            self._op.progress(journal.progress, "goes on with what an attempt before has left", self._status)
        copier = Copier(self._op, source, target, params.how, meter, self._throttle, params.channels, journal)
        copier.failed |= {**tree.failed, **failed}
        directories = tree.of(Kind.DIRECTORY)
        made = copier.directories(directories)
        copier.files([item for item in items if not _is_below(item.path, copier.failed)])
        links = copier.links(tree.of(Kind.LINK), existing)
        copier.finish_directories([*directories, top])
        found = {
            "files_transferred": meter.files,
            "bytes_transferred": meter.bytes,
            "files_skipped": skipped,
            "directories_created": made + new,
            "links_created": links,
        }
        if copier.failed:
            failure = partial_failure(copier.failed, found)
            copier.leave(failure.kind is ErrorCode.TRANSIENT)
            raise failure
        journal.remove(target)
        return found

    def _existing(self, target: Place, journal: Journal, new: bool) -> dict[Parts, Entry]:
        """What the destination has, where that matters."""
        if new:
            return {}
        journal.read()
        params = self._params
        if params.overwrite is Overwrite.ALWAYS and params.preserve and not journal.found:
            return {}
        return Scan(self._op, target, limits=params.limits, destination=True).run().entries

    def _chosen(
        self, tree: Tree, existing: dict[Parts, Entry], journal: Journal
    ) -> tuple[list[Item], dict[Parts, OperationError], int]:
        """(what is to be copied, what must not be, how many files are left as they are)."""
        items, failed, skipped = [], {}, 0
        for entry in tree.of(Kind.FILE):
            found = existing.get(entry.path)
            if entry.path in journal and found is not None and found.size == entry.size:
                continue  # an attempt before has copied it
            try:
                if self._takes(entry, found):
                    items.append(Item(entry, found))
                else:
                    skipped += 1
            except OperationError as exc:
                failed[entry.path] = exc
        return items, failed, skipped


def _is_below(path: Parts, failed: dict[Parts, OperationError]) -> bool:
    return any(path[:depth] in failed for depth in range(1, len(path) + 1))
