"""`avtomatika blueprint`: blueprints of a folder, without any server."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avtomatika.cli.deploys import LiveCheck, live_options
from avtomatika.cli.output import json_option, show_json, show_table
from avtomatika.errors import BlueprintError, ConfigurationError
from avtomatika.settings import get_settings

if TYPE_CHECKING:
    from avtomatika.blueprint.blueprint import Blueprint
    from avtomatika.blueprint.registry import BlueprintRegistry

folder_option = click.option(
    "--blueprints", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of blueprints [BLUEPRINTS_DIR]."
)


@click.group()
def blueprint() -> None:
    """Blueprints of a folder: list, check, draw."""


@blueprint.command("ls")
@folder_option
@json_option
def ls(folder: Path | None, as_json: bool) -> None:
    """List the blueprints."""
    items = [_summary(item) for item in _load(folder)]
    if as_json:
        show_json(items)
        return
    show_table(
        ["blueprint", "endpoint", "start", "states"],
        [(item["name"], item["endpoint"], item["start_state"], ", ".join(item["states"])) for item in items],
    )


@blueprint.command()
@click.argument("names", nargs=-1)
@folder_option
@click.option("--workers", type=click.Path(path_type=Path, file_okay=False), help="Folder of workers [WORKERS_DIR].")
@click.option("--strict", is_flag=True, help="Warnings are errors, too.")
@live_options
@json_option
def check(names: tuple[str, ...], folder: Path | None, workers: Path | None, strict: bool, as_json: bool, **live: Any) -> None:
    """Check blueprints: unknown and unreachable states, missing start, tasks that no worker here declares.

    With --live also the jobs that live now (in the Redis of REDIS_URL, or of `up`), and that these versions would strand: they
    wait for states that are not there any more.
    """
    wanted = LiveCheck(**live)
    try:
        registry = _load(folder)
        count, found = _findings(registry, names, workers or get_settings().workers_dir, strict)
        if wanted.live:
            found += wanted.findings(registry, names)
    except BlueprintError as exc:  # refused when it was loaded
        count, found = len(exc.problems), [{"severity": "error", "text": problem} for problem in exc.problems]
    if as_json:
        show_json(found)
    else:
        for problem in found:
            click.echo(f"{problem['severity']}: {problem['text']}")
        click.echo(f"{count} checked, {len(found)} found")
    sys.exit(1 if any(problem["severity"] == "error" for problem in found) else 0)


def _findings(
    registry: BlueprintRegistry, names: tuple[str, ...], workers: Path, strict: bool
) -> tuple[int, list[dict[str, Any]]]:
    from avtomatika.discovery import load_workers
    from avtomatika.operations.registry import registry as operations
    from avtomatika.worker.sdk import declared

    chosen = _chosen(registry, names)
    load_workers(workers)
    known = frozenset(declared().tasks) | {operation.name for operation in operations()} | _routed(registry.task_names)
    found: list[dict[str, Any]] = []
    for report in [item.check(known) for item in chosen] if names else [registry.check(known)]:
        for severity, problems in (("error", report.errors), ("error" if strict else "warning", report.warnings)):
            found += [
                {"severity": severity, "text": str(p), "file": p.file, "line": p.line, "message": p.message, "fix": p.fix}
                for p in problems
            ]
    return len(chosen), found


def _routed(tasks: Iterable[str]) -> frozenset[str]:
    """Plain Celery tasks: `task_routes` in celeryconfig.py says where they go, so that no worker here declares them."""
    from avtomatika.celery import app

    return frozenset(task for task in tasks if app.runtime.compiler.is_routed(task))


@blueprint.command()
@click.argument("name")
@click.option("--format", "fmt", type=click.Choice(["dot", "mermaid", "json", "svg"]), default="dot", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file instead of standard output.")
@folder_option
def graph(name: str, fmt: str, output: Path | None, folder: Path | None) -> None:
    """Draw a blueprint's states and transitions. SVG needs Graphviz (dot)."""
    text = _chosen(_load(folder), (name,))[0].graph(fmt)
    if output is None:
        click.echo(text)
    else:
        output.write_text(text, encoding="utf-8")


def _load(folder: Path | None) -> BlueprintRegistry:
    from avtomatika.discovery import load_blueprints

    folder = folder or get_settings().blueprints_dir
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is not a folder: set BLUEPRINTS_DIR or --blueprints")
    return load_blueprints(folder)


def _chosen(registry: BlueprintRegistry, names: tuple[str, ...]) -> list[Blueprint]:
    return [registry.get(name) for name in names] if names else list(registry)


def _summary(item: Blueprint) -> dict[str, Any]:
    endpoint = (
        "/".join(["/api", *([item.api_version] if item.api_version else [])]) + item.api_endpoint if item.api_endpoint else None
    )
    return {
        "name": item.name,
        "endpoint": endpoint,
        "start_state": item.start_state,
        "end_states": sorted(item.end_states),
        "states": sorted(item.states),
        "tasks": sorted(item.task_names),
    }
