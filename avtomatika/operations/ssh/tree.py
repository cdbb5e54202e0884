"""Which files of a tree are meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase

from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.outcomes import refused
from avtomatika.operations.ssh.places import Entry, Kind, Parts, Place, is_part, shown_path


class Symlinks(StrEnum):
    """What is done with links in a tree."""

    SKIP = "skip"
    COPY = "copy"  # as links, where they lead to something in the tree
    FOLLOW = "follow"  # what they lead to, where that is in the tree


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tree may be at most; see `TreeParams`."""

    files: int = 100_000
    bytes: int = 1 << 40
    depth: int = 64


@dataclass(frozen=True, slots=True)
class Filter:
    """Patterns as `fnmatch` knows them, on a whole path below the tree's top or on a name; one with a ``/`` at its end fits
    directories only. What is in an excluded directory is excluded, too.

    Attributes:
        include: without any, every file.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes(self, entry: Entry) -> bool:
        directory = entry.kind is Kind.DIRECTORY
        if any(_fits(pattern, entry.path, directory) for pattern in self.exclude):
            return False
        return directory or not self.include or any(_fits(pattern, entry.path, False) for pattern in self.include)


def _fits(pattern: str, path: Parts, directory: bool) -> bool:
    if pattern.endswith("/"):
        if not directory:
            return False
        pattern = pattern[:-1]
    if "/" in pattern:
        return fnmatchcase("/".join(path), pattern.lstrip("/"))
    return fnmatchcase(path[-1], pattern)


@dataclass(slots=True)
class Tree:
    """What `scan` has found, parents before children.

    Attributes:
        failed: what could not be read.
        excluded: paths that the filter, or the rule on links, left out.
    """

    entries: dict[Parts, Entry] = field(default_factory=dict)
    failed: dict[Parts, OperationError] = field(default_factory=dict)
    excluded: set[Parts] = field(default_factory=set)
    bytes: int = 0

    def of(self, kind: Kind) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.kind is kind]


@dataclass(slots=True)
class Scan:
    """Reads a tree.

    Attributes:
        destination: every link is an entry of its own, whatever `symlinks` says, and nothing is told.
    """

    op: OperationContext
    place: Place
    filter: Filter = field(default_factory=Filter)
    symlinks: Symlinks = Symlinks.SKIP
    limits: Limits = field(default_factory=Limits)
    destination: bool = False

    def run(self) -> Tree:
        """
        Raises:
            OperationError: the top cannot be read, a name in it is none, or it is larger than the limits.
        """
        tree = Tree()
        waiting: list[tuple[Parts, Parts, frozenset[Parts]]] = [((), (), frozenset({()}))]
        while waiting:
            self.op.checkpoint()
            path, real, above = waiting.pop()
            try:
                found = sorted(self._entries(path, real, tree), key=lambda entry: entry.path)
            except OperationError as exc:
                if not path or exc.code.endswith(("TRANSFER_FAILED", "CONNECTION_FAILED")):
                    raise
                tree.failed[path] = exc
                continue
            inner = []
            for entry in found:
                if entry.kind is Kind.DIRECTORY:
                    if entry.place in above:
                        self._note(tree, entry, "a link to a directory above it")
                        continue
                    inner.append((entry.path, entry.place, above | {entry.place}))
                tree.entries[entry.path] = entry
                tree.bytes += entry.size if entry.kind is Kind.FILE else 0
                self._limit(tree, entry)
            waiting.extend(reversed(inner))
        return tree

    def _entries(self, path: Parts, real: Parts, tree: Tree) -> Iterator[Entry]:
        for count, entry in enumerate(self.place.entries(real)):
            if count >= self.limits.files:
                raise refused(f"more than {self.limits.files} files (max_files) in {self.place.shown(path)}")
            # Below a link that is followed, what is there has a path of its own.
            here = replace(entry, path=(*path, entry.path[-1]), real=entry.path if path != real else None)
            if is_part(here.path[-1]):
                tree.excluded.add(here.path)
                continue
            if not self.filter.takes(here):
                tree.excluded.add(here.path)
                continue
            kept = self._link(here, tree) if here.kind is Kind.LINK else here
            if kept is None:
                continue
            if kept.kind is Kind.OTHER:
                self._note(tree, kept, "neither a file nor a directory")
                continue
            yield kept

    def _link(self, entry: Entry, tree: Tree) -> Entry | None:
        if self.destination:
            return entry
        if self.symlinks is Symlinks.SKIP:
            self._note(tree, entry, "a symbolic link")
            return None
        if self.symlinks is Symlinks.COPY:
            if leads_out(entry.path, entry.target or ""):
                self._note(tree, entry, "a symbolic link that leads out of the tree")
                return None
            return entry
        real = self.place.resolve(entry.place)
        found = None if real is None else self.place.stat(real)
        if found is None or real is None:
            self._note(tree, entry, "a symbolic link that leads out of the tree, or nowhere")
            return None
        return replace(found, path=entry.path, real=real)

    def _note(self, tree: Tree, entry: Entry, why: str) -> None:
        tree.excluded.add(entry.path)
        if not self.destination:
            self.op.log(f"skipped {shown_path(entry.path)}: {why}")

    def _limit(self, tree: Tree, entry: Entry) -> None:
        if len(tree.entries) > self.limits.files:
            raise refused(f"more than {self.limits.files} files (max_files) in {self.place.shown()}")
        if tree.bytes > self.limits.bytes:
            raise refused(f"more than {self.limits.bytes} bytes (max_bytes) in {self.place.shown()}")
        if len(entry.path) > self.limits.depth:
            raise refused(f"{self.place.shown(entry.path)} is deeper than {self.limits.depth} (max_depth)")


def leads_out(path: Parts, target: str) -> bool:
    """Whether a link at `path` with this text could lead out of its tree; as it is written, for it is read on another machine."""
    if not target or target.startswith("/") or "\0" in target:
        return True
    names = [name for name in target.split("/") if name not in ("", ".")]
    ups = next((index for index, name in enumerate(names) if name != ".."), len(names))
    # After a name, ".." is one level above where that name leads to, and it may be a link, too.
    return ups > len(path) - 1 or ".." in names[ups:]
