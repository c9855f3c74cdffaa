"""The `dqlite-py verify` command: is a data folder whole?"""

from __future__ import annotations

import click

from dqlite_py.cli.exits import CommandFailed, ExitCode, explain
from dqlite_py.cli.printing import print_json
from dqlite_py.cli.progress import BytesBar
from dqlite_py.errors import Error
from dqlite_py.offline.report import FolderReport, Severity
from dqlite_py.offline.verify import verify_folder


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option(
    "--scratch",
    type=click.Path(file_okay=False),
    help="Where the databases are copied to be checked. Default: beside DIR.",
)
@click.option("--quick", is_flag=True, help="Do not compare every index with its table.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def verify(folder: str, scratch: str | None, quick: bool, as_json: bool) -> None:
    """Check the data folder DIR of a node that does not run, and change nothing in it.

    Identity, term and vote, every record of the log, the snapshot's manifest, every database (SQLite's integrity check
    and the state hash), and whether they belong together. All damage is named, not only the first.

    Exit codes: 0 sound, 1 damaged, 2 wrong usage, 3 could not look (in use, no data folder, unknown format).
    """
    try:
        with BytesBar(is_wanted=not as_json) as bar:
            report = verify_folder(folder, scratch=scratch, quick=quick, progress=bar.show)
    except (Error, OSError) as error:
        raise CommandFailed(f"cannot look: {explain(error)}", ExitCode.CANNOT_START) from None
    if as_json:
        print_json(report.to_wire())
    else:
        _print(report)
    if not report.is_sound:
        raise click.exceptions.Exit(int(ExitCode.FAILED))


def _print(report: FolderReport) -> None:
    click.echo(f"folder    {report.folder}")
    if report.cluster_id is not None:
        click.echo(f"node      {report.node_id} of cluster {report.cluster_id}")
    if report.term is not None:
        voted = report.voted_for or "nobody"
        click.echo(f"term      {report.term}, voted for {voted}")
    if report.last_index is not None:
        click.echo(f"log       {report.first_index} to {report.last_index}, last term {report.last_term}")
    if report.snapshot_index is not None:
        click.echo(f"snapshot  {report.snapshot_index}, term {report.snapshot_term}")
    for member in report.members:
        click.echo(f"member    {member['id']} {member['address']} {member['role']}")
    for database in report.databases:
        known = {True: "as it should be", False: "WRONG", None: "nothing here to compare it with"}
        click.echo(
            f"database  {database.name}: index {database.applied_index}, {database.size_bytes} bytes, state hash "
            f"{database.state_hash or 'unknown'} ({known[database.matches]})"
        )
    for finding in report.findings:
        line = f"{finding.severity.upper() if finding.severity is Severity.DAMAGE else finding.severity}: "
        click.echo(f"{line}{finding.part}: {finding.message}")
    click.echo("sound" if report.is_sound else "DAMAGED")
