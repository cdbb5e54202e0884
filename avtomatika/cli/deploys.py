"""`avtomatika blueprint check --live`: the jobs that a new version of a blueprint would strand, and what becomes of them."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from avtomatika.blueprint.registry import BlueprintRegistry
    from avtomatika.engine.deploys import Deploys, Stranded
    from avtomatika.jobs import Job

F = TypeVar("F", bound=Callable[..., Any])

_CHOICES = (
    "give their states new names: --migrate old=new; keep them for the code that has their states: --pin; "
    "or end them: --fail. Until then do not load this version"
)


def live_options(command: F) -> F:
    """Adds what is asked and done about live jobs."""
    for option in (
        click.option(
            "--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where an `avtomatika up` keeps its data."
        ),
        click.option("--fail", is_flag=True, help="End the jobs that are stranded; they fail."),
        click.option("--pin", is_flag=True, help="Bind the jobs that are stranded to the code that they began with."),
        click.option("--migrate", "moves", metavar="OLD=NEW", multiple=True, help="Move them from one state to another."),
        click.option("--live", is_flag=True, help="Look for live jobs that this version would strand."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class LiveCheck:
    """What the command line says about live jobs; a UsageError where that does not fit together."""

    live: bool
    moves: tuple[str, ...]
    pin: bool
    fail: bool
    data_dir: Path | None

    def __post_init__(self) -> None:
        if not self.live and (self.moves or self.pin or self.fail or self.data_dir is not None):
            raise click.UsageError("--migrate, --pin, --fail and --data-dir belong to --live")
        if self.pin and self.fail:
            raise click.UsageError("--pin keeps the jobs and --fail ends them: give one of the two")
        self.states()

    def states(self) -> dict[str, str]:
        """Old state -> new one."""
        found: dict[str, str] = {}
        for move in self.moves:
            old, given, new = move.partition("=")
            if not (old and given and new):
                raise click.UsageError(f"--migrate {move!r} does not fit: write --migrate old=new")
            if found.setdefault(old, new) != new:
                raise click.UsageError(f"--migrate names two states for {old!r}")
        return found

    def findings(self, registry: BlueprintRegistry, names: Sequence[str]) -> list[dict[str, Any]]:
        """One for each stranded job; an error where it still is, else what was done about it."""
        return asyncio.run(self._findings(registry, names))

    async def _findings(self, registry: BlueprintRegistry, names: Sequence[str]) -> list[dict[str, Any]]:
        from avtomatika.cli.doctor import settings_for
        from avtomatika.engine.service import open_service

        states = self.states()
        service = await open_service(settings_for(self.data_dir, {}), blueprints=registry)
        try:
            deploys = service.deploys
            deploys.check_moves(states, names or registry.names)
            return [await self._handle(deploys, item, states) for item in await deploys.stranded(names)]
        finally:
            await service.close()

    async def _handle(self, deploys: Deploys, item: Stranded, states: Mapping[str, str]) -> dict[str, Any]:
        who, done, job = f"{getpass.getuser()} (blueprint check)", "", item.job
        found: Job | None = None
        if states:
            found = await deploys.migrate(job.id, states, who)
            done = "migrated" if found is not None else ""
        if not done and self.pin:
            found = await deploys.pin(job.id, who)
            done = "pinned" if found is not None else ""
        elif not done and self.fail:
            found = await deploys.fail(job.id, f"stranded by version {_version(deploys, job)}: {item.text}", who)
            done = "failed" if found is not None else ""
        text = f"{item.text}. {f'It was {done}' if done else _CHOICES}"
        return {
            "severity": "info" if done else "warning" if job.pinned else "error",
            "text": text,
            "job_id": job.id,
            "blueprint": job.blueprint_name,
            "status": job.status.value,
            "state": job.current_state,
            "version": job.blueprint_version or None,
            "missing": [missing.state for missing in item.missing],
            "done": done or None,
        }


def _version(deploys: Deploys, job: Job) -> str:
    known = job.blueprint_name in deploys.blueprints
    return deploys.blueprints.get(job.blueprint_name).version if known else "(without its blueprint)"
