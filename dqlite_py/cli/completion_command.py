"""The `dqlite-py completion` command: the script by which a shell completes commands and options."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

_PROGRAM: Final = "dqlite-py"
_VARIABLE: Final = "_DQLITE_PY_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete this program's commands and options.

    \b
    bash   eval "$(dqlite-py completion bash)"               in ~/.bashrc
    zsh    eval "$(dqlite-py completion zsh)"                in ~/.zshrc
    fish   dqlite-py completion fish > ~/.config/fish/completions/dqlite-py.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(found(ctx.find_root().command, {}, _PROGRAM, _VARIABLE).source())
