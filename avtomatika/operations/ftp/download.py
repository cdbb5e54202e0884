"""One download."""

from __future__ import annotations

import ftplib
import os
from pathlib import Path
from typing import BinaryIO

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ftp import local
from avtomatika.operations.ftp.family import refuses_resume
from avtomatika.operations.ftp.listing import Entry
from avtomatika.operations.ftp.pace import Pace
from avtomatika.operations.ftp.params import FtpDownload
from avtomatika.operations.ftp.proof import bytes_before, exactly, hash_of
from avtomatika.operations.ftp.session import Session, session
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

_FAILED = TaskErrorCode.FTP_DOWNLOAD_FAILED


class _OtherFileError(Exception):
    """What is here is no beginning of what is there, or the server does not read a file from its middle."""


class Download:
    """
    Attributes:
        part: the file's name until it is whole: the same for each attempt at this work.
    """

    def __init__(self, params: FtpDownload, op: OperationContext, source: str, final: Path) -> None:
        self.params, self.op, self.source, self.final = params, op, source, final
        self.part = final.with_name(f".{final.name}.part-{op.key}")

    def run(self) -> JSON:
        self.op.progress(0.05, "preparing", TaskStatus.PREPARING)
        with session(self.params, self.op) as ftp:
            if self.params.checksum and ftp.hash_command is None:
                raise OperationError(_FAILED, "the server has no hashes: leave checksum out", kind=ErrorCode.PERMANENT)
            entry = self._source(ftp)
            place = self._place(entry.size)
            with local.open_target(place) as file:
                offset = file.seek(0, os.SEEK_END)
                if not self.params.resume or (entry.size is not None and offset > entry.size):
                    offset = 0  # of its own part; another file is looked at before
                if entry.size is not None:
                    local.check_space(place.parent, entry.size - offset)
                got, offset, proof = self._receive(ftp, file, place, offset, entry)
                size = offset + got
                verified = self._verify(ftp, file, place, entry, size, resumed=offset > 0)
                with local.naming(place, _FAILED):
                    os.fsync(file.fileno())
            self._finish(place, entry)
            return {
                "message": f"{self.source} of {self.params.host} is here as {self.final}",
                "host": self.params.host,
                "remote_path": self.source,
                "local_path": str(self.final),
                "file_size": size,
                "downloaded_bytes": got,
                "resumed": offset > 0,
                "resume_position": offset,
                "resume_proof": proof,
                "verified": verified,
                "tls": ftp.tls,
            }

    def clear(self) -> None:
        """Takes the part back."""
        try:
            self.part.unlink(missing_ok=True)
        except OSError as exc:
            self.op.log(f"{self.part} may be left: {exc.strerror}")

    # Where it begins

    def _source(self, ftp: Session) -> Entry:
        found = ftp.stat(self.source)
        if found is not None and found.type == "dir":
            raise OperationError(
                TaskErrorCode.FTP_INVALID_PATH,
                f"{self.source} is a folder on the server: name a file",
                kind=ErrorCode.INVALID_INPUT,
            )
        # Where nothing is said of it, RETR will tell.
        return found or Entry(self.source)

    def _place(self, size: int | None) -> Path:
        """The file that is written: the part, or a file of the name that is there already."""
        there = local.size_of(self.final)
        if self.final.is_dir():
            raise OperationError(TaskErrorCode.FTP_INVALID_PATH, f"{self.final} is a folder", kind=ErrorCode.INVALID_INPUT)
        if not there or self.params.overwrite:
            return self.part
        if not self.params.resume:
            raise OperationError(
                TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, f"{self.final} is there already: set overwrite to replace it"
            )
        if size is None or there > size:
            raise self._no_beginning()
        return self.final

    def _no_beginning(self) -> OperationError:
        return OperationError(
            TaskErrorCode.FTP_RESUME_FAILED,
            f"{self.final} is no beginning of {self.source} on the server: set overwrite to replace it",
            details={"path": str(self.final)},
        )

    # What it gets

    def _receive(self, ftp: Session, file: BinaryIO, place: Path, offset: int, entry: Entry) -> tuple[int, int, str | None]:
        """The bytes that came, the position that they begin at, and what showed that it may be gone on there."""
        if offset:
            try:
                with ftp.asking(self.source, _FAILED):
                    return self._retrieve(ftp, file, offset, entry), offset, "overlap"
            except _OtherFileError as exc:
                if place != self.part:
                    raise self._no_beginning() from exc
                self.op.log(f"{self.part} cannot be gone on with: it begins anew")
        with ftp.asking(self.source, _FAILED):
            return self._retrieve(ftp, file, 0, entry), 0, None

    def _retrieve(self, ftp: Session, file: BinaryIO, offset: int, entry: Entry) -> int:
        pace = Pace(
            self.op, f"receiving {self.final.name}", TaskStatus.DOWNLOADING, offset, entry.size, self.params.bandwidth_limit
        )
        with local.naming(self.part, _FAILED):
            known = bytes_before(file, offset)
        opened = False
        try:
            with ftp.transfer(f"RETR {self.source}", offset - len(known)) as conn:
                opened = True
                if known and exactly(conn, len(known), self.op) != known:
                    raise _OtherFileError
                with local.naming(self.part, _FAILED):
                    file.seek(offset)
                    file.truncate()
                while block := conn.recv(pace.block):
                    with local.naming(self.part, _FAILED):
                        local.write(file, block)
                    pace.add(len(block))
                    if entry.size is not None and offset + pace.moved > entry.size:
                        raise OperationError(_FAILED, f"{self.source} grows on the server while it is read")
        except _OtherFileError:
            ftp.abandon()
            raise
        except (ftplib.error_perm, ftplib.error_temp) as exc:
            if opened or not offset or not refuses_resume(exc):
                raise
            raise _OtherFileError from exc
        return pace.moved

    def _verify(self, ftp: Session, file: BinaryIO, place: Path, entry: Entry, size: int, *, resumed: bool) -> str | None:
        """What was compared in the end: a hash, the size, or None where the server tells neither."""
        self.op.progress(0.95, "verifying", TaskStatus.VALIDATING)
        if entry.size is not None and size != entry.size:
            raise OperationError(
                _FAILED,
                f"{size} bytes of {self.source} came, and it has {entry.size} on the server",
                details={"remote_size": entry.size, "local_size": size},
            )
        if self.params.checksum or (resumed and ftp.hash_command is not None):
            found = ftp.hash(self.source)
            if found is not None and hash_of(file, size, found[0], self.op) == found[1]:
                return found[0]
            if found is not None or self.params.checksum:
                self.clear()
                raise OperationError(
                    TaskErrorCode.FTP_RESUME_FAILED if resumed else _FAILED,
                    f"what came of {self.source} has another hash than it has there",
                    kind=ErrorCode.TRANSIENT if place == self.part else ErrorCode.PERMANENT,
                )
        return None if entry.size is None else "size"

    def _finish(self, place: Path, entry: Entry) -> None:
        with local.naming(self.final, _FAILED):
            if self.params.preserve and entry.timestamp is not None:
                os.utime(place, (entry.timestamp.timestamp(),) * 2)
            if place == self.part:
                try:
                    replace = self.params.overwrite or local.size_of(self.final) == 0
                    local.take_name(self.part, self.final, replace=replace)
                except FileExistsError:
                    raise OperationError(
                        TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, f"{self.final} came meanwhile: set overwrite to replace it"
                    ) from None
