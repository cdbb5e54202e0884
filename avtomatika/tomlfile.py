"""A TOML file of the user's, and errors that say which of its lines to mend."""

from __future__ import annotations

import re
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Any

from avtomatika.errors import ConfigurationError

_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class TomlFile:
    """
    Args:
        path: the file.
        setting: the setting that names it, for the messages.

    Raises:
        ConfigurationError: it cannot be read, or is not TOML.

    Attributes:
        values: what it holds.
    """

    def __init__(self, path: Path, setting: str) -> None:
        self.path = path
        self.setting = setting
        try:
            raw = path.read_bytes()
        except OSError as exc:
            raise ConfigurationError(f"{setting} names {path}, which cannot be read: {exc.strerror}") from None
        try:
            text = raw.decode()
        except UnicodeDecodeError as exc:
            line = raw.count(b"\n", 0, exc.start) + 1
            raise ConfigurationError(f"{path}:{line}: this is not UTF-8 text; save the file as UTF-8") from None
        self._lines = text.splitlines()
        try:
            self.values: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise self._syntax_error(str(exc)) from None
        except RecursionError:
            raise self.error("this is nested too deeply; flatten it") from None

    def error(self, message: str, table: str | None = None, key: str | None = None) -> ConfigurationError:
        """An error at the line of a table's header, or of a key in that table (at the top where no table is named)."""
        return ConfigurationError(f"{self.path}:{self.line_of(table, key)}: {message}")

    def line_of(self, table: str | None = None, key: str | None = None) -> int:
        """The line of a table or of one of its keys; 1 where it is not found."""
        begin = self._tables.get(table, 1) if table is not None else 1
        if key is None:
            return begin
        here: tuple[str, ...] = ()
        for number, line in enumerate(self._lines, 1):
            words = line.strip()
            if words.startswith("["):
                here = _header(words)
                if (table, key) == here[:2]:
                    return number
                continue
            names = _names(words)
            if table is None or here[:1] == (table,):
                if names[:1] == (key,):
                    return number
            elif not here and names[:1] == (table,) and (names[1:2] == (key,) or key in words):  # name = {…}, or name.key = …
                return number
        return begin

    def error_at(self, message: str, *names: str) -> ConfigurationError:
        """An error at the line of ``a.b.c = …``, however deep, else of the nearest table around it."""
        return ConfigurationError(f"{self.path}:{self._line_at(names)}: {message}")

    def _line_at(self, names: tuple[str, ...]) -> int:
        here: tuple[str, ...] = ()
        best, depth = 1, 0
        for number, line in enumerate(self._lines, 1):
            words = line.strip()
            if words.startswith("["):
                here = found = _header(words)
            else:
                found = (*here, *_names(words)) if "=" in words else here
            common = next((i for i, (a, b) in enumerate(zip(found, names, strict=False)) if a != b), min(len(found), len(names)))
            if common > depth:
                best, depth = number, common
        return best

    @cached_property
    def _tables(self) -> dict[str, int]:
        """The line where each table begins, as a header or as ``name = {…}``: a file may have thousands."""
        found: dict[str, int] = {}
        outside = True
        for number, line in enumerate(self._lines, 1):
            words = line.strip()
            names = _header(words) if words.startswith("[") else _names(words) if outside else ()
            outside = outside and not words.startswith("[")
            if names:
                found.setdefault(names[0], number)
        return found

    def _syntax_error(self, words: str) -> ConfigurationError:
        place = _PLACE.search(words)
        line = int(place[1]) if place is not None and place[1] else max(1, len(self._lines))
        reason = words[: place.start()] if place is not None else words
        return ConfigurationError(
            f"{self.path}:{line}: this is not TOML: {reason}; mend the line ({self.setting} names this file)"
        )


def _header(words: str) -> tuple[str, ...]:
    """The names of a line like ``[a."b.c"]``."""
    try:
        found: Any = tomllib.loads(words)
    except tomllib.TOMLDecodeError:  # a line of an array over several lines
        return ()
    return _path(found)


def _names(words: str) -> tuple[str, ...]:
    """The names of a line like ``a.b = …``."""
    key, equals, _ = words.partition("=")
    if not equals:
        return ()
    try:
        return _path(tomllib.loads(f"{key}= 0"))
    except tomllib.TOMLDecodeError:
        return ()


def _path(value: Any) -> tuple[str, ...]:
    names = []
    while isinstance(value, dict) and value:
        name, value = next(iter(value.items()))
        names.append(name)
    return tuple(names)
