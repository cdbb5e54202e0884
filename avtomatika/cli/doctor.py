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
from avtomatika.errors import AvtomatikaError, ConfigurationError
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
    settings = attempt(lambda: _settings(data_dir, report))
    if settings is not None:
        report["broker_url"], report["state_url"] = settings.broker_url, settings.state_url
        report["history_uri"] = settings.history_database_uri.get_secret_value() if settings.history_database_uri else None
        attempt(lambda: _reach(settings.state_url, "the state (REDIS_URL)"))
        if not settings.broker_is_state:
            attempt(lambda: _reach(settings.broker_url, "the broker (BROKER_URL)"))
        report["blueprints"] = attempt(lambda: _blueprints(settings))
        report["tasks"] = attempt(lambda: _tasks(settings))
    return report


def _settings(data_dir: Path | None, report: dict[str, Any]) -> Settings:
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


def _show(report: dict[str, Any]) -> None:
    rows: list[tuple[str, Any]] = [(name, report[name]) for name in ("version", "python", "platform")]
    rows += list(report["packages"].items())
    rows.append(("redis-server", report["redis_server"]))
    rows += [(name, masked(report[name]) if report[name] else "not set") for name in ("broker_url", "state_url", "history_uri")]
    rows += [(name, ", ".join(report[name])) for name in ("blueprints", "tasks") if report.get(name) is not None]
    show_table(["what", "found"], rows)
    for problem in report["problems"]:
        click.secho(f"problem: {problem}", fg="red")
    if not report["problems"]:
        click.secho("all is well", fg="green")
