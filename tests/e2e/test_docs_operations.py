"""docs/operations.md runs as it stands there: the first operation, and a family of one's own."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY, Processes, Up, clean_environment

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("up")]

PAGE = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")


def _file(name: str) -> str:
    found = re.search(rf"^`{re.escape(name)}`[^\n]*:\n\n```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, f"the page has no {name}"
    return found[1]


def _block(language: str, beginning: str) -> str:
    found = re.search(rf"^```{language}\n({re.escape(beginning)}.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, f"the page has no block that begins with {beginning}"
    return found[1]


def _commands() -> list[str]:
    return re.findall(r"^\$ (avtomatika (?:queue push|audit).*)$", PAGE, re.MULTILINE)


def _install(folder: Path) -> None:
    """As pip leaves the package of the page: its module, and what its entry points are."""
    (folder / "counting.py").write_text(_file("counting.py"))
    project = tomllib.loads(_file("pyproject.toml"))["project"]
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [
        f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in named.items())
        for group, named in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(points) + "\n")


def test_the_first_operation_and_a_family_of_ones_own(processes: Processes, tmp_path: Path) -> None:
    env = clean_environment()
    packages = tmp_path / "packages"
    packages.mkdir()
    _install(packages)
    env["PYTHONPATH"] = f"{packages}:{env.get('PYTHONPATH', REPOSITORY)}"

    def run(*argv: str, token: str = "") -> subprocess.CompletedProcess[str]:
        more = {"CLIENT_TOKEN": token, "AVTOMATIKA_URL": up.url} if token else {}
        return subprocess.run(
            [sys.executable, "-m", "avtomatika", *argv],
            env={**env, **more}, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    made = json.loads(run("token", "new", "--client", "ada", "--json").stdout)
    (tmp_path / "clients.toml").write_text(_file("clients.toml").replace("sha256:…", made["stored"]))
    words = tmp_path / "srv" / "data" / "words.txt"
    words.parent.mkdir(parents=True)
    words.write_text("one\ntwo\nthree\n")
    config = _file("operations.toml").replace('["network_test", ', '["count_lines", "network_test", ')
    own_policy = _block("toml", '[policy."blueprint:nightly"]')
    (tmp_path / "operations.toml").write_text(config + 'local_roots = ["srv/data"]\n' + own_policy)
    for folder in ("blueprints", "workers"):
        (tmp_path / folder).mkdir()
    (tmp_path / "blueprints" / "nightly.py").write_text(_block("python", "from avtomatika import Blueprint"))
    files = {
        "OPERATIONS_CONFIG_PATH": str(tmp_path / "operations.toml"),
        "CLIENTS_CONFIG_PATH": str(tmp_path / "clients.toml"),
    }
    up = processes.make(
        Up, blueprints=tmp_path / "blueprints", workers=tmp_path / "workers", env={**files, "PYTHONPATH": env["PYTHONPATH"]}
    )

    allowed, refused, verified = _commands()
    done = run(*_words(allowed.replace("8080", str(up.port))), token=made["token"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reachable" in done.stdout
    done = run(*_words(refused), token=made["token"])
    assert done.returncode != 0
    assert "does not allow the host 'db' for the role 'operators'" in " ".join((done.stdout + done.stderr).split())

    params = json.dumps({"path": "words.txt", "containing": "o"})
    done = run("queue", "push", "count_lines", params, "--watch", token=made["token"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r'"lines"\W+2\b', done.stdout), done.stdout
    for params, words_of in (({"path": "none.txt"}, "there is no file"), ({"path": "../../operations.toml"}, "local path")):
        done = run("queue", "push", "count_lines", json.dumps(params), "--watch", token=made["token"])
        assert done.returncode != 0
        assert words_of in " ".join((done.stdout + done.stderr).split())

    done = run("job", "submit", "nightly", "{}", "--watch", token=made["token"])  # nobody listens on port 443 here
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"healthy": false' in done.stdout

    done = run(*_words(verified))
    assert done.returncode == 0, done.stdout
    assert "no problems" in done.stdout


def _words(command: str) -> list[str]:
    return shlex.split(command)[1:]
