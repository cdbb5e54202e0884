"""`avtomatika completion`: click's own completion, as a script for the shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_PROGRAM = "avtomatika"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a SHELL.

    \b
    bash:  eval "$(avtomatika completion bash)"           in ~/.bashrc
    zsh:   eval "$(avtomatika completion zsh)"            in ~/.zshrc
    fish:  avtomatika completion fish > ~/.config/fish/completions/avtomatika.fish
    """
    found = get_completion_class(shell)
    assert found is not None, "click knows the shells of the choice above"
    click.echo(found(ctx.find_root().command, {}, _PROGRAM, f"_{_PROGRAM.upper()}_COMPLETE").source())
