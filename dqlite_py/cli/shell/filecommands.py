"""Dot commands about files: output, scripts, CSV in, SQL out."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dqlite_py.cli.progress import BytesBar
from dqlite_py.errors import Error, ProgrammingError

if TYPE_CHECKING:
    from dqlite_py.cli.shell.session import Session

IMPORT_ROWS: Final = 1000  # at most, of one batch
IMPORT_BYTES: Final = 1 << 20  # about so much text
READ_DEPTH_MAX: Final = 16


def output(session: Session, arguments: Sequence[str]) -> None:
    session.output.to(arguments[0] if arguments else "")


def once(session: Session, arguments: Sequence[str]) -> None:
    session.output.to(arguments[0], once=True)


def read(session: Session, arguments: Sequence[str]) -> None:
    """Run a file; with .bail on it stops at the first error."""
    session.read_depth += 1
    try:
        if session.read_depth > READ_DEPTH_MAX:
            raise ProgrammingError(f"files that read files, {READ_DEPTH_MAX} deep: is it a circle?")
        with Path(arguments[0]).expanduser().open(encoding="utf-8") as file:
            session.run_lines(file)
    finally:
        session.read_depth -= 1


def dump(session: Session, arguments: Sequence[str]) -> None:
    """The whole database of one state, or one table of it, as SQL that makes it anew."""
    table = arguments[0] if arguments else None
    lines = session.connection.iterdump()
    try:
        with session.cancel.watching(session.connection.interrupt):
            for line in lines:
                if table is None or _is_of(line, table):
                    session.output.write([line, "\n"])
                session.cancel.check()
    finally:
        lines.close()


def _is_of(line: str, table: str) -> bool:
    if line in ("BEGIN TRANSACTION;", "COMMIT;"):
        return True
    head = line[: 2 * len(table) + 200].replace('"', " ").replace("'", " ").replace("(", " ").lower().split()
    wanted = table.lower()
    if head[:2] == ["insert", "into"]:
        return head[2] == wanted
    return head[:1] == ["create"] and wanted in head[1:8]


class _Import(NamedTuple):
    """`.import [--csv|--tabs] [--skip N] FILE TABLE`."""

    path: Path
    table: str
    delimiter: str
    skip: int


def import_(session: Session, arguments: Sequence[str]) -> None:
    """CSV rows into a table, in batches that happen whole or not at all; a table that is missing is made of the header.

    In an open transaction the batches are part of it. After an error the rows of the batches before it are in.
    """
    wanted = _import_arguments(session, arguments)
    size = os.path.getsize(wanted.path)
    done = 0
    with wanted.path.open(encoding="utf-8-sig", newline="") as file, BytesBar() as bar:
        rows = _csv_rows(csv.reader(file, delimiter=wanted.delimiter, strict=True), wanted)
        columns = _columns(session, wanted.table)
        if not columns:
            columns = _make_table(session, wanted.table, rows)
        sql = f"INSERT INTO {_quoted(wanted.table)} VALUES ({', '.join('?' * len(columns))})"
        try:
            for batch in _batches(rows, len(columns)):
                session.cancel.check()
                session.write_many(sql, batch)
                done += len(batch)
                bar.show(wanted.table, os.lseek(file.fileno(), 0, os.SEEK_CUR), size)
        except Error as error:
            error.message = (
                f"{error.message} (rows before this batch of at most {IMPORT_ROWS}: {done} are in)"
            )
            raise
    if session.is_interactive:
        session.tell(f"{done} rows imported into {wanted.table}")


def _import_arguments(session: Session, arguments: Sequence[str]) -> _Import:
    names: list[str] = []
    delimiter = session.look.separator or ("\t" if session.look.mode == "tabs" else ",")
    skip, rest = 0, iter(arguments)
    for word in rest:
        if word in ("--csv", "--tabs"):
            delimiter = "," if word == "--csv" else "\t"
        elif word == "--skip":
            number = next(rest, "")
            if not number.isdecimal():
                raise ProgrammingError("write --skip N: so many rows at the beginning are left out")
            skip = int(number)
        else:
            names.append(word)
    if len(names) != 2 or len(delimiter) != 1:
        raise ProgrammingError("write .import [--csv|--tabs] [--skip N] FILE TABLE")
    return _Import(Path(names[0]).expanduser(), names[1], delimiter, skip)


def _csv_rows(reader: Any, wanted: _Import) -> Iterator[tuple[int, list[str]]]:
    """(line of the file, values)."""
    try:
        for number, row in enumerate(reader):
            if number >= wanted.skip and row:
                yield reader.line_num, row
    except csv.Error as error:
        raise ProgrammingError(f"{wanted.path}, line {reader.line_num}: {error}") from None


def _columns(session: Session, table: str) -> list[str]:
    found = session.connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
    return [name for (name,) in found]


def _make_table(session: Session, table: str, rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    first = next(rows, None)
    if first is None:
        raise ProgrammingError(f"there is no table {table}, and no header to make it of")
    columns = ", ".join(f"{_quoted(name)} TEXT" for name in first[1])
    session.execute(f"CREATE TABLE {_quoted(table)} ({columns})").close()
    return first[1]


def _batches(rows: Iterator[tuple[int, list[str]]], width: int) -> Iterator[list[list[str]]]:
    batch: list[list[str]] = []
    size = 0
    for line, row in rows:
        if len(row) != width:
            raise ProgrammingError(f"line {line} has {len(row)} values, the table {width} columns")
        batch.append(row)
        size += sum(map(len, row))
        if len(batch) >= IMPORT_ROWS or size >= IMPORT_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
