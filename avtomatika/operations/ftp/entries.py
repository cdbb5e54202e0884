"""Lists, facts, deletions, folders, renames."""

from __future__ import annotations

import ftplib
import posixpath
from collections import deque
from collections.abc import Generator
from contextlib import closing
from fnmatch import fnmatchcase

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ftp.family import digits, family
from avtomatika.operations.ftp.listing import Entry, is_name, parse_facts
from avtomatika.operations.ftp.params import FtpDelete, FtpInfo, FtpList, FtpMkdir, FtpRename, guard
from avtomatika.operations.ftp.session import Session, session
from avtomatika.results import JSON

_UNKNOWN_COMMAND = (500, 502, 504)


@family.operation("ftp_list", timeout_seconds=600, guard=guard)
def ftp_list(params: FtpList, op: OperationContext) -> JSON:
    """Lists a folder: with facts where the server speaks MLSD, else names, and the lines of LIST as they are."""
    path = op.permit.remote_path(params.remote_path)
    with session(params, op) as ftp:
        listing = _Listing(ftp, params)
        with ftp.asking(path):
            listing.read(path)
        raw = None
        if not listing.has_facts:
            with ftp.asking(path):
                raw = _raw(ftp, path, params.limit)
    return {
        "message": f"{len(listing.files)} in {path}" + (", and more" if listing.truncated else ""),
        "host": params.host,
        "remote_path": path,
        "files": listing.files,
        "file_count": len(listing.files),
        "truncated": listing.truncated,
        "unreadable": listing.unreadable,
        "raw": raw,
    }


class _Listing:
    """Folders, breadth first.

    Attributes:
        has_facts: the server speaks MLSD; else there are only names.
        unreadable: folders below the first one that the server did not list.
    """

    def __init__(self, ftp: Session, params: FtpList) -> None:
        self._ftp, self._params = ftp, params
        self.files: list[JSON] = []
        self.unreadable: list[str] = []
        self.truncated = False
        self.has_facts = "MLST" in ftp.features

    def read(self, path: str) -> None:
        """Raises what ftplib raises where the first folder is refused."""
        folders = deque([(path, 1)])
        while folders and not self.truncated:
            folder, depth = folders.popleft()
            try:
                below = self._read_one(folder)
            except ftplib.error_perm:
                if folder == path:
                    raise
                self.unreadable.append(folder)
                continue
            if self._params.recursive and depth < self._params.depth:
                folders.extend((name, depth + 1) for name in below)
            self._ftp.op.progress(0.5, f"{len(self.files)} found")

    def _read_one(self, folder: str) -> list[str]:
        """The folders in it."""
        below = []
        with closing(self._entries(folder)) as entries:
            for entry in entries:
                full = posixpath.join(folder, entry.name)
                if entry.type == "dir":
                    below.append(full)
                if self._params.pattern is not None and not fnmatchcase(entry.name, self._params.pattern):
                    continue
                if len(self.files) == self._params.limit:
                    self.truncated = True
                    break
                self.files.append(entry.to_dict(full))
        return below

    def _entries(self, folder: str) -> Generator[Entry, None, None]:
        if self.has_facts:
            try:
                yield from self._facts(folder)
                return
            except ftplib.error_perm as exc:
                if digits(exc) not in _UNKNOWN_COMMAND:
                    raise
                self.has_facts = False  # whatever FEAT says
        with closing(self._ftp.lines(f"NLST {folder}")) as names:
            for line in names:
                if is_name(name := posixpath.basename(line)):
                    yield Entry(name)

    def _facts(self, folder: str) -> Generator[Entry, None, None]:
        with closing(self._ftp.lines(f"MLSD {folder}")) as lines:
            for line in lines:
                entry = parse_facts(line)
                if entry is not None and entry.type not in ("self", "parent") and is_name(entry.name):
                    yield entry


def _raw(ftp: Session, path: str, limit: int) -> list[str]:
    """The lines of LIST: their form is the server's own. In the folder itself, since some take ``-`` in a path for options."""
    ftp.client.cwd(path)
    with closing(ftp.lines("LIST")) as lines:
        return [line for line, _ in zip(lines, range(limit), strict=False)]


@family.operation("ftp_info", timeout_seconds=60, guard=guard)
def ftp_info(params: FtpInfo, op: OperationContext) -> JSON:
    """Says what a server knows of one file or folder: type, size, time, permissions."""
    path = op.permit.remote_path(params.remote_path)
    with session(params, op) as ftp:
        found = ftp.stat(path)
        if found is None:
            there = ftp.exists(path)
            if there is False:
                raise OperationError(TaskErrorCode.FTP_FILE_NOT_FOUND, f"{path} is not on the server", details={"path": path})
            if there is None:
                raise OperationError(TaskErrorCode.FTP_PERMISSION_DENIED, f"the server shows nothing of {path}")
            found = Entry(posixpath.basename(path), "dir" if _is_folder(ftp, path) else "other")
        command = ftp.hash_command
        return {
            "message": f"{path} is on {params.host}",
            "host": params.host,
            "remote_path": path,
            **found.to_dict(path),
            "facts": found.facts,
            "tls": ftp.tls,
            "hash": None if command is None else command.algorithm,
        }


def _is_folder(ftp: Session, path: str) -> bool:
    try:
        ftp.client.cwd(path)
    except ftplib.error_perm:
        return False
    return True


@family.operation("ftp_delete", timeout_seconds=60, guard=guard)
def ftp_delete(params: FtpDelete, op: OperationContext) -> JSON:
    """Deletes a file, or an empty folder."""
    path = op.permit.remote_path(params.remote_path)
    deleted = True
    with session(params, op) as ftp:
        try:
            with ftp.asking(path):
                ftp.client.voidcmd(f"{'RMD' if params.directory else 'DELE'} {path}")
        except OperationError as exc:
            # A second attempt may find that the first one did it, and that only the answer was lost.
            if exc.code is not TaskErrorCode.FTP_FILE_NOT_FOUND or not (params.missing_ok or op.attempt > 1):
                raise
            deleted = False
    return {
        "message": f"{path} is {'deleted' if deleted else 'gone already'}",
        "host": params.host,
        "remote_path": path,
        "deleted": deleted,
    }


@family.operation("ftp_mkdir", timeout_seconds=60, guard=guard)
def ftp_mkdir(params: FtpMkdir, op: OperationContext) -> JSON:
    """Makes a folder, with those above it where that is wanted."""
    path = op.permit.remote_path(params.remote_path)
    created: list[str] = []
    with session(params, op) as ftp:
        wanted = _missing(ftp, path) if params.parents else [path]
        for folder in wanted:
            try:
                with ftp.asking(folder, creates=True):
                    ftp.client.voidcmd(f"MKD {folder}")
                created.append(folder)
            except OperationError as exc:
                if exc.code is not TaskErrorCode.FTP_PERMISSION_DENIED or not ftp.exists(folder):
                    raise
                if folder == path and not (params.exist_ok or params.parents or op.attempt > 1):
                    raise OperationError(
                        TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
                        f"{path} is on the server already: set exist_ok where that is well",
                        details={"path": path},
                    ) from exc
    return {
        "message": f"{path} is {'made' if path in created else 'there already'}",
        "host": params.host,
        "remote_path": path,
        "created": created,
    }


def _missing(ftp: Session, path: str) -> list[str]:
    """The folders of a path that are not there, the topmost first."""
    found: list[str] = []
    while path not in ("/", "") and not ftp.exists(path):
        found.insert(0, path)
        path = posixpath.dirname(path)
    return found


@family.operation("ftp_rename", timeout_seconds=60, guard=guard)
def ftp_rename(params: FtpRename, op: OperationContext) -> JSON:
    """Renames a file or folder on the server; what has the new name already is replaced only where that is wanted."""
    old, new = op.permit.remote_path(params.old_path), op.permit.remote_path(params.new_path)
    with session(params, op) as ftp:
        there = ftp.exists(new)
        if not (op.attempt > 1 and there and ftp.exists(old) is False):  # else an earlier attempt did it
            if there and not params.overwrite:
                raise OperationError(
                    TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
                    f"{new} is on the server already: set overwrite to replace it",
                    details={"path": new},
                )
            with ftp.asking(old):
                ftp.client.sendcmd(f"RNFR {old}")
            with ftp.asking(new, creates=True):
                _rename_to(ftp, old, new, replace=bool(there))
    return {"message": f"{old} is {new} now", "host": params.host, "old_path": old, "new_path": new}


def _rename_to(ftp: Session, old: str, new: str, *, replace: bool) -> None:
    try:
        ftp.client.voidcmd(f"RNTO {new}")
    except ftplib.error_perm as exc:
        if not replace or digits(exc) in _UNKNOWN_COMMAND:
            raise
        # Some servers replace nothing by a rename.
        ftp.client.voidcmd(f"DELE {new}")
        ftp.client.sendcmd(f"RNFR {old}")
        ftp.client.voidcmd(f"RNTO {new}")
