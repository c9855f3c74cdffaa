"""The `dqlite-py` program: the command group. Each command lives in a module of its own."""

from __future__ import annotations

import os
from importlib import metadata

import click

from dqlite_py.cli import layers
from dqlite_py.cli.bench_command import bench
from dqlite_py.cli.cluster_command import cluster
from dqlite_py.cli.completion_command import completion
from dqlite_py.cli.demo.command import demo
from dqlite_py.cli.dump_command import dump
from dqlite_py.cli.migrate_command import migrate
from dqlite_py.cli.node_command import node
from dqlite_py.cli.restore_command import restore
from dqlite_py.cli.shell.command import shell
from dqlite_py.cli.status_command import status
from dqlite_py.cli.verify_command import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(metadata.version("dqlite-py"), prog_name="dqlite-py")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Replicated SQLite: run a node, look at a cluster, change its members.

    Every option may also come from the environment (DQLITE_PY_NODE_LISTEN, …) or from a TOML file (--config); a flag
    counts first, then the environment, then the file: docs/cli.md.
    """
    if not ctx.resilient_parsing:
        for line in layers.strange_variables(main, os.environ):
            click.echo(f"Warning: {line}", err=True)


_COMMANDS = (
    node,
    shell,
    status,
    cluster,
    migrate,
    verify,
    dump,
    restore,
    bench,
    demo,
    completion,
)
for command in _COMMANDS:
    main.add_command(command)
layers.install(main)


if __name__ == "__main__":
    main()
