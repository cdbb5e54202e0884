"""Walking through folders by descriptors: no link is followed, not even one that appears meanwhile."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from avtomatika.operations.files import open_folder


@dataclass(frozen=True, slots=True)
class Entry:
    """Something found on a walk. `folder` is the descriptor of what holds it, open until the walk goes on.

    Attributes:
        relative: below where the walk began, with ``/``; its name alone where the walk began at the entry itself.
    """

    path: Path
    relative: str
    folder: int
    name: str
    state: os.stat_result

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.state.st_mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.state.st_mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.state.st_mode)


def walk(
    top: Path,
    checkpoint: Callable[[], None],
    skip: Callable[[str], bool] = lambda relative: False,
    deep: bool = True,
) -> Iterator[Entry]:
    """Everything beneath a path, folders before what is in them, by name; the path itself first. It may be a file.

    Args:
        checkpoint: called at every entry.
        skip: whether to leave out an entry, and what is in it.
        deep: whether to look into the folders in it.

    Raises:
        OSError: `top` is not there, or a folder cannot be read.
    """
    with open_folder(top.parent) as folder:
        if top == top.parent:
            first = Entry(top, top.name or ".", folder, ".", os.stat(".", dir_fd=folder))
        else:
            first = Entry(top, top.name, folder, top.name, _state(top.name, folder, top))
        yield first
        if first.is_folder:
            yield from _inside(top, "", _open(first.name, folder, top), checkpoint, skip, deep)


def _inside(
    path: Path, relative: str, folder: int, checkpoint: Callable[[], None], skip: Callable[[str], bool], deep: bool
) -> Iterator[Entry]:
    """Closes the descriptor `folder`."""
    try:
        for name in sorted(os.listdir(folder)):
            checkpoint()
            below = f"{relative}/{name}" if relative else name
            if skip(below):
                continue
            try:
                entry = Entry(path / name, below, folder, name, _state(name, folder, path / name))
                yield entry
                inner = _open(name, folder, entry.path) if entry.is_folder and deep else None
            except FileNotFoundError:
                continue  # gone since
            if inner is not None:
                yield from _inside(entry.path, below, inner, checkpoint, skip, deep)
    finally:
        os.close(folder)


def _open(name: str, parent: int, path: Path) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as exc:
        raise OSError(exc.errno, os.strerror(exc.errno or 0), str(path)) from None


def _state(name: str, folder: int, path: Path) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as exc:
        raise OSError(exc.errno, os.strerror(exc.errno or 0), str(path)) from None


def matcher(patterns: list[str]) -> Callable[[str], bool]:
    """Whether a relative path, or its last name, fits one of these shell patterns."""

    def fits(relative: str) -> bool:
        name = relative.rpartition("/")[2]
        return any(fnmatchcase(relative, pattern) or fnmatchcase(name, pattern) for pattern in patterns)

    return fits
