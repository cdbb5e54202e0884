"""A user's TOML file: errors name the file, the line and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from avtomatika.errors import ConfigurationError
from avtomatika.tomlfile import TomlFile

TEXT = """\
# a comment with [acme] in it
top = 1

[acme]
token = "x"
"quoted key" = 2

[ "quoted.name" ]  # spaces, quotes, a comment
plan = "basic"

[acme.limits]
gpu = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> TomlFile:
    path = tmp_path / "some.toml"
    path.write_text(TEXT)
    return TomlFile(path, "SOME_PATH")


@pytest.mark.parametrize(
    ("table", "key", "line"),
    [
        ("acme", None, 4),
        ("acme", "token", 5),
        ("acme", "quoted key", 6),
        ("acme", "missing", 4),
        ("acme", "limits", 11),
        ("quoted.name", None, 8),
        ("quoted.name", "plan", 9),
        (None, "top", 2),
        ("nowhere", None, 1),
        ("nowhere", "token", 1),
    ],
)
def test_an_error_is_at_its_line(file: TomlFile, table: str | None, key: str | None, line: int) -> None:
    assert str(file.error("mend it", table, key)) == f"{file.path}:{line}: mend it"


@pytest.mark.parametrize("text", ['a = 1\nacme = {token = "x"}\n', '\nacme.token = "x"\n'])
def test_tables_without_a_header_are_found(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text)
    file = TomlFile(path, "SOME_PATH")
    assert (file.line_of("acme"), file.line_of("acme", "token")) == (2, 2)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[a]\nb = \n", 2),
        ("[a]\nb = 1\n[a]\n", 3),
        ("[a]\nb = 1\nb = 2\n", 3),
        ('[a]\n\nb = "never ends', 3),
        ("[a]\nc = 1\nb = [1,\n", 3),
    ],
)
def test_a_syntax_error_names_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        TomlFile(path, "SOME_PATH")
    assert str(refused.value).startswith(f"{path}:{line}: this is not TOML: ")
    assert "SOME_PATH" in str(refused.value)
    assert "(at " not in str(refused.value)


def test_what_is_no_text_or_no_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b"[a]\nb = '\xe9'\n")
    with pytest.raises(ConfigurationError, match=rf"{path}:2: this is not UTF-8"):
        TomlFile(path, "SOME_PATH")
    with pytest.raises(ConfigurationError, match=r"SOME_PATH names .*nowhere\.toml, which cannot be read: No such file"):
        TomlFile(tmp_path / "nowhere.toml", "SOME_PATH")


def test_a_file_nested_beyond_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 5000 + "]" * 5000 + "\n")
    with pytest.raises(ConfigurationError, match=r"deep\.toml:1: "):
        TomlFile(path, "SOME_PATH")
