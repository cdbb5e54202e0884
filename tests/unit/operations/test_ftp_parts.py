"""FTP without a server: what replies mean, what lines say, what is asked for, what is allowed."""

from __future__ import annotations

import errno
import ftplib
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, PolicyError
from avtomatika.operations.ftp.client import pin
from avtomatika.operations.ftp.family import family, judge, shown
from avtomatika.operations.ftp.listing import is_name, parse_facts
from avtomatika.operations.ftp.local import naming, take_name
from tests.support.operation_calls import make_call

CONFIG = """
[credentials.mine]
username = "ada"
[credentials.other]
username = "eve"
[hosts.files]
address = "192.0.2.1"
credential = "mine"
[hosts.secret]
address = "192.0.2.2"
[policy.default]
operations = ["ftp_*"]
hosts = ["files"]
local_roots = ["/srv/data"]
remote_roots = ["/pub"]
[policy.reader]
operations = ["ftp_list"]
hosts = ["files"]
remote_roots = ["/"]
"""


@pytest.mark.parametrize(
    ("exc", "code", "kind"),
    [
        (ftplib.error_perm("530 Login incorrect."), TaskErrorCode.FTP_AUTHENTICATION_FAILED, "PERMANENT_ERROR"),
        (ftplib.error_perm("532 Need account."), TaskErrorCode.FTP_AUTHENTICATION_FAILED, "PERMANENT_ERROR"),
        (ftplib.error_temp("421 Too many."), TaskErrorCode.FTP_CONNECTION_FAILED, "TRANSIENT_ERROR"),
        (ftplib.error_perm("552 Quota."), TaskErrorCode.SYSTEM_DISK_SPACE, "PERMANENT_ERROR"),
        (ftplib.error_temp("452 Full."), TaskErrorCode.SYSTEM_DISK_SPACE, "PERMANENT_ERROR"),
        (ftplib.error_perm("501 What?"), TaskErrorCode.FTP_INVALID_PATH, "PERMANENT_ERROR"),
        (ftplib.error_temp("450 permission denied"), TaskErrorCode.EXTERNAL_SERVICE_ERROR, "TRANSIENT_ERROR"),
        (ftplib.error_perm("504 530"), TaskErrorCode.EXTERNAL_SERVICE_ERROR, "PERMANENT_ERROR"),
        (ftplib.error_proto("SSH-2.0-OpenSSH"), TaskErrorCode.FTP_CONNECTION_FAILED, "TRANSIENT_ERROR"),
        (ftplib.Error("got more than 8192 bytes"), TaskErrorCode.FTP_CONNECTION_FAILED, "TRANSIENT_ERROR"),
        (EOFError(), TaskErrorCode.FTP_CONNECTION_FAILED, "TRANSIENT_ERROR"),
        (TimeoutError(), TaskErrorCode.FTP_CONNECTION_FAILED, "TRANSIENT_ERROR"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), TaskErrorCode.FTP_CONNECTION_FAILED, "TRANSIENT_ERROR"),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), TaskErrorCode.FTP_CONNECTION_FAILED, "TRANSIENT_ERROR"),
        (ssl.SSLEOFError(8, "EOF"), TaskErrorCode.FTP_CONNECTION_FAILED, "TRANSIENT_ERROR"),
    ],
)  # fmt: skip
def test_what_a_failure_means(exc: Exception, code: TaskErrorCode, kind: str) -> None:
    known = judge(exc)
    assert known is not None
    assert (known.code, known.kind) == (code, kind)


def test_what_is_unknown_stays_unknown() -> None:
    assert judge(KeyError("x")) is None


def test_a_servers_text_is_shown_without_control_characters() -> None:
    assert shown("530 \x1b[31mred\x07\r\nnext") == "530  [31mred   next"
    assert len(shown("x" * 10_000)) == 300


# Paths and permissions

_ONE = {"remote_path": "/pub/x"}
_PARAMS: dict[str, dict[str, Any]] = {
    "ftp_upload": {"local_path": "/srv/data/x", **_ONE},
    "ftp_download": {"local_path": "/srv/data/x", **_ONE},
    "ftp_list": _ONE,
    "ftp_info": _ONE,
    "ftp_delete": _ONE,
    "ftp_mkdir": _ONE,
    "ftp_rename": {"old_path": "/pub/x", "new_path": "/pub/y"},
}


def test_every_operation_is_looked_at() -> None:
    assert set(_PARAMS) == set(family.operations)


@pytest.mark.parametrize("name", _PARAMS)
def test_what_the_guard_lets_through_and_what_not(name: str) -> None:
    good = {"host": "files", **_PARAMS[name]}
    make_call(name, good, CONFIG)
    for field in _PARAMS[name]:
        root = "/srv/data" if field == "local_path" else "/pub"
        for end in ("\r\nDELE /pub/y", "\n", "\r", "\0"):
            with pytest.raises(OperationError) as refused:
                make_call(name, {**good, field: f"{root}/x{end}"}, CONFIG)
            assert refused.value.code == TaskErrorCode.FTP_INVALID_PATH
            assert refused.value.kind == "INVALID_INPUT_ERROR"
        for path in (f"{root}/../etc/passwd", "/etc/passwd", f"{root}x/y"):
            with pytest.raises(PolicyError):
                make_call(name, {**good, field: path}, CONFIG)
        required = field != "local_path" or name == "ftp_upload"
        if required and name not in ("ftp_list", "ftp_upload"):
            with pytest.raises(OperationError) as refused:
                make_call(name, {key: value for key, value in good.items() if key != field}, CONFIG)
            assert refused.value.code == TaskErrorCode.VALIDATION_MISSING_REQUIRED
    bad: list[tuple[dict[str, Any], TaskErrorCode]] = [
        ({"host": "secret"}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"host": "127.0.0.1"}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"tls": "none"}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"tls": "maybe"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"credential": "other"}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"password": "x"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"port": 0}, TaskErrorCode.VALIDATION_OUT_OF_RANGE),
        ({"timeout": 0}, TaskErrorCode.VALIDATION_OUT_OF_RANGE),
        ({"username": "a\r\nb"}, TaskErrorCode.VALIDATION_INVALID_FORMAT),
    ]
    for more, code in bad:
        with pytest.raises(OperationError) as refused:
            make_call(name, {**good, **more}, CONFIG)
        assert (more, refused.value.code) == (more, code)
    if name != "ftp_list":
        with pytest.raises(PolicyError):
            make_call(name, good, CONFIG, role="reader")


@pytest.mark.parametrize(
    ("params", "remote"),
    [
        ({"local_path": "a/b.txt"}, "b.txt"),
        ({"local_path": "a/b.txt", "remote_path": "/pub/"}, "/pub/b.txt"),
        ({"local_path": "a/b.txt", "remote_path": "/pub/c"}, "/pub/c"),
    ],
)
def test_names_that_are_left_out(params: dict[str, Any], remote: str) -> None:
    made = make_call("ftp_upload", {"host": "files", **params}, CONFIG)
    assert made.params.remote_paths() == (remote,)  # type: ignore[attr-defined]


def test_a_part_has_one_name_for_all_attempts_at_the_same_work() -> None:
    params = {"host": "files", **_PARAMS["ftp_upload"]}
    keys = [
        make_call("ftp_upload", params, CONFIG, attempt=attempt, job=job).op.key
        for attempt, job in ((1, "a"), (2, "a"), (1, "b"))
    ]
    assert keys[0] == keys[1] != keys[2]


# Lines, fingerprints, files


def test_lines_of_mlsd() -> None:
    entry = parse_facts("Type=file;Size=12;Modify=20260229101112.5;Perm=r;UNIX.mode=0644; with  space; and=more")
    assert entry is not None
    assert (entry.name, entry.type, entry.size) == ("with  space; and=more", "file", 12)
    assert entry.timestamp is None  # that year has no such day
    said = entry.to_dict("/x")
    assert (said["mode"], said["permissions"], said["modified"]) == ("0644", "r", None)
    types = {"dir": "dir", "cdir": "self", "pdir": "parent", "OS.unix=slink:/etc": "link", "OS.unix=chr": "other", "": "other"}
    for said_type, type_ in types.items():
        entry = parse_facts(f"type={said_type};size=x; a")
        assert entry is not None
        assert (entry.type, entry.size) == (type_, None)
    assert parse_facts("-rw-r--r-- 1 a b 12 Jan 1 10:00 x") is None
    assert parse_facts("") is None


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b"])
def test_what_is_no_name_of_an_entry(name: str) -> None:
    assert not is_name(name)


def test_fingerprints() -> None:
    raw = bytes(range(32))
    for text in (raw.hex(), ":".join(f"{byte:02X}" for byte in raw), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"):
        assert pin(f"SHA256:{text}") == raw
    for text in ("SHA256:abc", "MD5:00", "", "SHA256:" + "zz" * 32):
        with pytest.raises(OperationError, match="SHA-256"):
            pin(text)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, TaskErrorCode.FTP_FILE_NOT_FOUND),
        (errno.EACCES, TaskErrorCode.SYSTEM_PERMISSION_DENIED),
        (errno.EROFS, TaskErrorCode.SYSTEM_PERMISSION_DENIED),
        (errno.ELOOP, TaskErrorCode.SYSTEM_PERMISSION_DENIED),
        (errno.ENOSPC, TaskErrorCode.SYSTEM_DISK_SPACE),
        (errno.EDQUOT, TaskErrorCode.SYSTEM_DISK_SPACE),
        (errno.EFBIG, TaskErrorCode.SYSTEM_DISK_SPACE),
        (errno.ENAMETOOLONG, TaskErrorCode.FTP_INVALID_PATH),
        (errno.EIO, TaskErrorCode.FTP_DOWNLOAD_FAILED),
    ],
)
def test_what_a_file_of_the_worker_says(number: int, code: TaskErrorCode, tmp_path: Path) -> None:
    with pytest.raises(OperationError) as failed, naming(tmp_path, TaskErrorCode.FTP_DOWNLOAD_FAILED):
        raise OSError(number, "something")
    assert failed.value.code == code


def test_a_name_is_taken_at_once_or_not_at_all(tmp_path: Path) -> None:
    part, final = tmp_path / "part", tmp_path / "final"
    part.write_text("new")
    final.write_text("old")
    with pytest.raises(FileExistsError):
        take_name(part, final, replace=False)
    assert (part.read_text(), final.read_text()) == ("new", "old")
    take_name(part, final, replace=True)
    assert final.read_text() == "new"
    part.write_text("more")
    final.unlink()
    take_name(part, final, replace=False)
    assert final.read_text() == "more"
    assert not part.exists()
