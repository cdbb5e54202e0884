"""scp_sync: makes a directory on one side like one on the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.operations.ssh._family import family, scp_judge
from avtomatika.operations.ssh.copier import Copier, partial_failure
from avtomatika.operations.ssh.ends import End, connected
from avtomatika.operations.ssh.meter import Meter, size_text
from avtomatika.operations.ssh.outcomes import refused
from avtomatika.operations.ssh.params import SshParams
from avtomatika.operations.ssh.places import Entry, Kind, Parts, Place
from avtomatika.operations.ssh.remote import RemotePlace
from avtomatika.operations.ssh.route import allow
from avtomatika.operations.ssh.scp_params import FilePath, TreeParams
from avtomatika.operations.ssh.sync_lock import locked
from avtomatika.operations.ssh.sync_plan import Action, Plan, Step, make_plan
from avtomatika.operations.ssh.tar import Item
from avtomatika.operations.ssh.tools import ToolFailed
from avtomatika.operations.ssh.transfer import required
from avtomatika.operations.ssh.tree import Scan, Tree
from avtomatika.operations.throttle import Throttle
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

#: Rows of a plan that are told.
MOST_ROWS = 1000
_SUMS_AT_ONCE = 500


class Direction(StrEnum):
    UP = "up"
    DOWN = "down"


class Compare(StrEnum):
    SIZE_MTIME = "size_mtime"
    CHECKSUM = "checksum"


class ScpSync(TreeParams, SshParams):
    """Makes the directory `destination_path` like `source_path`. Times of change are kept always: a second run does nothing.

    Attributes:
        direction: up makes the host like this worker, down the other way.
        delete: removes what the source does not have. What is excluded stays.
        max_delete: a number, or a share of the destination such as "10%". Where more would go, nothing is done at all.
        compare: files of one size are the same where their time of change is, or where their SHA-256 is.
        modify_window: seconds by which times of change may differ.
        dry_run: says what would be done, and does nothing.
    """

    source_path: FilePath
    destination_path: FilePath
    direction: Direction
    delete: bool = False
    max_delete: Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(pattern=r"^(100|[1-9]?[0-9])%$")] | None = None
    compare: Compare = Compare.SIZE_MTIME
    modify_window: int = Field(0, ge=0, le=86_400)
    dry_run: bool = False


def _may_sync(params: ScpSync, permit: Permit) -> None:
    allow(params, permit, params.host)
    here, there = params.source_path, params.destination_path
    if params.direction is Direction.DOWN:
        here, there = there, here
    permit.local_path(here)
    permit.remote_path(there)


@family.operation("scp_sync", timeout_seconds=600, max_retries=3, pausable=True, guard=_may_sync, judge=scp_judge)
def scp_sync(params: ScpSync, op: OperationContext) -> JSON:
    """Makes a directory of a host like one of this worker, or the other way; after a pause it goes on with what is missing."""
    up = params.direction is Direction.UP
    with connected(op, params, params.host, idle=params.idle_timeout, tools=params.remote_tools) as (peer, facts):
        source = End(op, params.source_path, None if up else peer).directory()
        target = source
        try:
            target = End(op, params.destination_path, peer if up else None).directory()
            found = Sync(op, params, source, target).run()
        finally:
            source.close()
            target.close()
    common = {"direction": params.direction.value, "dry_run": params.dry_run}
    return {**found, **common, **facts, "source_path": params.source_path, "destination_path": params.destination_path}


class Sync:
    """From two trees to a plan, and from there to one tree."""

    def __init__(self, op: OperationContext, params: ScpSync, source: Place, target: Place) -> None:
        self._op = op
        self._params = params
        self._source = source
        self._target = target
        self._status = TaskStatus.UPLOADING if params.direction is Direction.UP else TaskStatus.DOWNLOADING
        self._directories: list[Entry] = []
        self._unreadable: dict[Parts, OperationError] = {}

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        top = required(self._source, ())
        if top.kind is not Kind.DIRECTORY:
            raise refused(f"{self._source.shown()} is no directory: scp_upload and scp_download copy files")
        if self._params.dry_run:
            found = self._report(self._plan(), None)
        else:
            self._target.make_top()
            with locked(self._op, self._target):
                found = self._carry_out(self._plan(), top)
        return {**found, "duration": round(time.monotonic() - began, 3)}

    # What is to be done

    def _plan(self) -> Plan:
        params = self._params
        source = Scan(self._op, self._source, params.filter, params.symlinks, params.limits).run()
        target = self._target_tree()
        if params.delete and not source.entries and target.entries:
            raise refused(f"{self._source.shown()} is empty: with delete, all of {self._target.shown()} would go")
        same = self._sums(source, target) if params.compare is Compare.CHECKSUM else None
        plan = make_plan(source, target, delete=params.delete, window=params.modify_window, same=same)
        if plan.keeps:
            self._op.log(f"nothing is deleted: {plan.keeps}")
        self._unreadable = source.failed
        self._directories = source.of(Kind.DIRECTORY)
        deleted = len(plan.of(Action.DELETE))
        if (most := self._most_deleted(len(target.entries))) is not None and deleted > most:
            raise refused(
                f"{deleted} of {len(target.entries)} entries of {self._target.shown()} would be deleted, and max_delete is "
                f"{params.max_delete}: nothing was done",
                would_delete=deleted,
                max_delete=most,
            )
        return plan

    def _target_tree(self) -> Tree:
        if self._params.dry_run and self._target.stat(()) is None:
            return Tree()
        # Its links are never followed: they are entries of their own, to be replaced or to be deleted.
        params = self._params
        return Scan(self._op, self._target, params.filter, limits=params.limits, destination=True).run()

    def _most_deleted(self, entries: int) -> int | None:
        most = self._params.max_delete
        return int(most[:-1]) * entries // 100 if isinstance(most, str) else most

    def _sums(self, source: Tree, target: Tree) -> Callable[[Entry, Entry], bool]:
        """Compares by content: all sums of one side at once, where its host can do that."""
        pairs = [
            (entry, found)
            for entry in source.of(Kind.FILE)
            if (found := target.entries.get(entry.path)) is not None and found.kind is Kind.FILE and found.size == entry.size
        ]
        here = self._sums_of(self._source, [entry.place for entry, _ in pairs])
        there = self._sums_of(self._target, [found.place for _, found in pairs])
        equal = {entry.path for entry, found in pairs if here[entry.place] == there[found.place]}
        return lambda entry, found: entry.path in equal

    def _sums_of(self, place: Place, paths: list[Parts]) -> dict[Parts, str]:
        sums: dict[Parts, str] = {}
        if isinstance(place, RemotePlace) and place.peer.tools.have("sha256sum", "xargs", "head"):
            for start in range(0, len(paths), _SUMS_AT_ONCE):
                some = paths[start : start + _SUMS_AT_ONCE]
                with suppress(ToolFailed):
                    sums |= zip(some, place.peer.tools.sha256_of_all([place.path(path) for path in some]), strict=True)
        for path in paths:
            self._op.checkpoint()
            if path not in sums:
                sums[path] = place.sha256(path)
        return sums

    # Doing it

    def _carry_out(self, plan: Plan, top: Entry) -> dict[str, Any]:
        params, op = self._params, self._op
        steps = plan.of(Action.CREATE, Action.UPDATE)
        files = [step for step in steps if step.entry.kind is Kind.FILE]
        same = plan.of(Action.SKIP, kind=Kind.FILE)
        # Of the whole source: after a pause it is as far as it was before.
        meter = Meter(op, self._status, sum(step.entry.size for step in files + same), len(files + same))
        meter.there(sum(step.entry.size for step in same), len(same))
        throttle = Throttle(None if params.bandwidth_limit is None else int(params.bandwidth_limit), op.wait)
        how = replace(params.how, times=True)
        copier = Copier(op, self._source, self._target, how, meter, throttle, params.channels)
        copier.failed |= self._unreadable
        for step in plan.of(Action.FAIL):
            copier.failed[step.entry.path] = refused(f"{self._target.shown(step.entry.path)}: {step.reason}")
        self._delete([step for step in plan.of(Action.DELETE) if step.reason == "in the way"], copier)
        self._clear(steps, copier)
        copier.directories(step.entry for step in steps if step.entry.kind is Kind.DIRECTORY)
        copier.files([Item(step.entry, step.found) for step in files])
        copier.links([step.entry for step in steps if step.entry.kind is Kind.LINK], {})
        if copier.failed and plan.of(Action.DELETE):
            op.log("nothing more is deleted, since something failed")
        else:
            self._delete([step for step in plan.of(Action.DELETE) if step.reason != "in the way"], copier)
        self._finish(plan, top, copier)
        found = self._report(plan, copier)
        op.log(", ".join(f"{found[name]} {name}" for name in ("created", "updated", "deleted", "skipped", "failed")))
        op.progress(1.0, f"complete: {size_text(meter.bytes)}", self._status)
        if copier.failed:
            raise partial_failure(copier.failed, found)
        return found

    def _clear(self, steps: list[Step], copier: Copier) -> None:
        """Removes what has another type and is in the way itself; its contents are gone by now."""
        for step in steps:
            if step.found is not None and step.found.kind is not step.entry.kind:
                self._remove(step.found, copier)

    def _delete(self, steps: list[Step], copier: Copier) -> None:
        for step in steps:
            self._op.checkpoint()
            self._remove(step.entry, copier)

    def _remove(self, entry: Entry, copier: Copier) -> None:
        try:
            self._target.remove(entry.path, entry.kind, missing_ok=True)
        except OperationError as exc:
            copier.failed[entry.path] = exc

    def _finish(self, plan: Plan, top: Entry, copier: Copier) -> None:
        """Directories whose contents have changed get the source's time again."""
        touched = {step.entry.path[:-1] for step in plan.of(Action.CREATE, Action.UPDATE, Action.DELETE)}
        made = {step.entry.path for step in plan.of(Action.CREATE, kind=Kind.DIRECTORY)}
        copier.finish_directories([entry for entry in self._directories if entry.path in touched | made])
        if touched:
            copier.finish_directories([top])

    def _report(self, plan: Plan, copier: Copier | None) -> dict[str, Any]:
        """The counts: of what was done, or without a copier of what would be."""
        failed = copier.failed if copier is not None else {}
        kept = bool(failed)

        def count(*actions: Action) -> int:
            return sum(step.entry.path not in failed for step in plan.of(*actions))

        deleted = [step for step in plan.of(Action.DELETE) if not kept or step.reason == "in the way"]
        found: dict[str, Any] = {
            "created": count(Action.CREATE),
            "updated": count(Action.UPDATE),
            "deleted": sum(step.entry.path not in failed for step in deleted),
            "skipped": count(Action.SKIP),
            "failed": len(failed) if copier is not None else len(plan.of(Action.FAIL)),
            "bytes": copier.meter.bytes
            if copier is not None
            else sum(step.entry.size for step in plan.of(Action.CREATE, Action.UPDATE, kind=Kind.FILE)),
        }
        if copier is None:
            rows = [step.row() for step in plan.steps if step.action is not Action.SKIP]
            found |= {"plan": rows[:MOST_ROWS], "plan_truncated": len(rows) > MOST_ROWS}
        return found
