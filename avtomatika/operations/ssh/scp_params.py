"""What transfers take."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, ByteSize, Field, StringConstraints, model_validator

from avtomatika.operations.ssh.copier import Overwrite
from avtomatika.operations.ssh.params import ConnectionParams, HostName, SshParams
from avtomatika.operations.ssh.transfer import How
from avtomatika.operations.ssh.tree import Filter, Limits, Symlinks

FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Patterns = Annotated[tuple[Pattern, ...], Field(max_length=1000)]


def _overwrite(value: object) -> object:
    return {True: "always", False: "never"}.get(value, value) if isinstance(value, bool) else value


class TransferParams(ConnectionParams):
    """How files are copied.

    Attributes:
        preserve: permissions (without setuid, setgid, sticky and write for others) and time of change.
        mode: permissions of the files in octal, instead of the source's.
        resume: goes on with what an attempt before has left, where a hash proves it.
        checksum: compares SHA-256 of both sides in the end.
        bandwidth_limit: bytes a second, or such as "10MiB".
        idle_timeout: seconds that a host may be silent.
        remote_tools: programs of the host's shell (sha256sum, tar) may be used, where it has them.
    """

    preserve: bool = Field(True, validation_alias=AliasChoices("preserve", "preserve_attributes"))
    mode: str | None = Field(None, pattern=r"^0?[0-7]{3}$")
    resume: bool = True
    checksum: bool = False
    bandwidth_limit: ByteSize | None = Field(None, ge=1024)
    idle_timeout: float = Field(60, gt=0, le=3600)
    remote_tools: bool = True

    @property
    def how(self) -> How:
        mode = int(self.mode, 8) if self.mode is not None else None
        return How(preserve=self.preserve, resume=self.resume, checksum=self.checksum, mode=mode)


class TreeParams(TransferParams):
    """How trees are copied.

    Attributes:
        symlinks: skip, copy or follow; never outside the tree.
        include: files only that fit one of these patterns.
        exclude: nothing that fits one of these.
        max_files, max_bytes, max_depth: a larger tree is refused.
        channels: SFTP channels at a time.
    """

    symlinks: Symlinks = Symlinks.SKIP
    include: Patterns = ()
    exclude: Patterns = ()
    max_files: int = Field(100_000, ge=1, le=1_000_000)
    max_bytes: ByteSize = Field(ByteSize(1 << 40), ge=1)
    max_depth: int = Field(64, ge=1, le=200)
    channels: int = Field(4, ge=1, le=8)

    @property
    def filter(self) -> Filter:
        return Filter(self.include, self.exclude)

    @property
    def limits(self) -> Limits:
        return Limits(self.max_files, int(self.max_bytes), self.max_depth)


class CopyParams(TreeParams):
    """
    Attributes:
        recursive: a directory with all that is in it.
        overwrite: always, never, newer, different or fail; true and false are always and never.
    """

    recursive: bool = False
    overwrite: Annotated[Overwrite, BeforeValidator(_overwrite)] = Overwrite.ALWAYS


class ScpParams(CopyParams, SshParams):
    """
    Attributes:
        source_path: a file or a directory.
        destination_path: what it is called there; with a ``/`` at its end the directory that it is put into. What is above it is
            made.
    """

    source_path: FilePath
    destination_path: FilePath

    @staticmethod
    def _renamed(values: Any, source: str, destination: str) -> Any:
        if not isinstance(values, dict):
            return values
        names = {source: "source_path", destination: "destination_path"}
        return {key if names.get(key) in values else names.get(key, key): value for key, value in values.items()}


class ScpUpload(ScpParams):
    """Copies a file or a directory of this worker to a host. ``local_path`` and ``remote_path`` are other names of the paths."""

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, values: Any) -> Any:
        return cls._renamed(values, "local_path", "remote_path")


class ScpDownload(ScpParams):
    """Copies a file or a directory of a host to this worker. ``remote_path`` and ``local_path`` are other names of the paths."""

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, values: Any) -> Any:
        return cls._renamed(values, "remote_path", "local_path")


class HostPath(SshParams):
    """A path on a host, and how to get there."""

    path: FilePath


class SshCopy(CopyParams):
    """Copies a file or a directory from one host to another, through this worker; nothing of it is written here.

    The options of a connection are given for each side, in `source` and in `destination`.
    """

    source: HostPath
    destination: HostPath


__all__ = [
    "CopyParams",
    "HostName",
    "HostPath",
    "ScpDownload",
    "ScpParams",
    "ScpUpload",
    "SshCopy",
    "TransferParams",
    "TreeParams",
]
