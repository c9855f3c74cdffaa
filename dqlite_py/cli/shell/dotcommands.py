"""The shell's dot commands: their names, what they take, and what they do. Those of the cluster: clustercommands."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dqlite_py.cli.shell import (
    clustercommands,
    filecommands,
    importcommand,
    schemacommands,
    settingcommands,
    stockcommands,
)
from dqlite_py.cli.shell.formats import MODES
from dqlite_py.cli.shell.reading import words
from dqlite_py.errors import ProgrammingError

if TYPE_CHECKING:
    from dqlite_py.cli.shell.session import Session

Handler = Callable[["Session", Sequence[str]], None]


class DotCommand(NamedTuple):
    """`takes`: its arguments, as the help shows them; `least`, `most`: how many, None: any number."""

    name: str
    takes: str
    does: str
    handler: Handler
    least: int = 0
    most: int | None = 0


def _quit(session: Session, _arguments: Sequence[str]) -> None:
    session.is_done = True


def _help(session: Session, arguments: Sequence[str]) -> None:
    wanted = arguments[0].lstrip(".") if arguments else ""
    found = [command for command in COMMANDS.values() if command.name.startswith(wanted)]
    width = max((len(f".{c.name} {c.takes}") for c in found), default=0)
    for command in found:
        session.tell(f"{f'.{command.name} {command.takes}'.ljust(width)}  {command.does}")
    if not found:
        raise ProgrammingError(_unknown(wanted))


_ALL: Final = (
    DotCommand("add", "ADDRESS", "add the running node at ADDRESS again", clustercommands.add, 1, 1),
    DotCommand("assign", "MEMBER ROLE", "make it voter, standby or spare", clustercommands.assign, 2, 2),
    DotCommand("bail", "on|off", "stop at the first error", settingcommands.bail, 1, 1),
    DotCommand("cluster", "", "members, roles and how far they are", clustercommands.cluster),
    DotCommand("consistency", "[LEVEL [SECONDS]]", "how fresh reads are: linearizable, leader, session, stale",
               settingcommands.consistency, 0, 2),
    DotCommand("databases", "", "databases of the cluster", clustercommands.databases),
    DotCommand("describe", "[MEMBER]", "all that a node says of itself", clustercommands.describe, 0, 1),
    DotCommand("dump", "[TABLE]", "the database, or tables whose name is LIKE it, as SQL", filecommands.dump, 0, 1),
    DotCommand("exit", "", "end the shell", _quit),
    DotCommand("headers", "on|off", "column names above the rows", settingcommands.headers, 1, 1),
    DotCommand("help", "[NAME]", "this list", _help, 0, 1),
    DotCommand("import", "FILE TABLE", "rows of a CSV file into a table, made where it is missing",
               importcommand.import_, 2, None),
    DotCommand("indexes", "[TABLE]", "names of indexes", schemacommands.indexes, 0, 1),
    DotCommand("leader", "", "who leads", clustercommands.leader),
    DotCommand("mode", "[MODE]", f"how rows look: {', '.join(MODES)}", settingcommands.mode, 0, 1),
    DotCommand("nullvalue", "TEXT", "what stands for NULL", settingcommands.nullvalue, 1, 1),
    DotCommand("once", "FILE", "the next result into a file", filecommands.once, 1, 1),
    DotCommand("open", "NAME", "use another database", settingcommands.open_, 1, 1),
    DotCommand("output", "[FILE]", "results into a file; without one to stdout again", filecommands.output, 0, 1),
    DotCommand("quit", "", "end the shell", _quit),
    DotCommand("read", "FILE", "run SQL and commands of a file", filecommands.read, 1, 1),
    DotCommand("remove", "MEMBER", "remove a member", clustercommands.remove, 1, 1),
    DotCommand("resolve", "", "ask what became of a write whose outcome is unknown", settingcommands.resolve),
    DotCommand("schema", "[TABLE]", "CREATE statements", schemacommands.schema, 0, 1),
    DotCommand("separator", "TEXT", "what stands between values (list, csv, tabs, quote)",
               settingcommands.separator, 1, 1),
    DotCommand("show", "", "the settings", settingcommands.show),
    DotCommand("tables", "[PATTERN]", "names of tables and views", schemacommands.tables, 0, 1),
    DotCommand("timeout", "SECONDS", "how long a statement may take", settingcommands.timeout, 1, 1),
    DotCommand("timer", "on|off", "tell how long statements take", settingcommands.timer, 1, 1),
    DotCommand("transfer", "[MEMBER]", "hand leadership over", clustercommands.transfer, 0, 1),
    DotCommand("watch", "[SECONDS] SQL", "run a query again and again, until Ctrl-C", settingcommands.watch, 1, None),
    DotCommand("weight", "MEMBER N", "of several members, the lightest gets a role", clustercommands.weight, 2, 2),
)  # fmt: skip
_CLUSTER: Final = frozenset(
    command.name for command in _ALL if command.handler.__module__ == clustercommands.__name__
)
COMMANDS: Final[dict[str, DotCommand]] = {command.name: command for command in _ALL}


def find(name: str) -> DotCommand:
    """By its name, or the beginning of one that is the only such. Raises ProgrammingError."""
    if name in COMMANDS:
        return COMMANDS[name]
    found = [command for command in COMMANDS.values() if name and command.name.startswith(name)]
    if len(found) != 1:
        raise ProgrammingError(_unknown(name))
    return found[0]


def run_command(session: Session, text: str) -> None:
    """Run a dot command's line. Raises errors.Error, CommandFailed or OSError."""
    name, _, rest = text[1:].partition(" ")
    command = find(name.rstrip(";").lower())
    if command.name == "watch":  # its SQL keeps its quotes
        arguments: list[Any] = rest.split(maxsplit=1)
    else:
        arguments = words(rest.rstrip(";") if not rest.rstrip().endswith(("'", '"')) else rest)
    if len(arguments) < command.least or (command.most is not None and len(arguments) > command.most):
        raise ProgrammingError(f"write .{command.name} {command.takes}".rstrip())
    if command.name in _CLUSTER and stockcommands.are_stock(session):
        stockcommands.run(session, command.name, arguments)
    else:
        command.handler(session, arguments)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.6)
    hint = f"did you mean .{near[0]}?" if near else ".help lists them"
    return f"there is no command .{name}: {hint}"
