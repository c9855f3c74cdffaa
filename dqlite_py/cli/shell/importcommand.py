"""The dot command `.import`: rows of a CSV file into a table, in batches, with the truth about how far it came."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

import click

from dqlite_py.cli.plain import visible
from dqlite_py.cli.progress import BytesBar
from dqlite_py.cli.shell.cancel import Cancelled
from dqlite_py.errors import Error, Outcome, ProgrammingError
from dqlite_py.limits import MIB

if TYPE_CHECKING:
    from dqlite_py.cli.shell.session import Session

IMPORT_ROWS: Final = 1000  # at most, of one batch
IMPORT_BYTES: Final = 1 << 20  # about so much text
_VALUE_CHARS_MAX: Final = 128 * MIB  # the cluster's own limits on a write are below it
_USAGE: Final = "write .import [--csv|--tabs] [--skip N] [--atomic] FILE TABLE"


class _Import(NamedTuple):
    path: str
    table: str
    delimiter: str
    skip: int
    is_atomic: bool


class _Row(NamedTuple):
    """`number`: of the file's rows, empty ones and the header too, from 1."""

    number: int
    line: int
    values: list[str]


def import_(session: Session, arguments: Sequence[str]) -> None:
    """CSV rows into a table, in batches that happen whole or not at all; a table that is missing is made of the header.

    In an open transaction the batches are part of it; --atomic makes one for them. After any other failure the rows of
    the batches before it are in, and which these are is told.
    """
    wanted = _arguments(session, arguments)
    before = csv.field_size_limit(_VALUE_CHARS_MAX)
    try:
        with open(wanted.path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            done = (
                _all_or_nothing(session, wanted, file)
                if wanted.is_atomic
                else _batch_by_batch(session, wanted, file)
            )
    finally:
        csv.field_size_limit(before)
    if session.is_interactive:
        session.tell(f"{done} rows imported into {wanted.table}")


def _all_or_nothing(session: Session, wanted: _Import, file: TextIO) -> int:
    if session.transaction != "none":
        raise ProgrammingError(
            "a transaction is open, and the import would be part of it: leave out --atomic"
        )
    session.execute("BEGIN IMMEDIATE").close()
    is_committing = False
    try:
        done = _Progress(session, wanted, file).run()
        is_committing = True
        session.execute("COMMIT").close()
    except BaseException as error:
        is_unknown = is_committing and getattr(error, "outcome", Outcome.UNKNOWN) is not Outcome.NOT_APPLIED
        click.echo(f"import: {'all rows are in, or none' if is_unknown else 'no row is in'}", err=True)
        if session.transaction != "none":
            with contextlib.suppress(Error):
                session.execute("ROLLBACK").close()
        raise
    return done


def _batch_by_batch(session: Session, wanted: _Import, file: TextIO) -> int:
    progress = _Progress(session, wanted, file)
    try:
        return progress.run()
    except (Error, OSError, Cancelled, KeyboardInterrupt) as error:
        click.echo(visible(progress.told(error)), err=True)
        raise


class _Progress:
    """One import under way."""

    def __init__(self, session: Session, wanted: _Import, file: TextIO) -> None:
        self._session = session
        self._wanted = wanted
        self._file = file
        self._done = 0  # rows that are in
        self._reached = wanted.skip  # number of the last row that is in, or left out
        self._tried = 0  # number of the last row of the batch that is under way

    def run(self) -> int:
        wanted = self._wanted
        size = os.fstat(self._file.fileno()).st_size if self._file.seekable() else 0
        rows = _rows(csv.reader(self._file, delimiter=wanted.delimiter, strict=True), wanted)
        columns = self._columns(rows)
        sql = f"INSERT INTO {_quoted(wanted.table)} VALUES ({', '.join('?' * len(columns))})"
        with BytesBar() as bar:
            for batch in _batches(rows, len(columns)):
                self._session.cancel.check()
                self._tried = batch[-1].number
                self._session.write_many(sql, [row.values for row in batch])
                self._done += len(batch)
                self._reached, self._tried = self._tried, 0
                if size:
                    bar.show(wanted.table, os.lseek(self._file.fileno(), 0, os.SEEK_CUR), size)
        return self._done

    def told(self, error: BaseException) -> str:
        """Which rows are in after this."""
        if self._session.transaction == "open":
            return f"import: {self._done} rows are in the open transaction"
        if self._session.transaction == "ended":
            return "import: no row is in"
        if not self._done and not self._tried:
            return "import: no row is in"
        said = (
            f"import: {self._done} rows are in, up to row {self._reached} of the file"
            if self._done
            else "import:"
        )
        is_known = not isinstance(error, Error) or error.outcome is Outcome.NOT_APPLIED
        if not self._tried or is_known:
            return (
                f"{said}; --skip {self._reached} goes on from there" if self._done else "import: no row is in"
            )
        batch = f"all of rows {self._reached + 1} to {self._tried} are in or none: look before you go on"
        return f"{said}; {batch}" if self._done else f"{said} {batch}"

    def _columns(self, rows: Iterator[_Row]) -> list[str]:
        session, table = self._session, self._wanted.table
        found = session.connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        if found:
            return [name for (name,) in found]
        first = next(rows, None)
        if first is None:
            raise ProgrammingError(f"there is no table {table}, and no header to make it of")
        columns = ", ".join(f"{_quoted(name)} TEXT" for name in first.values)
        session.execute(f"CREATE TABLE {_quoted(table)} ({columns})").close()
        self._reached = first.number
        return first.values


def _arguments(session: Session, arguments: Sequence[str]) -> _Import:
    names: list[str] = []
    delimiter = session.look.separator or ("\t" if session.look.mode == "tabs" else ",")
    skip, is_atomic, rest = 0, False, iter(arguments)
    for word in rest:
        if word in ("--csv", "--tabs"):
            delimiter = "," if word == "--csv" else "\t"
        elif word == "--atomic":
            is_atomic = True
        elif word == "--skip":
            number = next(rest, "")
            if not (number.isascii() and number.isdecimal()) or len(number) > 18:
                raise ProgrammingError("write --skip N: so many rows at the beginning are left out")
            skip = int(number)
        else:
            names.append(word)
    if len(names) != 2 or len(delimiter) != 1:
        raise ProgrammingError(_USAGE)
    return _Import(os.path.expanduser(names[0]), names[1], delimiter, skip, is_atomic)


def _rows(reader: Any, wanted: _Import) -> Iterator[_Row]:
    try:
        for number, values in enumerate(reader, 1):
            if number > wanted.skip and values:
                "".join(values).encode()
                yield _Row(number, reader.line_num, values)
    except csv.Error as error:
        raise ProgrammingError(f"{wanted.path}, line {reader.line_num}: {error}") from None
    except UnicodeEncodeError:
        raise ProgrammingError(f"{wanted.path}, line {reader.line_num}: not UTF-8") from None


def _batches(rows: Iterator[_Row], width: int) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    size = 0
    for row in rows:
        if len(row.values) != width:
            raise ProgrammingError(f"line {row.line} has {len(row.values)} values, the table {width} columns")
        batch.append(row)
        size += sum(map(len, row.values))
        if len(batch) >= IMPORT_ROWS or size >= IMPORT_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
