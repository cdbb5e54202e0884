"""`avtomatika token`: tokens for clients.toml and workers.toml."""

from __future__ import annotations

import json

import click

from avtomatika.cli.main import CommandError
from avtomatika.cli.output import json_option, show_json
from avtomatika.tokens import fresh_token, stored_form


@click.group()
def token() -> None:
    """Make tokens for clients and workers."""


@token.command()
@click.option("--client", metavar="NAME", help="The lines for clients.toml.")
@click.option("--worker", metavar="ID", help="The lines for workers.toml.")
@click.option("--admin", is_flag=True, help="The client sees all jobs.")
@json_option
def new(client: str | None, worker: str | None, admin: bool, as_json: bool) -> None:
    """Print a fresh token, once, and the lines to paste into a file: they hold its hash only."""
    if client is not None and worker is not None:
        raise CommandError("a token is a client's or a worker's: give --client or --worker, not both", 2)
    if worker is not None and admin:
        raise CommandError("only a client is an admin: give --client instead of --worker, or leave --admin out", 2)
    name = (worker if worker is not None else client or "name").strip()
    if not 0 < len(name) <= 200 or not name.isprintable():
        raise CommandError("a name has 1 to 200 printable characters", 2)
    secret = fresh_token()
    file = "workers.toml" if worker is not None else "clients.toml"
    lines = f'[{_key(name)}]\ntoken = "{stored_form(secret)}"\n' + ("admin = true\n" if admin else "")
    if as_json:
        show_json({"token": secret, "stored": stored_form(secret), "file": file, "toml": lines})
        return
    click.echo(
        f"{secret}\n\n# The token above is shown this once. Paste these lines into {file}: they hold its hash only.\n{lines}",
        nl=False,
    )


def _key(name: str) -> str:
    """A name as TOML has it; JSON's strings are TOML's, too."""
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else json.dumps(name)
