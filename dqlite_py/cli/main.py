"""The `dqlite-py` program: the command group. Each command lives in a module of its own."""

from __future__ import annotations

from importlib import metadata

import click

from dqlite_py.cli.cluster_command import cluster
from dqlite_py.cli.demo.command import demo
from dqlite_py.cli.dump_command import dump
from dqlite_py.cli.migrate_command import migrate
from dqlite_py.cli.node_command import node
from dqlite_py.cli.status_command import status
from dqlite_py.cli.verify_command import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(metadata.version("dqlite-py"), prog_name="dqlite-py")
def main() -> None:
    """Replicated SQLite: run a node, look at a cluster, change its members."""


for command in (node, status, cluster, migrate, verify, dump, demo):
    main.add_command(command)


if __name__ == "__main__":
    main()
