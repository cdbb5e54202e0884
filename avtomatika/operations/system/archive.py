"""Archives: written in one pass, and read back in another; both passes give a digest of what is in them."""

from __future__ import annotations

import grp
import gzip
import hashlib
import os
import pwd
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from time import gmtime
from typing import IO, Any, BinaryIO, Protocol, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 1 << 20
BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zstd.ZstdError, zlib.error, EOFError)


class Reader(Protocol):
    """What a file's content is taken from."""

    def read(self, count: int = -1, /) -> bytes: ...


class Digest:
    """Over everything in an archive, in its order: two are equal where names, kinds and contents are."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.entries = 0

    def add(self, kind: str, name: str, content: bytes = b"") -> None:
        for part in (kind.encode(), name.encode("utf-8", "surrogateescape"), content):
            self._hash.update(len(part).to_bytes(8, "big") + part)
        self.entries += 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and self._hash.digest() == other._hash.digest()

    __hash__ = None  # type: ignore[assignment]


class Archive(Protocol):
    """An archive that is being written. `name` has no ``/`` at either end."""

    def folder(self, name: str, state: os.stat_result) -> None: ...

    def link(self, name: str, state: os.stat_result, leads_to: str) -> None: ...

    def file(self, name: str, state: os.stat_result, content: Reader) -> None:
        """`content` gives exactly `state.st_size` bytes."""


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def folder(self, name: str, state: os.stat_result) -> None:
        self._tar.addfile(_member(name, state, tarfile.DIRTYPE))

    def link(self, name: str, state: os.stat_result, leads_to: str) -> None:
        member = _member(name, state, tarfile.SYMTYPE)
        member.linkname = leads_to
        self._tar.addfile(member)

    def file(self, name: str, state: os.stat_result, content: Reader) -> None:
        member = _member(name, state, tarfile.REGTYPE)
        member.size = state.st_size
        self._tar.addfile(member, cast("IO[bytes]", content))
        _forget(self._tar)


def _forget(tar: Any) -> None:
    """Lets go of what the module remembers of members: millions of names would fill the memory."""
    tar.members = []


def _member(name: str, state: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = stat.S_IMODE(state.st_mode)
    member.uid, member.gid, member.mtime = state.st_uid, state.st_gid, int(state.st_mtime)
    member.uname, member.gname = _user(state.st_uid), _group(state.st_gid)
    return member


@lru_cache(maxsize=256)
def _user(number: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return ""


@lru_cache(maxsize=256)
def _group(number: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return ""


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, level: int | None) -> None:
        self._zip = archive
        self._level = level

    def folder(self, name: str, state: os.stat_result) -> None:
        self._zip.writestr(self._info(f"{name}/", state, packed=False), b"")

    def link(self, name: str, state: os.stat_result, leads_to: str) -> None:
        self._zip.writestr(self._info(name, state, packed=False), os.fsencode(leads_to))

    def file(self, name: str, state: os.stat_result, content: Reader) -> None:
        info = self._info(name, state)
        info.file_size = state.st_size
        with self._zip.open(info, "w", force_zip64=state.st_size >= zipfile.ZIP64_LIMIT // 2) as member:
            while block := content.read(BLOCK):
                member.write(block)

    def _info(self, name: str, state: os.stat_result, packed: bool = True) -> zipfile.ZipInfo:
        when = gmtime(max(state.st_mtime, 315532800))[:6]  # a zip's time begins with 1980
        info = zipfile.ZipInfo(_text(name), when)
        info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        info._compresslevel = self._level  # type: ignore[attr-defined]
        info.create_system = 3  # Unix: then the mode counts, and with it what is a link
        info.external_attr = state.st_mode << 16 | (0x10 if stat.S_ISDIR(state.st_mode) else 0)
        return info


def _text(name: str) -> str:
    """A zip's names are UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def create(file: BinaryIO, format_: str, level: int | None, comment: str) -> Iterator[Archive]:
    """An archive that is whole when the block has ended well; `file` stays open."""
    if format_ == "zip":
        archive = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=level)
        archive.comment = comment.encode()
        with _closing(archive):
            yield _Zip(archive, level)
        return
    packed: Any = _zstd(file, level) if format_ == "tar.zst" else gzip.GzipFile("", "wb", level or 6, file)
    with _closing(packed):
        options: Any = {"format": tarfile.PAX_FORMAT, "pax_headers": {"comment": comment}, "copybufsize": BLOCK}
        tar = tarfile.open(mode="w|", fileobj=packed, bufsize=BLOCK, **options)  # noqa: SIM115 - see _closing
        with _closing(tar):
            yield _Tar(tar)


def _zstd(file: BinaryIO, level: int | None) -> Any:
    """With a checksum, as gzip has one."""
    of = zstd.CompressionParameter
    options: dict[int, int] = {of.checksum_flag: 1, of.compression_level: level or 3}
    return zstd.ZstdFile(file, "w", options=options)


@contextmanager
def _closing(thing: Any) -> Iterator[None]:
    """Closes it; after a failure, without a failure of its own."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            thing.close()
        raise
    thing.close()


@contextmanager
def _open_tar(file: BinaryIO, format_: str) -> Iterator[tarfile.TarFile]:
    packed: Any = zstd.ZstdFile(file, "r") if format_ == "tar.zst" else gzip.GzipFile("", "rb", fileobj=file)
    with packed, tarfile.open(mode="r|", fileobj=packed, bufsize=BLOCK) as tar:
        yield tar


def read_back(file: BinaryIO, format_: str) -> Iterator[tuple[str, str, Reader | bytes]]:
    """(kind, name, content) of all that is in an archive; one of `BROKEN` where it is not whole."""
    file.seek(0)
    if format_ == "zip":
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                with archive.open(info) as content:
                    if info.is_dir():
                        yield "folder", info.filename.rstrip("/"), b""
                    elif stat.S_ISLNK(info.external_attr >> 16):
                        yield "link", info.filename, content.read()
                    else:
                        yield "file", info.filename, content
        return
    with _open_tar(file, format_) as tar:
        for member in tar:
            _forget(tar)
            if member.isdir():
                yield "folder", member.name, b""
            elif member.issym():
                yield "link", member.name, os.fsencode(member.linkname)
            else:
                yield "file", member.name, tar.extractfile(member) or b""


def stored_name(name: str, format_: str) -> str:
    """What a name is in an archive of this format."""
    return _text(name) if format_ == "zip" else name


def made_by(path: Path, format_: str) -> str:
    """The comment that an archive was made with; empty for what is none."""
    with suppress(OSError, *BROKEN):
        if format_ == "zip":
            with zipfile.ZipFile(path) as archive:
                return archive.comment.decode(errors="replace")
        with path.open("rb") as file, _open_tar(file, format_) as tar:
            tar.next()
            return tar.pax_headers.get("comment", "")
    return ""
