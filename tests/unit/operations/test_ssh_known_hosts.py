"""Which host keys are trusted."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import HostEntry
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.failures import HostKeyMismatch
from avtomatika.operations.ssh.hostkeys import fingerprint, parse_known_hosts, trusted_keys

paramiko = pytest.importorskip("paramiko")


def a_key(number: int = 1, type_: str = "ssh-ed25519") -> str:
    body = len(type_).to_bytes(4, "big") + type_.encode() + bytes([0, 0, 0, 32]) + bytes([number]) * 32
    return f"{type_} {base64.b64encode(body).decode()}"


def blob(line: str) -> bytes:
    return base64.b64decode(line.split()[1])


class Shown:
    """The key that a host shows."""

    def __init__(self, line: str) -> None:
        self._line = line

    def asbytes(self) -> bytes:
        return blob(self._line)

    def get_name(self) -> str:
        return self._line.split()[0]


def entry(tmp_path: Path, text: str, **more: object) -> HostEntry:
    path = tmp_path / "known_hosts"
    path.write_text(text)
    return HostEntry(name="box", address="box.example.com", known_hosts=path, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "port", "known"),
    [
        ("box.example.com", 22, True),
        ("BOX.example.COM", 22, True),
        ("other,box.example.com", 22, True),
        ("box.example.com", 2222, False),
        ("[box.example.com]:2222", 2222, True),
        ("[box.example.com]:2222", 22, False),
        ("*.example.com", 22, True),
        ("bo?.example.com", 22, True),
        ("[*.example.com]:2222", 2222, True),
        ("*.example.com,!box.example.com", 22, False),
        ("!box.example.com,*.example.com", 22, False),
        ("b[o]x.example.com", 22, False),
        ("example.com", 22, False),
    ],
)
def test_names_match_as_openssh_matches_them(tmp_path: Path, names: str, port: int, known: bool) -> None:
    host = entry(tmp_path, f"# a comment\n\n{names} {a_key()} somebody@somewhere\n")
    if known:
        assert trusted_keys(host, host.address, port).blobs == {blob(a_key())}
    else:
        with pytest.raises(HostKeyMismatch, match=r"no host key of box .* is known"):
            trusted_keys(host, host.address, port)


def test_names_that_ssh_keygen_has_hashed_are_found(tmp_path: Path) -> None:
    host = entry(tmp_path, f"box.example.com {a_key(1)}\n[box.example.com]:2222 {a_key(2)}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(host.known_hosts)], check=True, capture_output=True)
    assert "box" not in (host.known_hosts or Path()).read_text()

    assert trusted_keys(host, "box.example.com", 22).blobs == {blob(a_key(1))}
    assert trusted_keys(host, "box.example.com", 2222).blobs == {blob(a_key(2))}


def test_a_revoked_key_is_refused_wherever_else_it_is_named(tmp_path: Path) -> None:
    text = f"@revoked * {a_key(1)}\nbox.example.com {a_key(1)}\nbox.example.com {a_key(2)}\n"
    keys = trusted_keys(entry(tmp_path, text, host_keys=(a_key(1),)), "box.example.com", 22)

    assert keys.verify("box", Shown(a_key(2))) == fingerprint(blob(a_key(2)))  # type: ignore[arg-type]
    with pytest.raises(HostKeyMismatch, match="is revoked"):
        keys.verify("box", Shown(a_key(1)))  # type: ignore[arg-type]


def test_another_key_is_refused_with_both_fingerprints() -> None:
    keys = trusted_keys(HostEntry(name="box", host_keys=(a_key(1),)), "10.0.0.1", 22)
    with pytest.raises(HostKeyMismatch) as raised:
        keys.verify("box", Shown(a_key(2)))  # type: ignore[arg-type]
    assert raised.value.details["shown"] == fingerprint(blob(a_key(2)))
    assert raised.value.details["expected"] == [fingerprint(blob(a_key(1)))]


def test_a_fingerprint_is_enough() -> None:
    print_ = fingerprint(blob(a_key(1)))
    keys = trusted_keys(HostEntry(name="box", fingerprint=print_), "10.0.0.1", 22)
    assert keys.verify("box", Shown(a_key(1))) == print_  # type: ignore[arg-type]
    assert len(keys.algorithms) == 6
    keys = trusted_keys(HostEntry(name="box", fingerprint=f"ssh-rsa {print_}"), "10.0.0.1", 22)
    assert keys.algorithms == ("rsa-sha2-512", "rsa-sha2-256")


def test_only_types_are_negotiated_of_which_a_key_is_known() -> None:
    lines = (a_key(1, "ssh-rsa"), a_key(1, "ecdsa-sha2-nistp256"))
    keys = trusted_keys(HostEntry(name="box", host_keys=lines), "10.0.0.1", 22)
    assert keys.algorithms == ("ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("@cert-authority box.example.com {key}", "line 2: host certificates"),
        ("@trusted box.example.com {key}", "line 2: the marker @trusted is unknown"),
        ("box.example.com ssh-ed25519", "line 2: a line is"),
        ("box.example.com ssh-ed25519 AAAA", "line 2: this is no public key"),
        ("box.example.com ssh-rsa {bare}", "line 2: this is no public key"),
        ("box.example.com ssh-ed25519 !!!!", "line 2: this is no public key"),
    ],
)
def test_a_line_that_is_not_understood_is_named(tmp_path: Path, line: str, why: str) -> None:
    text = f"box.example.com {a_key(1)}\n{line.format(key=a_key(2), bare=a_key(2).split()[1])}\n"
    with pytest.raises(OperationError, match=why) as raised:
        trusted_keys(entry(tmp_path, text), "box.example.com", 22)
    assert raised.value.code is TaskErrorCode.CONFIGURATION_ERROR


def test_an_authority_of_other_hosts_does_no_harm(tmp_path: Path) -> None:
    host = entry(tmp_path, f"@cert-authority *.example.org {a_key(2)}\nbox.example.com {a_key(1)}\n")
    assert trusted_keys(host, "box.example.com", 22).blobs == {blob(a_key(1))}


def test_a_missing_file_is_no_host_key_that_has_changed() -> None:
    with pytest.raises(OperationError) as raised:
        trusted_keys(HostEntry(name="box", known_hosts=Path("/nowhere/known_hosts")), "10.0.0.1", 22)
    assert raised.value.code is TaskErrorCode.CONFIGURATION_ERROR


def test_a_damaged_hash_matches_nothing() -> None:
    (line,) = parse_known_hosts(f"|1|***|### {a_key()}")
    assert not line.matches("box.example.com")
