"""Lines of MLSD and MLST as entries."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from avtomatika.results import JSON

_TYPES = {"file": "file", "dir": "dir", "cdir": "self", "pdir": "parent"}


@dataclass(frozen=True)
class Entry:
    """What a server says of a file or folder.

    Attributes:
        type: ``file``, ``dir``, ``link``, ``other``; ``self`` and ``parent`` for the lines of a listed folder and the one above.
        modified: as the server writes it, ``YYYYMMDDHHMMSS``.
    """

    name: str
    type: str = "other"
    size: int | None = None
    modified: str | None = None
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def timestamp(self) -> datetime | None:
        """When it was changed last, in UTC."""
        if self.modified is None or not re.fullmatch(r"\d{14}(\.\d+)?", self.modified):
            return None
        try:
            return datetime.strptime(self.modified[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        except ValueError:
            return None

    def to_dict(self, path: str) -> JSON:
        when = self.timestamp
        return {
            "name": self.name,
            "path": path,
            "type": self.type,
            "size": self.size,
            "modified": None if when is None else when.isoformat(),
            "permissions": self.facts.get("perm"),
            "mode": self.facts.get("unix.mode"),
            "owner": self.facts.get("unix.owner") or self.facts.get("unix.uid"),
            "group": self.facts.get("unix.group") or self.facts.get("unix.gid"),
        }


def parse_facts(line: str, name: str | None = None) -> Entry | None:
    """An entry out of ``type=file;size=12;modify=20260101120000; name``; None for what is no such line.

    Args:
        name: instead of the line's own, which MLST may give with its folders.
    """
    said, gap, own = line.partition(" ")
    if "=" not in said or not gap:
        return None
    facts = {key.lower(): value for key, _, value in (fact.partition("=") for fact in said.split(";") if fact)}
    type_ = facts.get("type", "").lower()
    if name is not None and type_ == "cdir":
        type_ = "dir"
    size = facts.get("size", "")
    return Entry(
        own if name is None else name,
        _TYPES.get(type_, "link" if type_.startswith("os.unix=s") else "other"),
        int(size) if size.isascii() and size.isdigit() else None,
        facts.get("modify"),
        facts,
    )


def is_name(name: str) -> bool:
    """Whether it is one component: a server that lists ``../x`` is not followed there."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name
