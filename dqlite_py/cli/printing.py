"""Tables on stdout: framed and coloured on a terminal, plain columns elsewhere, or JSON."""

from __future__ import annotations

import json
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dqlite_py.cli.cluster_view import Table, plain_lines

_STYLES: Final = {
    "leader": "bold green",
    "ok": "green",
    "unreachable": "bold red",
    "DIFFERS": "bold red",
    "candidate": "yellow",
    "none known": "bold red",
}


def print_table(table: Table) -> None:
    console = Console(highlight=False)
    if not console.is_terminal or framed_width(table) > console.width:
        for line in plain_lines(table):
            click.echo(line)
        return
    console.print(framed(table))


def framed(table: Table) -> RichTable:
    """The table as rich shows it."""
    shown = RichTable(title=table.title, title_justify="left", header_style="bold")
    for name in table.header:
        shown.add_column(name, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return shown


def framed_width(table: Table) -> int:
    """Columns of a terminal that the framed table fills; in a narrower one, cells would be cut up."""
    columns = zip(table.header, *table.rows, strict=True)
    return 1 + sum(3 + max(map(len, column)) for column in columns)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=plain_value))


def plain_value(value: Any) -> Any:
    """For json.dumps: what JSON has no form for."""
    return value.hex() if isinstance(value, bytes) else str(value)
