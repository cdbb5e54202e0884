"""`avtomatika up`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from avtomatika.settings import read_settings
from avtomatika.supervisor import Plan, Supervisor


@click.command()
@click.option("--blueprints", type=click.Path(path_type=Path, file_okay=False), help="Folder of blueprints [BLUEPRINTS_DIR].")
@click.option("--workers", type=click.Path(path_type=Path, file_okay=False), help="Folder of workers [WORKERS_DIR].")
@click.option("--queues", default="", help="Capabilities that the workers serve, e.g. gpu,cpu; all they declare by default.")
@click.option("--worker-count", default=1, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
@click.option("--no-workers", is_flag=True, help="Start none: they run elsewhere, or are started by hand.")
@click.option("--host", help="Where the facade listens [API_HOST, 127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="Its port; 0 takes a free one [API_PORT, 8080].")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".avtomatika"),
    show_default=True,
    help="Holds the data, the token and the logs.",
)
@click.option("--flower", is_flag=True, help="Start Flower, too.")
@click.option("--verbose", "-v", is_flag=True, help="Show the log of every process here, too.")
def up(
    blueprints: Path | None,
    workers: Path | None,
    queues: str,
    worker_count: int,
    no_workers: bool,
    host: str | None,
    port: int | None,
    data_dir: Path,
    flower: bool,
    verbose: bool,
) -> None:
    """Run everything on this machine. Ctrl-C stops it; a second start goes on with its jobs."""
    settings = read_settings()
    logging.basicConfig(level=settings.log_level, format="%(levelname)s %(message)s", stream=sys.stderr)
    plan = Plan(
        data_dir=data_dir,
        blueprints=blueprints,
        workers=workers,
        queues=tuple(name.strip() for name in queues.split(",") if name.strip()),
        worker_count=0 if no_workers else worker_count,
        host=host,
        port=port,
        flower=flower,
        verbose=verbose,
    )
    sys.exit(Supervisor(plan, settings, echo=click.echo).run())
