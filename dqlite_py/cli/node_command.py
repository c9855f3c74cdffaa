"""The `dqlite-py node` command: options to a Node, served until a signal."""

from __future__ import annotations

import os
import sys
from typing import Any, Final, Literal

import click

from dqlite_py import logs
from dqlite_py.cli import allocator, descriptors
from dqlite_py.cli.exits import CommandFailed, ExitCode, explain
from dqlite_py.cli.notify import Notifier
from dqlite_py.cli.options import AddressListType, AddressType, FloatRange, tls_options, tls_settings
from dqlite_py.cli.serving import StopSignals, serve
from dqlite_py.errors import InterfaceError
from dqlite_py.model import Address
from dqlite_py.server.dqlite.settings import ServerSettings

LEAVE_S: Final = 30.0


@click.command()
@click.option(
    "--dir",
    "folder",
    required=True,
    type=click.Path(file_okay=False),
    help="Data folder; created when missing.",
)
@click.option(
    "--listen",
    required=True,
    type=AddressType(port_zero=True),
    help="Address for peers and clients (port 0: a free one).",
)
@click.option("--advertise", type=AddressType(), help="Address that others dial, when it is not --listen.")
@click.option(
    "--join",
    multiple=True,
    type=AddressListType(),
    help="Members of the cluster to join (repeat, or separate by commas). Without it a new folder starts a new "
    "cluster; a folder that has run before knows its cluster.",
)
@tls_options
@click.option("--insecure", is_flag=True, help="Allow other addresses than loopback without TLS.")
@click.option(
    "--keep-changes",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="Keep so much of every database's changes for those who follow them. Default: 64 MiB of the databases that "
    "were followed at this node.",
)
@click.option(
    "--busy-timeout",
    type=FloatRange(min=0),
    default=ServerSettings().busy_timeout_s,
    show_default=True,
    metavar="SECONDS",
    help="How long transactions of clients wait for one another before they hear that the database is locked.",
)
@click.option(
    "--drain",
    type=FloatRange(min=0, max=3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a stop waits for transactions that are open on this leader.",
)
@click.option(
    "--leave",
    is_flag=True,
    help="A stop hands over the vote first, as cluster drain does: for 30 s at most, then the node stops with it.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log-level", type=click.Choice(list(logs.LEVELS)), default="info", show_default=True)
def node(
    folder: str,
    listen: Address,
    advertise: Address | None,
    join: tuple[tuple[Address, ...], ...],
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    insecure: bool,
    keep_changes: int | None,
    busy_timeout: float,
    drain: float,
    leave: bool,
    log_format: Literal["text", "json"],
    log_level: str,
) -> None:
    """Run one node until SIGTERM or SIGINT.

    Prints a line that starts with "ready" on stdout once the node has a leader; the log goes to stderr. A service
    manager that set NOTIFY_SOCKET is told the same, and WATCHDOG_USEC is served.

    Exit codes: 0 stopped by a signal, 2 wrong usage, 3 cannot start, 4 failed while running.
    """
    members = [address for group in join for address in group]
    tls = tls_settings(tls_cert, tls_key, tls_ca)
    descriptors.raise_limit()
    allocator.give_memory_back(os.environ)
    made = _make_node(
        folder,
        listen=listen,
        join=members,
        advertise=advertise,
        tls=tls,
        insecure=insecure,
        keep_changes=keep_changes,
        clients=ServerSettings(busy_timeout_s=busy_timeout),
    )
    _check_folder(folder)
    handler = logs.configure(sys.stderr, form=log_format, level=log_level)
    notifier = Notifier.from_environment(os.environ, os.getpid())
    try:
        with StopSignals() as stop:
            serve(made, stop, sys.stdout, log_format, notifier, drain, LEAVE_S if leave else 0.0)
    finally:
        notifier.close()
        logs.unconfigure(handler)


def _make_node(folder: str, **settings: Any) -> Any:
    from dqlite_py.app import Node

    try:
        return Node(folder, **settings)
    except InterfaceError as error:
        raise click.UsageError(error.message) from None


def _check_folder(folder: str) -> None:
    """Fail before anything starts when the folder cannot be written; raises CommandFailed."""
    path = os.path.abspath(folder)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise CommandFailed(
            f"cannot start: cannot create the data folder: {explain(error)}", ExitCode.CANNOT_START
        ) from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise CommandFailed(
            f"cannot start: this user may not write to the data folder {path}: change its owner or mode, "
            "or choose another --dir",
            ExitCode.CANNOT_START,
        )
