"""`avtomatika worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from avtomatika.cli.facade import ask, facade_options
from avtomatika.cli.output import json_option, show_json, show_table
from avtomatika.client import calls
from avtomatika.errors import ConfigurationError
from avtomatika.settings import get_settings


@click.group()
def worker() -> None:
    """Workers: those that are alive now, and one that runs here over HTTP."""


@worker.command("run")
@click.option("--url", "urls", multiple=True, help="An orchestrator's facade; may be given again [ORCHESTRATOR_URL].")
@click.option("--workers", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Folder of workers [WORKERS_DIR].")
def run(urls: tuple[str, ...], workers: Path | None) -> None:
    """Run a worker over HTTP until Ctrl-C or SIGTERM. Its token: WORKER_INDIVIDUAL_TOKEN, else WORKER_TOKEN."""
    from avtomatika.discovery import load_workers
    from avtomatika.logs import configure
    from avtomatika.worker.http import read_config, work
    from avtomatika.worker.sdk import declared

    settings = get_settings()
    configure(settings)
    folder = workers or settings.workers_dir
    load_workers(folder)
    if not declared().tasks:
        raise ConfigurationError(f"no task is declared in {folder}: name the folder with --workers or WORKERS_DIR")
    work(read_config(settings, declared().workers[0].worker_type, urls=urls), declared(), settings)


@worker.command("ls")
@facade_options
@json_option
def ls(url: str, data_dir: Path, as_json: bool) -> None:
    """List live workers: what they can do, how busy they are, what they cost, and how far they can be trusted."""
    workers = ask(url, data_dir, calls.workers())
    if as_json:
        show_json(workers)
        return
    show_table(
        ["worker", "status", "running / limit", "cost / s", "reputation", "hot skills", "tasks"],
        [
            (
                item["worker_id"],
                item["status"],
                ", ".join(f"{name} {item['load'].get(name, 0)}/{limit}" for name, limit in sorted(item["limits"].items())),
                _cost(item),
                f"{item['reputation']:.2f}",
                ", ".join(item["hot_skills"]),
                ", ".join(item["tasks"]),
            )
            for item in workers
        ],
    )


def _cost(item: dict[str, Any]) -> str:
    single = [f"{task} {cost:g}" for task, cost in sorted(item["cost_per_skill"].items())]
    return ", ".join([f"{item['cost_per_second']:g}", *single])
