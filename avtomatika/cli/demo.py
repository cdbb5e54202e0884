"""`avtomatika demo`: real work on real photographs, from one command."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from avtomatika.demo import examples_dir
from avtomatika.demo.run import Options, Outcome, run_demo
from avtomatika.demo.view import Lines, Picture, Silent, View
from avtomatika.errors import AvtomatikaError


@click.command("demo")
@click.option(
    "--input",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of your own photographs; sample photographs by default.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Where contact-sheet.png and report.html go.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes, one core each.")
@click.option("--keep", is_flag=True, help="Keep the data directory with its logs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
def demo(folder: Path | None, output: Path, workers: int, keep: bool, as_json: bool) -> None:
    """Turns a folder of photographs into a contact sheet and a report, by a blueprint that runs on real workers."""
    console = Console(highlight=False)
    options = Options(folder, output, workers, keep)
    view: View
    if as_json:
        view = Silent()
    elif console.is_terminal:
        view = Picture(console, "blueprint photo_report")
    else:
        view = Lines(console)
    try:
        with view:
            outcome = asyncio.run(run_demo(options, view))
    except AvtomatikaError as exc:
        if as_json:
            click.echo(json.dumps({"error": str(exc)}))
        raise click.ClickException(str(exc)) from exc
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None
    if as_json:
        click.echo(json.dumps(outcome.to_dict(), indent=2))
    else:
        say(console, outcome, folder)


def say(console: Console, outcome: Outcome, folder: Path | None) -> None:
    """Where the result lies, and what to try next."""
    count = f"{outcome.photos} photo{'s' if outcome.photos != 1 else ''}"
    crew = f"{outcome.workers} worker process{'es' if outcome.workers != 1 else ''}"
    console.print(f"[bold green]{count} in {outcome.seconds:.1f} s[/] with {crew} (and {outcome.start_seconds:.1f} s to start)\n")
    rows = [
        ("contact sheet", str(outcome.contact_sheet)),
        ("report", str(outcome.report)),
        ("comparison", outcome.device_note),
        *(("left out", item["reason"]) for item in outcome.left_out),
        ("the graph", graph_command()),
    ]
    if outcome.workers * 2 <= (os.cpu_count() or 1):  # more of them than cores would not be faster
        again = f" --input {shlex.quote(str(folder))}" if folder else ""
        rows.append(("more workers", f"avtomatika demo --workers {outcome.workers * 2}{again}"))
    for label, value in rows:  # not a table: a path that is broken into lines cannot be copied
        console.print(Text.assemble((f"{label:15}", "dim"), value), soft_wrap=True)


def graph_command() -> str:
    """How to see the blueprint's graph: as SVG where Graphviz can draw it, else as Mermaid text."""
    examples = examples_dir()
    folder = "" if Path.cwd() == examples else f" --blueprints {examples / 'blueprints'}"
    if shutil.which("dot"):
        return f"avtomatika blueprint graph photo_report --format svg -o photo_report.svg{folder}"
    return f"avtomatika blueprint graph photo_report --format mermaid{folder}  (with Graphviz also --format svg)"
