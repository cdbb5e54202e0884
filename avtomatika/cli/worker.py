"""`avtomatika worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from avtomatika.cli.facade import ask, facade_options
from avtomatika.cli.output import json_option, show_json, show_table


@click.group()
def worker() -> None:
    """Workers that are alive now."""


@worker.command("ls")
@facade_options
@json_option
def ls(url: str, data_dir: Path, as_json: bool) -> None:
    """List live workers: what they can do, how busy they are, what they cost, and how far they can be trusted."""
    workers = ask(url, data_dir, lambda facade: facade.get("/api/v1/workers"))
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
