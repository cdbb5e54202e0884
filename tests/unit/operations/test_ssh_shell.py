"""What is sent to the remote shell, read by a real one."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avtomatika.operations.ssh.capture import Capture, Lines, printable
from avtomatika.operations.ssh.shell import Become, Script, become

#: All that a word can hold: no NUL, and no surrogates, which UTF-8 has not.
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


def run(script: Script, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["/bin/sh", "-c", script.text], capture_output=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


@settings(max_examples=30, deadline=None)
@given(st.lists(WORDS, max_size=5))
def test_every_word_arrives_as_it_is(words: list[str]) -> None:
    done = run(Script(["printf", "%s\\0", *words]))
    assert done.stdout.decode().split("\0")[:-1] == (words or [""])


@settings(max_examples=30, deadline=None)
@given(WORDS)
def test_the_value_of_a_variable_arrives_as_it_is(value: str) -> None:
    assert run(Script(["printenv", "WORD"], env={"WORD": value})).stdout.decode() == f"{value}\n"


@pytest.mark.parametrize("name", ["a b", "$(touch harm)", "-rf", "'; touch harm; '", "a\nb", "`touch harm`"])
def test_a_directory_is_only_a_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    done = run(Script(["pwd"], cwd=str(tmp_path / name)), cwd=tmp_path)
    assert done.stdout.decode() == f"{tmp_path / name}\n"
    assert not (tmp_path / "harm").exists()


def test_without_its_directory_the_command_does_not_run(tmp_path: Path) -> None:
    done = run(Script(["touch", str(tmp_path / "ran")], cwd=str(tmp_path / "missing")))
    assert done.returncode == 1
    assert not (tmp_path / "ran").exists()


def test_it_reads_nothing_unless_it_is_to() -> None:
    assert run(Script(["cat"]), input=b"not for you").stdout == b""
    assert run(Script(["cat"], stdin=True), input=b"for you").stdout == b"for you"


def test_it_tells_its_process_id_first() -> None:
    script = Script("echo $$; echo later >&2")
    done = run(script)
    assert done.stderr.decode() == f"{script.token} {done.stdout.decode().strip()}\nlater\n"


@pytest.mark.parametrize(
    ("how", "begins"),
    [
        (Become("root", "sudo"), "sudo -n -H -u root -- /bin/sh -c "),
        (Become("root", "sudo", True), "sudo -S -p asks -H -u root -- /bin/sh -c "),
        (Become("app", "doas"), "doas -n -u app /bin/sh -c "),
    ],
)
def test_another_user_gets_the_script_as_one_word(how: Become, begins: str) -> None:
    line = become(how, "echo 'a'; echo b", "asks")
    assert line.startswith(begins)
    assert shlex.split(line)[-1] == "echo 'a'; echo b"


def test_a_capture_keeps_both_ends_and_says_what_it_left_out() -> None:
    capture = Capture(40)
    for number in range(1000):
        capture.add(b"line %d\n" % number)
    assert capture.truncated
    assert capture.text.startswith("line 0\nline 1\n")
    assert capture.text.endswith("line 998\nline 999\n")
    assert "bytes left out]" in capture.text


def test_a_capture_that_fits_is_whole() -> None:
    capture = Capture(10)
    capture.add(b"01234")
    capture.add(b"567\xff\0")
    assert not capture.truncated
    assert capture.text == "01234567\ufffd\ufffd"


def test_half_a_secret_is_not_left_at_the_edge() -> None:
    capture = Capture(60)
    capture.add(b"first\npassword=correct-horse-battery-staple\n" + b"x\n" * 100)
    assert "correct" not in capture.text


@given(st.lists(st.binary(max_size=20)))
def test_lines_are_the_same_however_they_come_in(chunks: list[bytes]) -> None:
    shown: list[str] = []
    lines = Lines(shown.append)
    for chunk in chunks:
        lines.add(chunk)
    lines.end()
    whole: list[str] = []
    again = Lines(whole.append)
    again.add(b"".join(chunks))
    again.end()
    assert shown == whole


def test_a_terminal_is_told_nothing() -> None:
    assert (
        printable("\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b]8;;http://x\x1b\\link\a\b\r\u202edrow\x9b1m\ttab")
        == "red linkdrow1m\ttab"
    )
