"""OpenSSH client configurations that the inventory names."""

from __future__ import annotations

from pathlib import Path

import pytest

from avtomatika.operations.config import HostEntry
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.sshconfig import completed

pytest.importorskip("fabric")

TEXT = """
Host box
  HostName box.example.com
  Port 2222
  User deploy
  ProxyJump first,admin@second:22
Host *.example.org
  User web
Host direct
  ProxyJump none
"""


def entry(tmp_path: Path, name: str, text: str = TEXT, **more: object) -> HostEntry:
    path = tmp_path / "ssh_config"
    path.write_text(text)
    return HostEntry(name=name, ssh_config=path, **more)  # type: ignore[arg-type]


def test_what_the_inventory_leaves_out_is_taken_from_the_file(tmp_path: Path) -> None:
    found, jumps = completed(entry(tmp_path, "box"))
    assert (found.address, found.port, found.username) == ("box.example.com", 2222, "deploy")
    assert jumps == ("second", "first")  # the nearest first


def test_what_the_inventory_says_stays(tmp_path: Path) -> None:
    found, jumps = completed(entry(tmp_path, "web", address="a.example.org", port=22, username="root", jump="bastion"))
    assert (found.address, found.port, found.username, found.jump, jumps) == ("a.example.org", 22, "root", "bastion", ())
    assert completed(entry(tmp_path, "direct"))[1] == ()
    assert completed(HostEntry(name="box")) == (HostEntry(name="box"), ())


@pytest.mark.parametrize(
    "line",
    [
        "ProxyCommand nc %h %p",
        "  proxycommand=nc",
        "Match exec true",
        "match host a exec true",
        "Include other",
        "LocalCommand x",
    ],
)
def test_what_would_run_a_program_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(OperationError, match=f"line {TEXT.count(chr(10)) + 1}: "):
        completed(entry(tmp_path, "box", TEXT + line + "\n"))


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    assert completed(entry(tmp_path, "box"))[0].port == 2222
    assert completed(entry(tmp_path, "box", TEXT.replace("2222", "22222")))[0].port == 22222


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match="nowhere"):
        completed(HostEntry(name="box", ssh_config=tmp_path / "nowhere"))
