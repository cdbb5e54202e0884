"""Patterns of commands, and which texts a shell takes for nothing but words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase

#: What shells read as more than a character of a word; refused inside quotes, too: some shells look there.
_META = frozenset(";|&$`<>()*?[]{}~!#\\^%\n\r")
_WILD = frozenset("*?[")


def argv_of(text: str) -> list[str] | None:
    """The words of a command text; None where a shell might make anything else of it.

    Blanks and quotes are understood; every metacharacter, a control character, and an assignment before the program are not.
    """
    if _META & set(text) or has_controls([text]):
        return None
    try:
        argv = shlex.split(text)
    except ValueError:  # a quote is not closed
        return None
    if not argv or not argv[0] or "=" in argv[0]:
        return None
    return argv


def has_controls(words: Sequence[str]) -> bool:
    """Whether there are line ends, escapes or the like in them, which no pattern is meant to allow."""
    return any((ord(char) < 32 and char != "\t") or ord(char) == 127 for word in words for char in word)


def matches_argv(pattern: str, argv: Sequence[str]) -> bool:
    """Whether a pattern such as ``nvidia-smi *`` allows an argv.

    The pattern is split into words as a shell does; each is matched with the argv's word at its place, as `fnmatch` does, with
    regard to case. A last word ``*`` allows any number of further words, none as well. A word that only a wildcard fits must not
    climb: with a ``..`` in its path it would leave the folder that the pattern names.
    """
    try:
        wanted = shlex.split(pattern)
    except ValueError:
        return False
    if not wanted or not argv:
        return False
    rest: Sequence[str] = ()
    if wanted[-1] == "*" and len(wanted) > 1:
        wanted, rest = wanted[:-1], argv[len(wanted) - 1 :]
        argv = argv[: len(wanted)]
    if len(wanted) != len(argv):
        return False
    return all(map(_fits, wanted, argv)) and not any("\0" in word for word in rest)


def _fits(pattern: str, word: str) -> bool:
    if not _WILD & set(pattern):
        return pattern == word
    return fnmatchcase(word, pattern) and ".." not in word.split("/")
