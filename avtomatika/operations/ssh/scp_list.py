"""scp_list: what a directory of a host holds, over SFTP."""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from pydantic import Field

from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.operations.ssh._family import family, scp_judge
from avtomatika.operations.ssh.ends import End, connected
from avtomatika.operations.ssh.params import SshParams
from avtomatika.operations.ssh.places import Entry, Kind, Parts, Place, is_part, printable, shown_path
from avtomatika.operations.ssh.remote import missing
from avtomatika.operations.ssh.route import allow
from avtomatika.operations.ssh.scp_params import FilePath, Pattern
from avtomatika.results import JSON

_TYPES = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.LINK: stat.S_IFLNK, Kind.OTHER: 0}
#: Entries that are looked at; a host could list for ever.
_MOST_SEEN = 200_000


class ScpList(SshParams):
    """What a directory of a host holds; a file lists itself.

    Attributes:
        depth: levels below `path` where `recursive`.
        pattern: as `fnmatch` knows it, on the name, or with a ``/`` in it on the path below `path`.
        hidden: names that begin with a dot, too.
        limit: entries at most; `truncated` says that there are more.
        idle_timeout: seconds that the host may be silent.
    """

    path: FilePath
    recursive: bool = False
    depth: int = Field(64, ge=1, le=200)
    pattern: Pattern | None = None
    hidden: bool = True
    limit: int = Field(1000, ge=1, le=10_000)
    idle_timeout: float = Field(60, gt=0, le=3600)


def _may_list(params: ScpList, permit: Permit) -> None:
    allow(params, permit, params.host)
    permit.remote_path(params.path)


@family.operation("scp_list", timeout_seconds=60, max_retries=3, guard=_may_list, judge=scp_judge)
def scp_list(params: ScpList, op: OperationContext) -> JSON:
    """Lists a directory of a host, with type, size, permissions, owner and time of change of each entry."""
    with connected(op, params, params.host, idle=params.idle_timeout, tools=False) as (peer, facts):
        end = End(op, params.path, peer)
        place = end.directory()
        try:
            top = place.stat((), follow=True)
            if top is None:
                raise missing(place.shown())
            op.progress(0.1, f"reading {place.shown()}")
            if top.kind is Kind.DIRECTORY:
                found = Listing(params, op, place)
                found.read()
            else:
                found = Listing(params, op, place)
                found.rows.append(row(top, end.name))
        finally:
            place.close()
    found.rows.sort(key=lambda entry: entry["path"])
    return {
        **facts,
        "path": params.path,
        "entries": found.rows,
        "count": len(found.rows),
        "truncated": found.truncated,
        "unreadable": found.unreadable,
    }


class Listing:
    """Reads breadth first, so that what is cut off by the limit lies deepest."""

    def __init__(self, params: ScpList, op: OperationContext, place: Place) -> None:
        self._params = params
        self._op = op
        self._place = place
        self._seen = 0
        self.rows: list[dict[str, Any]] = []
        self.truncated = False
        self.unreadable: list[dict[str, str]] = []

    def read(self) -> None:
        level: list[Parts] = [()]
        for _ in range(self._params.depth if self._params.recursive else 1):
            below: list[Parts] = []
            for path in level:
                self._op.checkpoint()
                try:
                    below += self._directory(path)
                except OperationError as exc:
                    if not path or not exc.code.endswith(("PERMISSION_DENIED", "NOT_FOUND")):
                        raise
                    self.unreadable.append({"path": shown_path(path), "error_code": exc.code.value})
                if self.truncated:
                    return
            level = below

    def _directory(self, path: Parts) -> list[Parts]:
        """Takes its entries; the directories among them."""
        inner = []
        for entry in self._place.entries(path):
            self._seen += 1
            if self._seen > _MOST_SEEN:
                self.truncated = True
                break
            if self._seen % 1000 == 0:
                self._op.checkpoint()
            name = entry.path[-1]
            if is_part(name) or (name.startswith(".") and not self._params.hidden):
                continue
            if entry.kind is Kind.DIRECTORY:
                inner.append(entry.path)
            if not self._fits(entry.path):
                continue
            if len(self.rows) >= self._params.limit:
                self.truncated = True
                break
            self.rows.append(row(entry, shown_path(entry.path)))
        return sorted(inner)

    def _fits(self, path: Parts) -> bool:
        pattern = self._params.pattern
        return pattern is None or fnmatchcase("/".join(path) if "/" in pattern else path[-1], pattern)


def row(entry: Entry, path: str) -> dict[str, Any]:
    """An entry as a result tells it. A name that is not valid UTF-8 has its bytes beside it, in base64."""
    name = entry.path[-1] if entry.path else path.rsplit("/", 1)[-1]
    found: dict[str, Any] = {
        "name": printable(name),
        "path": path,
        "type": entry.kind.value,
        "size": entry.size,
        "mode": f"{entry.mode:04o}",
        "mode_text": stat.filemode(_TYPES[entry.kind] | entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": datetime.fromtimestamp(entry.mtime, UTC).isoformat(),
    }
    if entry.target is not None:
        found["target"] = printable(entry.target)
    if printable(name) != name:
        found["name_base64"] = b64encode(os.fsencode(name)).decode()
    return found
