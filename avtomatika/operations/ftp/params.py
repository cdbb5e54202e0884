"""The parameters of the family, and what its guard asks the policy."""

from __future__ import annotations

import posixpath
from typing import Literal

from pydantic import Field

from avtomatika.errors import ErrorCode
from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit

_MOST_PATH = 4096


class FtpParams(Params):
    """Where the server is, and how to speak to it.

    Attributes:
        host: of the inventory; its ``fingerprint`` pins the certificate, its ``ca_file`` names who signed it.
        port: else the host's, else 990 for implicit TLS and 21 for the rest.
        credential: a reference; else the host's, else anonymous.
        tls: ``explicit`` (AUTH TLS), ``implicit`` (TLS from the first byte), or ``none``, which the policy has to allow.
        passive_mode: the worker connects for data; without it the server does, to the worker.
        connect_timeout, timeout: seconds, for a connection and for each answer or block.
        encoding: of the names on the server.
    """

    host: str = Field(min_length=1, max_length=253)
    port: int | None = Field(None, ge=1, le=65535)
    username: str | None = Field(None, pattern=r"^[^\r\n\x00]{1,255}$")
    credential: str | None = None
    tls: Literal["explicit", "implicit", "none"] = "explicit"
    passive_mode: bool = True
    connect_timeout: float = Field(10, gt=0, le=300)
    timeout: float = Field(30, gt=0, le=3600)
    encoding: Literal["utf-8", "latin-1"] = "utf-8"

    def remote_paths(self) -> tuple[str, ...]:
        return ()

    def local_paths(self) -> tuple[str, ...]:
        return ()


class _Transfer(FtpParams):
    """
    Attributes:
        resume: go on with what is there: the part of an earlier attempt, or a file that is a beginning of the other one.
        overwrite: replace a file that is there.
        checksum: compare hashes afterwards; refused where the server offers none.
        bandwidth_limit: bytes a second.
    """

    resume: bool = True
    overwrite: bool = False
    checksum: bool = False
    bandwidth_limit: int | None = Field(None, ge=1024)


class FtpUpload(_Transfer):
    """`remote_path` is the local file's name without it, and a folder where it ends with ``/``."""

    local_path: str = Field(min_length=1, max_length=_MOST_PATH)
    remote_path: str = Field("", max_length=_MOST_PATH)

    def remote_paths(self) -> tuple[str, ...]:
        name = posixpath.basename(self.local_path)
        return (posixpath.join(self.remote_path, name) if self.remote_path.endswith("/") else self.remote_path or name,)

    def local_paths(self) -> tuple[str, ...]:
        return (self.local_path,)


class FtpDownload(_Transfer):
    """`local_path` is the remote file's name without it, and a folder where it ends with ``/``."""

    remote_path: str = Field(min_length=1, max_length=_MOST_PATH)
    local_path: str = Field("", max_length=_MOST_PATH)
    preserve: bool = True

    def remote_paths(self) -> tuple[str, ...]:
        return (self.remote_path,)

    def local_paths(self) -> tuple[str, ...]:
        name = posixpath.basename(self.remote_path)
        return (posixpath.join(self.local_path, name) if self.local_path.endswith("/") else self.local_path or name,)


class _One(FtpParams):
    remote_path: str = Field(min_length=1, max_length=_MOST_PATH)

    def remote_paths(self) -> tuple[str, ...]:
        return (self.remote_path,)


class FtpList(_One):
    """`pattern` is a glob of names; `limit` bounds the entries, over all folders."""

    remote_path: str = Field(".", min_length=1, max_length=_MOST_PATH)
    recursive: bool = False
    depth: int = Field(10, ge=1, le=100)
    pattern: str | None = Field(None, max_length=255)
    limit: int = Field(1000, ge=1, le=20_000)


class FtpInfo(_One):
    pass


class FtpDelete(_One):
    """`directory`: it is a folder, and empty. `missing_ok`: no failure where it is gone already."""

    directory: bool = False
    missing_ok: bool = False


class FtpMkdir(_One):
    """`parents`: those above it, too. `exist_ok`: no failure where it is there already."""

    parents: bool = False
    exist_ok: bool = False


class FtpRename(FtpParams):
    old_path: str = Field(min_length=1, max_length=_MOST_PATH)
    new_path: str = Field(min_length=1, max_length=_MOST_PATH)
    overwrite: bool = False

    def remote_paths(self) -> tuple[str, ...]:
        return (self.old_path, self.new_path)


def guard(params: FtpParams, permit: Permit) -> None:
    """Host, credential, paths on both sides, and whether the connection may go without TLS."""
    host = permit.host(params.host)
    permit.credential(params.credential, host)
    if params.tls == "none" and permit.option("plain_ftp") is not True:
        raise permit.refusal("FTP without TLS", f"set plain_ftp = true in [policy.{permit.entry.name}.options]")
    for path in (*params.remote_paths(), *params.local_paths()):
        if any(char in path for char in "\r\n\0"):
            raise OperationError(
                TaskErrorCode.FTP_INVALID_PATH,
                f"{path!r} holds a line's end or a NUL character: FTP cannot name it",
                kind=ErrorCode.INVALID_INPUT,
            )
    for path in params.remote_paths():
        permit.remote_path(path)
    for path in params.local_paths():
        permit.local_path(path)
