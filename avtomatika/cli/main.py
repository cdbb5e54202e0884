"""The command `avtomatika`. Each subcommand's module is imported when it is called, so that `--help` stays quick."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from avtomatika import __version__
from avtomatika.errors import AvtomatikaError, BadRequestError, BlueprintError, ConfigurationError, NotAllowedError

_COMMANDS = {
    "up": ("avtomatika.cli.up:up", "Run everything on this machine: Redis, orchestrator, workers, facade."),
    "demo": ("avtomatika.cli.demo:demo", "Run a real blueprint on real images and show how it goes."),
    "server": ("avtomatika.cli.server:server", "Run the HTTP facade."),
    "doctor": ("avtomatika.cli.doctor:doctor", "Check the set-up and say what to mend."),
    "blueprint": ("avtomatika.cli.blueprint:blueprint", "List, check and draw blueprints."),
    "job": ("avtomatika.cli.job:job", "Submit, watch, list, cancel, pause and retry jobs."),
    "queue": ("avtomatika.cli.queue:queue", "Push, watch and steer remote work: commands, transfers, images, clusters."),
    "quarantine": ("avtomatika.cli.quarantine:quarantine", "List quarantined jobs and try them again."),
    "schedule": ("avtomatika.cli.schedule:schedule", "List, pause, resume and trigger schedules."),
    "history": ("avtomatika.cli.history:history", "Verify the history in SQL, count what is in it."),
    "db": ("avtomatika.cli.db:db", "Make and upgrade the tables of the history."),
    "worker": ("avtomatika.cli.worker:worker", "List workers, or run one over HTTP."),
    "audit": ("avtomatika.cli.audit:audit", "Verify the audit of operations."),
    "token": ("avtomatika.cli.token:token", "Make tokens for clients and workers."),
    "completion": ("avtomatika.cli.completion:completion", "Print a script that completes commands in your shell."),
}
#: The call or the set-up does not fit, rather than the work.
_MISFITS = (ConfigurationError, BlueprintError, BadRequestError, NotAllowedError)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AvtomatikaError as exc:
            raise CommandError(str(exc), 2 if isinstance(exc, _MISFITS) else 1) from exc


class CommandError(click.ClickException):
    """Shown as `Error: …`; `exit_code` is 1 where the work failed or was not found, 2 where the call or the set-up is wrong."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it on the class and reads it off the instance


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="avtomatika")
def main() -> None:
    """Blueprints on Celery: processes as state machines, run by workers that pull."""
