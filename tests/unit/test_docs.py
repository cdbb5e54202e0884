"""README and docs: their Python loads, their commands exist, their links lead somewhere, and every setting is listed.

`docs/blueprints.md` is one blueprint in many blocks and has a test of its own.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import SecretStr

from avtomatika.cli.main import main
from avtomatika.settings import Settings
from tests.support.processes import REPOSITORY, clean_environment

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SHELLS = ("console", "sh")
LOADER = """
import sys
from pathlib import Path
from avtomatika.discovery import load_blueprints, load_workers
from avtomatika.worker.sdk import declared

folder = Path(sys.argv[1])
names = load_blueprints(folder).names
load_workers(folder)
assert names or declared().tasks, "neither a blueprint nor a task is defined"
"""


def _blocks(page: Path, *languages: str) -> list[tuple[int, str]]:
    """(line, text) of every fenced block of these languages."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


def _modules(page: Path) -> list[tuple[int, str]]:
    """The Python blocks as files: one that makes a Worker or a Blueprint begins a file, one that uses it goes on with it."""
    modules: list[tuple[int, str]] = []
    for line, block in _blocks(page, "python"):
        used = {match[1] for match in re.finditer(r"^@(\w+)\.", block, re.MULTILINE)}
        made = {match[1] for match in re.finditer(r"^(\w+) = \w+\(", modules[-1][1], re.MULTILINE)} if modules else set()
        own = {match[1] for match in re.finditer(r"^(\w+) = \w+\(", block, re.MULTILINE)}
        if used and not used & own and used & made:
            first, text = modules.pop()
            modules.append((first, f"{text}\n\n{block}"))
        else:
            modules.append((line, block))
    return modules


def _python() -> Iterator[tuple[Path, int, str]]:
    for page in PAGES:
        if page.name != "blueprints.md":
            yield from ((page, line, text) for line, text in _modules(page))


@pytest.mark.parametrize(("page", "line", "text"), [pytest.param(*item, id=f"{item[0].name}:{item[1]}") for item in _python()])
def test_python_loads(page: Path, line: int, text: str, tmp_path: Path) -> None:
    compile(text, f"{page.name}:{line}", "exec")
    if not re.search(r"^\w+ = (Worker|Blueprint|StateMachineBlueprint)\(", text, re.MULTILINE):
        return
    (tmp_path / "example.py").write_text(text, encoding="utf-8")
    # In a process of its own: what a process declares cannot be taken back.
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path)],
        env=clean_environment(), cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _command_lines() -> Iterator[tuple[Path, int, list[str]]]:
    """Calls of `avtomatika` in shell blocks, and in inline code that begins with it."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for first, block in _blocks(page, *SHELLS):
            for offset, line in enumerate(block.splitlines()):
                yield from ((page, first + offset, words) for words in _calls(line))
        for match in re.finditer(r"`(avtomatika [^`]+)`", text):
            # In a table, `\\|` is a choice and no pipe.
            call = match[1].replace("\\|", "/")
            yield from ((page, text.count("\n", 0, match.start()) + 1, words) for words in _calls(call))


def _calls(line: str) -> Iterator[list[str]]:
    """The argument lists of every `avtomatika …` in a line of shell: after a prompt, inside `$(…)`, before a pipe."""
    for match in re.finditer(r"(?:^|[$(|;&]\s*)avtomatika\s+([^|;)]*)", line.strip()):
        # `[--option X]…` is how a page writes what may be left out or repeated; JSON stays as it is.
        plain = match[1] if "{" in match[1] else re.sub(r"[\[\]…]", " ", match[1])
        yield [word for word in shlex.split(plain, comments=True) if word]


@pytest.mark.parametrize(
    ("page", "line", "words"),
    [pytest.param(page, line, words, id=f"{page.name}:{line}:{'_'.join(words[:2])}") for page, line, words in _command_lines()],
)
def test_commands_and_options_exist(page: Path, line: int, words: list[str]) -> None:
    command: click.Command = main
    context = click.Context(main)
    names = iter(words)
    while isinstance(command, click.Group):
        name = next(names, None)
        if name is None or name.startswith("-"):
            break
        found = command.get_command(context, name)
        assert found is not None, f"{page.name}:{line}: there is no command {name!r} in {' '.join(words)!r}"
        command = found
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    if command is main:
        known.add("--version")
    for word in words:
        if word.startswith("-") and word != "-":
            option = word.partition("=")[0]
            assert option in known, f"{page.name}:{line}: {' '.join(words)!r} has no option {option}; it has {sorted(known)}"


def test_command_lines_are_found() -> None:
    assert list(_calls("$ avtomatika up")) == [["up"]]
    assert list(_calls("export X=$(avtomatika doctor --json | python -c 'x')")) == [["doctor", "--json"]]
    assert list(_calls("celery -A avtomatika worker -Q gpu")) == []
    assert list(_calls('avtomatika job submit hello \'{"name": "Ada"}\' --watch')) == [
        ["job", "submit", "hello", '{"name": "Ada"}', "--watch"]
    ]
    assert list(_calls("avtomatika up [--port N]")) == [["up", "--port", "N"]]


def _links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for match in re.finditer(r"\]\(([^)\s]+)\)", text):
            if "://" not in match[1]:
                yield page, match[1]


@pytest.mark.parametrize(("page", "link"), [pytest.param(*item, id=f"{item[0].name}:{item[1]}") for item in _links()])
def test_links_lead_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists(), f"{page.name} links to {link}, which does not exist"
    if anchor:
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{page.name} links to {link}; {target.name} has {sorted(anchors)}"


def test_the_index_names_every_page() -> None:
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if page.name != "index.md" and f"({page.name})" not in index] == []


def _listed_settings() -> dict[str, str]:
    """Name -> default, out of the tables of the page on settings."""
    text = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|(?:[^|]*\|){2}$", text, re.MULTILINE)
    assert len(rows) == len({name for name, _ in rows}), "a setting is listed twice"
    return {name: default.strip() for name, default in rows}


def _written(default: object) -> str:
    """A default as the page writes it."""
    if default is None:
        return "not set"
    assert not isinstance(default, SecretStr), "a secret has no default"
    if isinstance(default, dict | tuple):
        return f"`{json.dumps(default)}`"
    return f"`{default}`" if str(default) else "empty"


def test_every_setting_is_listed_with_its_default() -> None:
    expected = {
        name.upper().rstrip("_"): _written(field.get_default(call_default_factory=True))
        for name, field in Settings.model_fields.items()
    }
    assert _listed_settings() == expected
