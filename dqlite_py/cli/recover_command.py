"""`dqlite-py cluster recover` and `cluster rejoin`: after the majority was lost for good."""

from __future__ import annotations

import datetime

import click

from dqlite_py.cli.exits import CommandFailed, ExitCode, explain
from dqlite_py.cli.options import AddressType, tls_options, tls_settings
from dqlite_py.cli.printing import print_json
from dqlite_py.cli.progress import BytesBar
from dqlite_py.cli.remote import Remote
from dqlite_py.errors import Error
from dqlite_py.model import Address
from dqlite_py.offline import recover as recovery
from dqlite_py.offline.compare import read_reports
from dqlite_py.offline.rejoin import note_rejoin, plan_rejoin

_STATUS_S = 5.0


@click.command()
@click.option(
    "--dir", "folder", required=True, type=click.Path(file_okay=False), help="The surviving node's folder."
)
@click.option("--address", type=AddressType(), help="Where the node will be. Default: where it was.")
@click.option(
    "--compare",
    multiple=True,
    type=click.Path(dir_okay=False),
    help="Output of `dqlite-py verify --json` of another node's folder (repeat): refuses when that reaches further.",
)
@click.option("--scratch", type=click.Path(file_okay=False), help="Where databases are copied to be checked.")
@click.option("--no-databases", is_flag=True, help="Do not look into the databases: no copies, no time.")
@click.option("--dry-run", is_flag=True, help="Show what it would do; change nothing.")
@click.option(
    "--force",
    is_flag=True,
    help="Also when another folder reaches further (its newer writes are lost), a spare's, or one about to rejoin.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="As JSON (with --dry-run or --yes).")
def recover(
    folder: str,
    address: Address | None,
    compare: tuple[str, ...],
    scratch: str | None,
    no_databases: bool,
    dry_run: bool,
    force: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Make a new cluster of one stopped node's folder, when a majority of the old one is lost for good.

    Writes that only the lost nodes had are lost. Never do it while a majority can be brought back. The other surviving
    nodes join by themselves with new files, their old ones set aside; see docs/howto/disaster.md.

    Exit codes: 0 done or shown, 1 refused, 2 wrong usage, 3 the folder cannot be used.
    """
    if as_json and not (dry_run or yes):
        raise click.UsageError("--json cannot ask: add --dry-run or --yes")
    try:
        reports = read_reports(compare)
        with BytesBar(is_wanted=not as_json) as bar:
            plan = recovery.plan_recovery(
                folder,
                address=address,
                others=reports,
                force=force,
                with_databases=not no_databases,
                scratch=scratch,
                progress=bar.show,
            )
        if not as_json:
            _show(plan)
        if plan.newer and not force and not dry_run:
            raise CommandFailed(
                "refused: another folder reaches further, recover that one (or say --force): "
                + "; ".join(plan.newer)
            )
        if dry_run:
            if as_json:
                print_json({"done": False, **plan.to_wire()})
            else:
                click.echo("dry run: nothing was changed")
            return
        if not yes:
            click.confirm("Recover?", abort=True)
        done = recovery.recover(plan)
    except (Error, OSError) as error:
        raise CommandFailed(explain(error), ExitCode.CANNOT_START) from None
    if as_json:
        facts = {"done": True, "cluster_id": done.cluster_id.hex(), "set_aside": done.aside}
        print_json({**plan.to_wire(), **facts})
    else:
        click.echo(f"recovered as cluster {done.cluster_id.hex()}; the old log is in {done.aside}")
        click.echo(f"start it: dqlite-py node --dir {plan.folder} --listen {plan.address}")


def _show(plan: recovery.RecoveryPlan) -> None:
    if plan.interrupted is not None:
        click.echo(f"an interrupted recovery of {plan.folder} will be completed")
        return
    click.echo(
        f"folder       {plan.folder}, node {plan.report.node_id} ({plan.role}) of cluster {plan.report.cluster_id}"
    )
    click.echo(f"taken over   log up to index {plan.last_index} of term {plan.last_term}")
    if plan.newest_us:
        when = datetime.datetime.fromtimestamp(plan.newest_us / 1e6, datetime.UTC).isoformat(
            " ", "milliseconds"
        )
        click.echo(f"newest write {when}; what was acknowledged later is lost")
    click.echo(
        f"of these     up to {plan.certain_index} certainly committed; {plan.uncertain_count} entries behind it may "
        "not have been, and will count as committed"
    )
    for database in plan.report.databases:
        click.echo(
            f"database     {database.name}, index {database.applied_index}, {database.size_bytes} bytes"
        )
    for member in plan.others:
        click.echo(f"left out     {member['id']} at {member['address']} ({member['role']}); may join again")
    for line in plan.newer:
        click.echo(f"NEWER        {line}: recover that one, or its writes are lost")
    click.echo(f"new cluster  this node alone, at {plan.address}")


@click.command()
@click.option(
    "--dir", "folder", required=True, type=click.Path(file_okay=False), help="The stopped node's folder."
)
@click.option(
    "--join", "address", required=True, type=AddressType(), help="A running node of the recovered cluster."
)
@click.option("--dry-run", is_flag=True, help="Show what it would do; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="As JSON (with --dry-run or --yes).")
@tls_options
def rejoin(folder: str, address: Address, dry_run: bool, yes: bool, as_json: bool, **tls: str | None) -> None:
    """Give up a folder of a cluster that was recovered without it: its node joins the recovered one at its next start.

    The folder's files are set aside in it, not deleted. For a node that does not do so by itself because it may hold
    writes that the recovered cluster lacks (its log says so).

    Exit codes: 0 done or shown, 1 no answer, 2 wrong usage, 3 the folder cannot be used.
    """
    if as_json and not (dry_run or yes):
        raise click.UsageError("--json cannot ask: add --dry-run or --yes")
    remote = Remote(tls_settings(tls["tls_cert"], tls["tls_key"], tls["tls_ca"]))
    try:
        status = remote.status(address, _STATUS_S)
    except Error as error:
        raise CommandFailed(explain(error)) from None
    try:
        plan = plan_rejoin(folder, address, status)
        if not as_json:
            click.echo(
                f"at its next start, the files of cluster {plan.old.hex()} go to {folder}/{plan.aside},"
            )
            click.echo(f"and the node joins cluster {plan.new.hex()} through {address}")
        if not dry_run:
            if not yes:
                click.confirm("Note that?", abort=True)
            note_rejoin(folder, plan)
    except (Error, OSError) as error:
        raise CommandFailed(explain(error), ExitCode.CANNOT_START) from None
    if as_json:
        facts = {"old_cluster_id": plan.old.hex(), "cluster_id": plan.new.hex(), "set_aside": plan.aside}
        print_json({"done": not dry_run, "folder": folder, **facts})
    elif dry_run:
        click.echo("dry run: nothing was changed")
