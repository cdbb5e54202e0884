"""`avtomatika doctor`: what is set up, what can be reached, and what to mend."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from avtomatika import __version__
from avtomatika.cli.output import json_option, show_json, show_table
from avtomatika.embedded import find_binary, running_url
from avtomatika.errors import AvtomatikaError, ConfigurationError, HistoryOutdatedError
from avtomatika.settings import Settings, masked, read_settings
from avtomatika.supervisor import running_facade

_PACKAGES = ("celery", "kombu", "redis", "aiohttp", "pydantic")
_DEFAULT_DIR = Path(".avtomatika")


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Data directory of a running `avtomatika up`: its URLs are used  [default: .avtomatika, unless REDIS_URL is set]",
)
@json_option
def doctor(data_dir: Path | None, as_json: bool) -> None:
    """Check the set-up: versions, Redis, broker, folders. Exit code 1 where there is something to mend.

    The JSON holds usable URLs, passwords included; the table masks them.
    """
    report = examine(data_dir)
    if as_json:
        show_json(report)
    else:
        _show(report)
    sys.exit(1 if report["problems"] else 0)


def examine(data_dir: Path | None) -> dict[str, Any]:
    """Everything the command shows: broker_url, state_url, history_uri, versions, folders and `problems`, each a sentence."""
    problems: list[str] = []

    def attempt(check: Callable[[], Any]) -> Any:
        try:
            return check()
        except AvtomatikaError as exc:
            problems.append(str(exc))
            return None

    report: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "broker_url": None,
        "state_url": None,
        "history_uri": None,
        "problems": problems,
    }
    try:
        report["redis_server"] = str(find_binary())
    except ConfigurationError as exc:
        report["redis_server"] = None
        if not os.environ.get("REDIS_URL"):  # nobody needs an embedded one beside a Redis of their own
            problems.append(str(exc))
    settings = attempt(lambda: settings_for(data_dir, report))
    if settings is not None:
        report["broker_url"], report["state_url"] = settings.broker_url, settings.state_url
        report["history_uri"] = settings.history_database_uri.get_secret_value() if settings.history_database_uri else None
        attempt(lambda: _reach(settings.state_url, "the state (REDIS_URL)"))
        if not settings.broker_is_state:
            attempt(lambda: _reach(settings.broker_url, "the broker (BROKER_URL)"))
        attempt(lambda: _history(settings))
        report["blueprints"] = attempt(lambda: _blueprints(settings))
        report["tasks"] = attempt(lambda: _tasks(settings))
        attempt(lambda: _client_file(settings))
        attempt(lambda: _worker_file(settings))
        attempt(lambda: _schedule_file(settings, report))
        attempt(lambda: _operations_file(settings, report))
        attempt(lambda: _certificates(settings))
    return report


def settings_for(data_dir: Path | None, report: dict[str, Any]) -> Settings:
    settings = read_settings()
    place = data_dir if data_dir is not None else _DEFAULT_DIR
    url = running_url(place / "redis") if data_dir is not None or not os.environ.get("REDIS_URL") else None
    if url is None:
        if data_dir is not None:
            raise ConfigurationError(f"no `avtomatika up` runs on {data_dir}: start one, or leave --data-dir out")
        return settings
    report["api_url"] = running_facade(place)
    history = settings.history_database_uri or f"sqlite:///{place.absolute() / 'history.sqlite3'}"
    return read_settings(redis_url=url, broker_url=url, history_database_uri=history)


def _reach(url: str, what: str) -> None:
    from kombu import Connection

    try:
        with Connection(
            url, connect_timeout=3, transport_options={"socket_connect_timeout": 3, "socket_timeout": 3}
        ) as connection:
            connection.ensure_connection(max_retries=1, timeout=3)
    except Exception as exc:  # whatever transport this is, its reason is shown
        raise ConfigurationError(
            f"{what} at {masked(url)} cannot be reached: {str(exc).rstrip('.')}; start it, or run `avtomatika up`"
        ) from exc


def _history(settings: Settings) -> None:
    from avtomatika.cli.db import opened
    from avtomatika.history.upgrade import versions

    if settings.history_database_uri is None:
        return
    with opened(settings.history_database_uri.get_secret_value()) as database:
        if database.is_sqlite and not Path(database.engine.url.database or "").exists():
            return  # it is made by whoever writes first
        current, newest = versions(database)
        if current != newest and not (database.is_sqlite or settings.history_auto_upgrade):
            raise HistoryOutdatedError(current)


def _blueprints(settings: Settings) -> list[str]:
    from avtomatika.discovery import load_blueprints

    if not settings.blueprints_dir.is_dir():
        raise ConfigurationError(f"{settings.blueprints_dir} is not a folder: set BLUEPRINTS_DIR")
    return sorted(load_blueprints(settings.blueprints_dir).names)


def _tasks(settings: Settings) -> dict[str, str | None]:
    from avtomatika.discovery import load_workers
    from avtomatika.worker.sdk import declared

    if not settings.workers_dir.is_dir():
        raise ConfigurationError(f"{settings.workers_dir} is not a folder: set WORKERS_DIR")
    load_workers(settings.workers_dir)
    return {name: task.capability for name, task in sorted(declared().tasks.items())}


def _client_file(settings: Settings) -> None:
    from avtomatika.api.clients import read_accounts

    if settings.clients_config_path is not None:
        read_accounts(settings)


def _worker_file(settings: Settings) -> None:
    from avtomatika.api.workertokens import read_worker_tokens

    if settings.workers_config_path is not None:
        read_worker_tokens(settings)


def _schedule_file(settings: Settings, report: dict[str, Any]) -> None:
    from avtomatika.discovery import load_blueprints
    from avtomatika.schedules.file import read_schedules

    if report["blueprints"] is not None:  # else what is wrong with those has been said
        report["schedules"] = sorted(read_schedules(settings, load_blueprints(settings.blueprints_dir)))


def _operations_file(settings: Settings, report: dict[str, Any]) -> None:
    """What the file allows somebody, and what this machine lacks for it: no problem, it may be another machine's work."""
    from avtomatika.operations.config import read_config
    from avtomatika.operations.policy import allows_somewhere
    from avtomatika.operations.registry import registry

    config = read_config(settings.operations_config_path)
    allowed = [operation for operation in registry() if allows_somewhere(config, operation)]
    report["operations"] = sorted(operation.name for operation in allowed if operation.family.lacks() is None)
    report["operations_lacking"] = {op.name: lack for op in allowed if (lack := op.family.lacks()) is not None}


def _certificates(settings: Settings) -> None:
    from avtomatika.api.tls import open_tls

    open_tls(settings)


def _show(report: dict[str, Any]) -> None:
    rows: list[tuple[str, Any]] = [(name, report[name]) for name in ("version", "python", "platform")]
    rows += list(report["packages"].items())
    rows.append(("redis-server", report["redis_server"]))
    rows += [(name, masked(report[name]) if report[name] else "not set") for name in ("broker_url", "state_url", "history_uri")]
    rows += [
        (name, ", ".join(report[name]))
        for name in ("blueprints", "tasks", "schedules", "operations")
        if report.get(name) is not None
    ]
    rows += list(report.get("operations_lacking", {}).items())
    show_table(["what", "found"], rows)
    for problem in report["problems"]:
        click.secho(f"problem: {problem}", fg="red")
    if not report["problems"]:
        click.secho("all is well", fg="green")
