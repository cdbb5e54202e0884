"""Commands that need no server: help, blueprint, doctor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from avtomatika import __version__
from avtomatika.api.clients import read_accounts
from avtomatika.api.workertokens import read_worker_tokens
from avtomatika.cli.main import _COMMANDS, main
from avtomatika.settings import read_settings

from .conftest import Run

GOOD = """
from avtomatika import Blueprint

good = Blueprint("good", api_version="v1", api_endpoint="/good")


@good.handler_for("start", is_start=True)
async def start(actions):
    actions.dispatch_task("nobody_has_this", {}, {"success": "end"})


@good.handler_for("end", is_end=True)
async def end():
    pass
"""
BAD = GOOD.replace('"good"', '"bad"').replace("/good", "/bad").replace('"success": "end"', '"success": "nowhere"')


@pytest.fixture
def blueprints(tmp_path: Path) -> Path:
    folder = tmp_path / "blueprints"
    folder.mkdir()
    (folder / "good.py").write_text(GOOD)
    return folder


def test_help_names_every_command(run: Run) -> None:
    output = run("--help").output
    assert all(name in output for name in _COMMANDS)
    assert run("--version").output == f"avtomatika, version {__version__}\n"
    assert run("nope").exit_code == 2


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_every_command_has_its_help(run: Run, name: str) -> None:
    done = run(name, "--help")
    assert done.exit_code == 0
    assert f"{main.name} {name}" in done.output


def test_help_loads_next_to_nothing() -> None:
    code = (
        "import sys; from avtomatika.cli.main import main; main(['--help'], standalone_mode=False); "
        "print(sorted({'celery', 'kombu', 'aiohttp', 'redis', 'pydantic', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_blueprint_ls(run: Run, blueprints: Path) -> None:
    [item] = json.loads(run("blueprint", "ls", "--json").output)
    assert (item["name"], item["endpoint"], item["start_state"], item["states"]) == (
        "good",
        "/api/v1/good",
        "start",
        ["end", "start"],
    )
    assert item["tasks"] == ["nobody_has_this"]
    assert "/api/v1/good" in run("blueprint", "ls").output


def test_blueprint_check_warns_and_strict_refuses(run: Run, blueprints: Path) -> None:
    done = run("blueprint", "check")
    assert done.exit_code == 0
    assert "nobody_has_this" in done.output
    assert "1 checked, 1 found" in done.output
    strict = run("blueprint", "check", "good", "--strict", "--json")
    assert strict.exit_code == 1
    [problem] = json.loads(strict.output)
    assert (problem["severity"], Path(problem["file"]).name) == ("error", "good.py")


def test_blueprint_check_names_file_and_line(run: Run, blueprints: Path) -> None:
    (blueprints / "bad.py").write_text(BAD)
    done = run("blueprint", "check")
    assert done.exit_code == 1
    assert "bad.py:" in done.output
    assert "nowhere" in done.output
    assert run("blueprint", "ls").exit_code == 2


def test_blueprint_graph(run: Run, blueprints: Path, tmp_path: Path) -> None:
    assert run("blueprint", "graph", "good").output.startswith("digraph")
    assert "start" in json.dumps(json.loads(run("blueprint", "graph", "good", "--format", "json").output))
    assert run("blueprint", "graph", "good", "--format", "mermaid", "-o", "good.mmd").exit_code == 0
    assert "start" in (tmp_path / "good.mmd").read_text()
    unknown = run("blueprint", "graph", "nope")
    assert (unknown.exit_code, "unknown blueprint 'nope'" in unknown.output) == (1, True)


def test_a_missing_folder_is_named(run: Run) -> None:
    done = run("blueprint", "ls", "--blueprints", "nowhere")
    assert (done.exit_code, "nowhere is not a folder" in done.output) == (2, True)


def test_doctor_names_what_to_mend(run: Run, blueprints: Path) -> None:
    done = run("doctor", "--json", env={"REDIS_URL": "redis://:secret@127.0.0.1:1/0"})
    report = json.loads(done.output)
    assert done.exit_code == 1
    assert report["state_url"] == report["broker_url"] == "redis://:secret@127.0.0.1:1/0"
    assert {"history_uri", "redis_server", "python", "packages"} <= set(report)
    assert report["blueprints"] == ["good"]
    assert any("cannot be reached" in problem for problem in report["problems"])
    assert any("WORKERS_DIR" in problem for problem in report["problems"])
    assert not any("secret" in problem for problem in report["problems"])
    shown = run("doctor", env={"REDIS_URL": "redis://:secret@127.0.0.1:1/0"})
    assert "secret" not in shown.output


def test_doctor_on_a_data_directory_where_nothing_runs(run: Run, tmp_path: Path) -> None:
    done = run("doctor", "--data-dir", str(tmp_path / "empty"), "--json")
    assert done.exit_code == 1
    assert any("no `avtomatika up` runs" in problem for problem in json.loads(done.output)["problems"])


def test_a_new_token_is_shown_with_the_lines_that_let_it_in(run: Run, tmp_path: Path) -> None:
    for name in ("acme", "a.b c"):
        token, _, _, *lines = run("token", "new", "--client", name, "--admin").output.splitlines()
        (tmp_path / "clients.toml").write_text("\n".join(lines))
        settings = read_settings(client_token=None, clients_config_path=tmp_path / "clients.toml")
        found = read_accounts(settings).account_of(token)
        assert found is not None
        assert (found.client.name, found.client.admin) == (name, True)
        assert token not in "\n".join(lines)


def test_a_new_token_of_a_worker_as_json(run: Run, tmp_path: Path) -> None:
    made = json.loads(run("token", "new", "--worker", "gpu@host", "--json").output)
    assert made["file"] == "workers.toml"
    (tmp_path / "workers.toml").write_text(made["toml"])
    settings = read_settings(global_worker_token=None, workers_config_path=tmp_path / "workers.toml")
    identity = read_worker_tokens(settings).identity_of(made["token"])
    assert identity is not None
    assert identity.worker_id == "gpu@host"
    assert made["token"] != json.loads(run("token", "new", "--json").output)["token"]


@pytest.mark.parametrize("options", [("--client", "a", "--worker", "b"), ("--worker", "b", "--admin"), ("--client", "a\nb")])
def test_a_token_of_two_kinds_is_refused(run: Run, options: tuple[str, ...]) -> None:
    assert run("token", "new", *options).exit_code == 2


def test_doctor_reads_the_files_of_tokens(run: Run, blueprints: Path, tmp_path: Path) -> None:
    (tmp_path / "clients.toml").write_text("[a]\nplan = 1\n")
    (tmp_path / "workers.toml").write_text("[w]\ntoken = 1\n")
    env = {
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "CLIENTS_CONFIG_PATH": str(tmp_path / "clients.toml"),
        "WORKERS_CONFIG_PATH": str(tmp_path / "workers.toml"),
    }
    problems = json.loads(run("doctor", "--json", env=env).output)["problems"]
    assert any("clients.toml:1: " in problem for problem in problems)
    assert any("workers.toml:2: " in problem for problem in problems)


def test_settings_that_do_not_fit(run: Run) -> None:
    done = run("up", env={"API_PORT": "many"})
    assert (done.exit_code, "API_PORT" in done.output) == (2, True)


def test_no_facade_without_a_token(run: Run) -> None:
    done = run("server", env={"REDIS_URL": "redis://127.0.0.1:1/0"})
    assert (done.exit_code, "CLIENT_TOKEN" in done.output) == (2, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Run, shell: str) -> None:
    done = run("completion", shell)
    assert done.exit_code == 0
    assert f"_AVTOMATIKA_COMPLETE={shell}_complete" in done.stdout
    assert run("completion", "cmd").exit_code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes() -> None:
    script = """
        eval "$(avtomatika completion bash)"
        COMP_WORDS=(avtomatika job re) COMP_CWORD=2
        _avtomatika_completion avtomatika
        echo "${COMPREPLY[@]}"
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert sorted(done.stdout.split()) == ["resume", "retry"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pin"], "belong to --live"),
        (["--migrate", "a=b"], "belong to --live"),
        (["--live", "--pin", "--fail"], "give one of the two"),
        (["--live", "--migrate", "a"], "write --migrate old=new"),
        (["--live", "--migrate", "a=b", "--migrate", "a=c"], "two states for 'a'"),
    ],
)
def test_blueprint_check_of_live_jobs_refuses_what_does_not_fit_together(
    run: Run, blueprints: Path, arguments: list[str], said: str
) -> None:
    done = run("blueprint", "check", *arguments)

    assert (done.exit_code, said in done.output) == (2, True)
