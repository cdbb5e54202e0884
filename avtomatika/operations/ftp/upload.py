"""One upload."""

from __future__ import annotations

import ftplib
import os
import posixpath
from pathlib import Path
from typing import BinaryIO

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ftp import local
from avtomatika.operations.ftp.family import refuses_resume
from avtomatika.operations.ftp.pace import Pace
from avtomatika.operations.ftp.params import FtpUpload
from avtomatika.operations.ftp.proof import hash_of, is_beginning
from avtomatika.operations.ftp.session import Session, session
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

_FAILED = TaskErrorCode.FTP_UPLOAD_FAILED


class _NoResumeError(Exception):
    """The server does not go on with a file."""


class Upload:
    """
    Attributes:
        part: the file's name on the server until it is whole: the same for each attempt at this work.
    """

    def __init__(self, params: FtpUpload, op: OperationContext, source: Path, final: str) -> None:
        self.params, self.op, self.source, self.final = params, op, source, final
        folder, name = posixpath.split(final)
        self.part = posixpath.join(folder, f".{name}.part-{op.key}")
        self.begun = False  # a part is there, or may be

    def run(self) -> JSON:
        self.op.progress(0.05, "preparing", TaskStatus.PREPARING)
        with local.open_source(self.source) as file, session(self.params, self.op) as ftp:
            before = os.fstat(file.fileno())
            size = before.st_size
            if self.params.checksum and ftp.hash_command is None:
                raise OperationError(_FAILED, "the server has no hashes: leave checksum out", kind=ErrorCode.PERMANENT)
            target, offset, proof = self._beginning(ftp, file, size)
            if offset:
                self.op.log(f"going on at byte {offset} of {size} of {target} ({proof})")
            sent, offset = self._send(ftp, file, target, offset, size)
            after = os.fstat(file.fileno())
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                self._forget(ftp)
                raise OperationError(_FAILED, f"{self.source} was changed while it was sent")
            verified = self._verify(ftp, file, target, size)
            if target == self.part:
                self._take_name(ftp)
            return {
                "message": f"{self.source.name} is on {self.params.host} as {self.final}",
                "host": self.params.host,
                "local_path": str(self.source),
                "remote_path": self.final,
                "file_size": size,
                "uploaded_bytes": sent,
                "resumed": offset > 0,
                "resume_position": offset,
                "resume_proof": proof if offset else None,
                "verified": verified,
                "tls": ftp.tls,
            }

    def clear(self) -> None:
        """Takes the part back, over a connection of its own: the other one may be closed by now."""
        if not self.begun:
            return
        quick = self.params.model_copy(update={"connect_timeout": 5.0, "timeout": 5.0})
        try:
            with session(quick, self.op, stoppable=False) as ftp:
                ftp.client.voidcmd(f"DELE {self.part}")
                self.op.log(f"removed {self.part}")
        except (ftplib.Error, OSError, EOFError, ValueError, OperationError) as exc:
            self.op.log(f"{self.part} may be left on the server: {exc}")

    # Where it begins

    def _beginning(self, ftp: Session, file: BinaryIO, size: int) -> tuple[str, int, str | None]:
        """Where it goes on: the name, the position, and what shows that it may."""
        found = ftp.stat(self.final)
        if found is not None and found.type == "dir":
            raise OperationError(
                TaskErrorCode.FTP_INVALID_PATH,
                f"{self.final} is a folder: end remote_path with / to put the file into it",
                kind=ErrorCode.INVALID_INPUT,
            )
        there = None if found is None else ftp.size(self.final) if found.size is None else found.size
        if found is not None and not self.params.overwrite and there != 0:
            return self.final, *self._go_on_in_place(ftp, file, there, size)
        there = ftp.size(self.part)
        self.begun = there is not None
        if there and self.params.resume and there <= size:
            proof = is_beginning(ftp, self.part, there, file)
            if proof is not None:
                return self.part, there, proof
        if there is not None:
            self.op.log(f"the part on the server is none of this file, or nothing shows that it is: {self.part} begins anew")
            self._forget(ftp)
        return self.part, 0, None

    def _go_on_in_place(self, ftp: Session, file: BinaryIO, there: int | None, size: int) -> tuple[int, str]:
        """There is a file of the name already: it is the beginning of this one, or else it stays as it is."""
        if not self.params.resume and self.op.attempt == 1:
            raise OperationError(
                TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
                f"{self.final} is on the server already: set overwrite to replace it",
                details={"path": self.final},
            )
        proof = None if there is None or there > size else is_beginning(ftp, self.final, there, file)
        # Without resume it may still be what an earlier attempt sent, whose end was not heard of.
        if proof is None or there is None or (not self.params.resume and there != size):
            raise OperationError(
                TaskErrorCode.FTP_RESUME_FAILED,
                f"{self.final} on the server is no beginning of {self.source}: set overwrite to replace it",
                details={"path": self.final, "remote_size": there, "local_size": size},
            )
        return there, proof

    # What it sends

    def _send(self, ftp: Session, file: BinaryIO, target: str, offset: int, size: int) -> tuple[int, int]:
        """Sends the rest; returns the bytes sent, and the position that they went to."""
        if offset == size and offset:
            return 0, offset
        try:
            with ftp.asking(target, _FAILED, creates=True):
                return self._store(ftp, file, target, offset, size), offset
        except _NoResumeError as exc:
            # Its own part may begin anew, a file that is not its own may not.
            if target != self.part:
                raise OperationError(
                    TaskErrorCode.FTP_RESUME_FAILED,
                    f"the server does not go on with {target}: set overwrite to replace it",
                    details={"path": target},
                ) from exc
        self.op.log("the server does not go on with a file: it is sent from its beginning")
        self._forget(ftp)
        with ftp.asking(target, _FAILED, creates=True):
            return self._store(ftp, file, target, 0, size), 0

    def _store(self, ftp: Session, file: BinaryIO, target: str, offset: int, size: int) -> int:
        file.seek(offset)
        pace = Pace(self.op, f"sending {self.source.name}", TaskStatus.UPLOADING, offset, size, self.params.bandwidth_limit)
        failure: OSError | None = None
        opened = False
        self.begun = self.begun or target == self.part
        try:
            with ftp.transfer(f"STOR {target}", offset) as conn:
                opened = True
                while left := size - offset - pace.moved:
                    with local.naming(self.source, _FAILED):
                        block = file.read(min(pace.block, left))
                    if not block:
                        break
                    conn.sendall(block)
                    pace.add(len(block))
        except (ftplib.error_perm, ftplib.error_temp) as exc:
            if opened or not offset or not refuses_resume(exc):
                raise
            raise _NoResumeError from exc
        except OSError as exc:
            failure = exc
        if failure is not None:
            # A server that has no room, or will have no more of it, closes the data connection and says why on the other one.
            self.op.checkpoint()
            if opened:
                ftp.client.voidresp()
            raise failure
        return pace.moved

    def _verify(self, ftp: Session, file: BinaryIO, target: str, size: int) -> str | None:
        """What was compared in the end: a hash, the size, or None where the server tells neither."""
        self.op.progress(0.95, "verifying", TaskStatus.VALIDATING)
        there = ftp.size(target)
        if there is not None and there != size:
            self._forget(ftp)
            raise OperationError(
                _FAILED,
                f"{target} has {there} bytes on the server, and {self.source} has {size}",
                details={"remote_size": there, "local_size": size},
            )
        if self.params.checksum:
            found = ftp.hash(target)
            if found is None or hash_of(file, size, found[0], self.op) != found[1]:
                self._forget(ftp)
                raise OperationError(_FAILED, f"{target} on the server has another hash than {self.source}")
            return found[0]
        return None if there is None else "size"

    def _take_name(self, ftp: Session) -> None:
        if not self.params.overwrite and ftp.size(self.final):
            raise OperationError(
                TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
                f"{self.final} came to the server meanwhile: set overwrite to replace it",
            )
        with ftp.asking(self.final, _FAILED, creates=True):
            ftp.client.sendcmd(f"RNFR {self.part}")
            try:
                ftp.client.voidcmd(f"RNTO {self.final}")
            except ftplib.error_perm:
                if ftp.size(self.final) is None:
                    raise
                # Some servers replace nothing by a rename.
                ftp.client.voidcmd(f"DELE {self.final}")
                ftp.client.sendcmd(f"RNFR {self.part}")
                ftp.client.voidcmd(f"RNTO {self.final}")
        self.begun = False

    def _forget(self, ftp: Session) -> None:
        """Removes the part; a file that others have begun stays."""
        if self.begun:
            with ftp.asking(self.part, _FAILED):
                ftp.client.voidcmd(f"DELE {self.part}")
            self.begun = False
