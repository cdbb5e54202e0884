"""What a permit allows of what a task names: commands, paths, credentials, options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avtomatika.jobs import Client
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import CredentialEntry, HostEntry, OperationsConfig, PolicyEntry
from avtomatika.operations.errors import OperationError, PolicyError
from avtomatika.operations.policy import Permit

COMMANDS = ("nvidia-smi *", "systemctl status *", "uptime", "cat /var/log/*.log", "echo 'two words'", "ls -l ?")


def permit(**entry: Any) -> Permit:
    config = OperationsConfig(credentials={name: CredentialEntry(name=name) for name in ("deploy", "web-1", "root")})
    return Permit(Client("acme", role="operators"), config, PolicyEntry(name="operators", **entry))


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("uptime", ["uptime"]),
        (["uptime"], ["uptime"]),
        ("nvidia-smi", ["nvidia-smi"]),
        ("nvidia-smi -q -d MEMORY", ["nvidia-smi", "-q", "-d", "MEMORY"]),
        (("systemctl", "status", "a b; rm -rf /"), ["systemctl", "status", "a b; rm -rf /"]),  # one word, which nobody splits
        ("cat /var/log/syslog.log", ["cat", "/var/log/syslog.log"]),
        ('echo "two words"', ["echo", "two words"]),
        ("ls   -l x", ["ls", "-l", "x"]),
    ],
)
def test_commands_that_patterns_allow(command: Any, argv: list[str]) -> None:
    assert permit(commands=COMMANDS).command(command) == argv


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf /",
        "uptime -p",  # its pattern has no *
        ["uptime", ""],
        ["Uptime"],
        ["systemctl", "stop", "nginx"],
        ["systemctl"],
        "cat /var/log/../../etc/shadow.log",
        ["cat", "/var/log/../../etc/x.log"],
        "echo two words",
        "ls -l xy",
        *(
            f"nvidia-smi {end}"
            for end in ("; id", "| id", "& id", "&& id", "$HOME", "$(id)", "`id`", "> x", "< x", "(id)", "\nid", "\rid")
        ),
        *(
            f"nvidia-smi {end}"
            for end in ("*", "?", "[ab]", "{a,b}", "~", "!x", "# x", "a\\ b", "'a", '"$x"', "\x1b[2J", "'a;b'")
        ),
        "FOO=bar nvidia-smi",
        ["nvidia-smi", "a\nb"],
        ["nvidia-smi", "\x1b[31m"],
    ],
)
def test_commands_that_no_pattern_allows(command: Any) -> None:
    with pytest.raises(PolicyError, match=r"\[policy.operators\]"):
        permit(commands=COMMANDS).command(command)
    assert permit(commands=COMMANDS, free_text=True).command(command) is None


@pytest.mark.parametrize("command", ["", "  ", [], [""], "id\0", ["id", "\0"], ["id", "a\0b"]])
def test_no_permission_allows_nothing_or_nul(command: Any) -> None:
    with pytest.raises(PolicyError, match="NUL"):
        permit(commands=("*", "id *"), free_text=True).command(command)


def test_a_pattern_of_one_star_allows_any_program_alone() -> None:
    assert permit(commands=("*",)).command("id") == ["id"]
    with pytest.raises(PolicyError):
        permit(commands=("*",)).command("id -u")
    assert permit(commands=("* *",)).command("id -u") == ["id", "-u"]


def test_local_paths_stay_beneath_their_roots(tmp_path: Path) -> None:
    root, other, secret = (tmp_path / name for name in ("root", "other", "secret"))
    for folder in (root, other, secret):
        folder.mkdir()
    (root / "link").symlink_to(secret)
    (root / "inside").symlink_to(other)
    found = permit(local_roots=(root, other))

    assert found.local_path("a/b.txt") == root / "a/b.txt"
    assert found.local_path(other / "x") == other / "x"
    assert found.local_path(root) == root
    assert found.local_path(root / "inside" / "x") == other / "x"  # from one root to the other
    for path in (
        "../secret/x",
        root / ".." / "secret",
        root / "link" / "x",
        "link",
        secret,
        "/etc/passwd",
        "",
        "a\0b",
    ):
        with pytest.raises(PolicyError, match="local path"):
            found.local_path(path)
    with pytest.raises(PolicyError, match="local path"):
        permit(local_roots=(tmp_path / "roo",)).local_path(root / "x")
    with pytest.raises(PolicyError, match="local_roots"):
        permit().local_path("x")


def test_local_paths_do_not_lead_to_the_configuration(tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    key.touch()
    (tmp_path / "link").symlink_to(key)
    config = OperationsConfig(credentials={"deploy": CredentialEntry(name="deploy", key_file=key)})
    found = Permit(Client(), config, PolicyEntry(name="default", local_roots=(tmp_path,)))
    for path in (key, tmp_path / "link"):
        with pytest.raises(PolicyError, match="configuration"):
            found.local_path(path)


def test_remote_paths_stay_beneath_their_roots() -> None:
    found = permit(remote_roots=("/srv/data/", "/tmp/avtomatika"))
    assert found.remote_path("/srv/data") == "/srv/data"
    assert found.remote_path("//srv//data/./a/../b") == "/srv/data/b"
    assert found.remote_path("a/b") == "/srv/data/a/b"
    assert found.remote_path("/srv/data/..x/a\nb") == "/srv/data/..x/a\nb"
    for path in ("/srv/database", "/srv/data/../x", "../x", "/", "/srv", "", "~/x", "~root", "/srv/data/a\0b", "/etc/passwd"):
        with pytest.raises(PolicyError, match="remote path"):
            found.remote_path(path)
    assert permit(remote_roots=("/",)).remote_path("/etc/../x") == "/x"
    for path in ("/", "x"):
        with pytest.raises(PolicyError, match="remote_roots"):
            permit().remote_path(path)


def test_a_task_may_name_its_hosts_credential_and_those_of_the_list() -> None:
    host = HostEntry(name="box", credential="deploy")
    assert permit().credential(None) is None
    assert permit().credential("deploy", host) is not None
    for name, place in (("root", host), ("deploy", None)):
        with pytest.raises(PolicyError, match="credentials"):
            permit().credential(name, place)
        with pytest.raises(PolicyError, match="credentials"):
            permit(credentials=()).credential(name, place)
    assert permit(credentials=("web-*",)).credential("web-1") == CredentialEntry(name="web-1")
    with pytest.raises(PolicyError):
        permit(credentials=("web-*",)).credential("root")
    with pytest.raises(OperationError, match="web-2") as caught:
        permit(credentials=("web-*",)).credential("web-2")
    assert caught.value.code is TaskErrorCode.VALIDATION_INVALID_PARAMS


def test_options_and_their_patterns() -> None:
    found = permit(options={"images": ["registry.example.com/*", "alpine"], "one": "a*", "most": 5})
    assert (found.option("most"), found.option("none"), found.option("none", 3)) == (5, None, 3)
    assert found.matches("images", "registry.example.com/a/b:1")
    assert found.matches("one", "ab")
    for name, value in (("images", "evil.example.com/a"), ("images", "ALPINE"), ("one", "b"), ("none", "x")):
        with pytest.raises(PolicyError, match=rf"{name} in \[policy.operators.options\]"):
            found.matches(name, value)


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1", "127.1", "0x7f.1", "2130706433", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "169.254.169.254", "fe80::1",
        "fe80::1%eth0", "localhost", "LOCALHOST.", "a.localhost", "168.63.129.16", "224.0.0.1",
        "100.100.100.200", "fd00:ec2::254",
        "-oProxyCommand=id", "a b", "user@host", "host:22", "http://host", "host/x", "", "a`id`", "x" * 300,
    ],
)  # fmt: skip
def test_any_host_is_none_of_this_machine_and_no_trick(name: str) -> None:
    with pytest.raises(PolicyError):
        permit(any_host=True).host(name)


def test_any_host_is_asked_again_for_where_its_name_leads() -> None:
    found = permit(any_host=True)
    host = found.host("db.example.com")
    found.peer(host, "10.0.0.5")
    found.peer(host, "fd00::1")
    for address in ("127.0.0.1", "169.254.169.254", "::1"):
        with pytest.raises(PolicyError, match="leads to"):
            found.peer(host, address)
    for name in ("10.0.0.5", "fd00::5", "some_host", "db-1.example.com"):
        assert found.host(name).address == name
    with pytest.raises(PolicyError, match="not in the inventory"):
        permit().host("db.example.com")


def test_a_host_of_the_inventory_may_be_this_machine() -> None:
    config = OperationsConfig(
        hosts={"here": HostEntry(name="here", address="127.0.0.1", groups=("gpu",)), "b": HostEntry(name="b")}
    )
    for hosts in (("here",), ("@gpu",), ("*",)):
        found = Permit(Client(), config, PolicyEntry(name="default", hosts=hosts))
        host = found.host("here")
        found.peer(host, "127.0.0.1")
    with pytest.raises(PolicyError):
        Permit(Client(), config, PolicyEntry(name="default", hosts=("@gpu",))).host("b")
