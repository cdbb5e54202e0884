"""What a synchronisation does: worked out from both trees before anything is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from avtomatika.operations.ssh.places import Entry, Kind, Parts, shown_path
from avtomatika.operations.ssh.tree import Tree


class Action(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    SKIP = "skip"
    FAIL = "fail"  # it cannot be done with these options


@dataclass(frozen=True, slots=True)
class Step:
    """What is done to one path, and why.

    Attributes:
        entry: the source's; the destination's where it is deleted.
        found: what the destination has there.
    """

    action: Action
    entry: Entry
    reason: str
    found: Entry | None = None

    def row(self) -> dict[str, object]:
        size = self.entry.size if self.entry.kind is Kind.FILE else 0
        return {
            "action": self.action.value,
            "path": shown_path(self.entry.path),
            "type": self.entry.kind.value,
            "size": size,
            "reason": self.reason,
        }


@dataclass(slots=True)
class Plan:
    """Steps in the order in which they are done: what is in the way goes first, then parents before children, then what is no
    longer in the source, children first.

    Attributes:
        keeps: why nothing is deleted, although it was asked for.
    """

    steps: list[Step] = field(default_factory=list)
    keeps: str = ""

    def of(self, *actions: Action, kind: Kind | None = None) -> list[Step]:
        return [step for step in self.steps if step.action in actions and (kind is None or step.entry.kind is kind)]


def make_plan(source: Tree, target: Tree, *, delete: bool, window: int, same: Callable[[Entry, Entry], bool] | None) -> Plan:
    """
    Args:
        delete: what is not in the source is removed from the destination.
        window: seconds by which times of change may differ.
        same: whether two files of the same size hold the same; without it, their times decide.
    """
    plan = Plan()
    gone: dict[Parts, Entry] = {}
    for path, entry in source.entries.items():
        found = target.entries.get(path)
        blocked = any(path[:depth] in gone for depth in range(1, len(path)))
        if found is None or blocked:
            plan.steps.append(Step(Action.CREATE, entry, "not in the destination"))
        elif found.kind is not entry.kind:
            if found.kind is Kind.DIRECTORY and not delete:
                reason = "a directory is in its place, and delete is not set"
                plan.steps.append(Step(Action.FAIL, entry, reason, found))
            elif found.kind is Kind.DIRECTORY and _holds(path, target.excluded):
                reason = "a directory is in its place that holds what is excluded"
                plan.steps.append(Step(Action.FAIL, entry, reason, found))
            else:
                gone[path] = found
                plan.steps.append(Step(Action.UPDATE, entry, f"a {found.kind.value} is in its place", found))
        elif entry.kind is not Kind.DIRECTORY:
            reason = _difference(entry, found, window, same)
            plan.steps.append(Step(Action.UPDATE if reason else Action.SKIP, entry, reason or "the same", found))
    if delete and source.failed:
        plan.keeps = "the source cannot be read completely"
    replaced = _below(target.entries.values(), gone)
    if plan.keeps:
        return plan
    obstacles = [Step(Action.DELETE, entry, "in the way", entry) for entry in replaced if entry.path not in gone]
    plan.steps = [*_deepest_first(obstacles), *plan.steps]
    if delete:
        covered = {entry.path for entry in replaced}
        surplus = [
            Step(Action.DELETE, entry, "not in the source", entry)
            for path, entry in target.entries.items()
            if path not in source.entries and path not in covered and path not in source.excluded
            and not any(path[:depth] in source.excluded for depth in range(1, len(path)))
            and not (entry.kind is Kind.DIRECTORY and _holds(path, target.excluded | source.excluded))
        ]  # fmt: skip
        plan.steps += _deepest_first(surplus)
    return plan


def _difference(entry: Entry, found: Entry, window: int, same: Callable[[Entry, Entry], bool] | None) -> str:
    """In what two files, or links, differ; empty where they do not."""
    if entry.kind is Kind.LINK:
        return "" if entry.target == found.target else "target"
    if entry.size != found.size:
        return "size"
    if same is not None:
        return "" if same(entry, found) else "checksum"
    return "mtime" if abs(entry.mtime - found.mtime) > window else ""


def _below(entries: Iterable[Entry], tops: dict[Parts, Entry]) -> list[Entry]:
    """What is at these paths, and in them."""
    return [entry for entry in entries if any(entry.path[:depth] in tops for depth in range(1, len(entry.path) + 1))]


def _deepest_first(steps: list[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: (-len(step.entry.path), step.entry.path))


def _holds(path: Parts, excluded: set[Parts]) -> bool:
    return any(other[: len(path)] == path for other in excluded if len(other) > len(path))
