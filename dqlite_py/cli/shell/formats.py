"""Rows as text, in the shell's output modes. Pure: rows in, pieces of text out, in bounded memory.

Modes and their looks follow sqlite3's shell (sqlite.org/cli.html#changing_output_formats), with these differences: a
BLOB is shown as X'…', and `json` shows an empty result as [].
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Final

from prompt_toolkit.utils import get_cwidth

from dqlite_py.cli.plain import visible

WIDTH_ROWS: Final = 500  # rows that decide how wide a table's columns are


@dataclass(frozen=True, slots=True)
class Look:
    """`separator`: None: the mode's own. `is_safe`: control characters are shown, not sent."""

    mode: str = "list"
    has_headers: bool = False
    null: str = ""
    separator: str | None = None
    is_safe: bool = False

    def with_mode(self, mode: str) -> Look:
        return replace(self, mode=ALIASES.get(mode, mode), separator=None)


Rows = Iterable[Sequence[Any]]
Formatter = Callable[[Look, Sequence[str], Rows], Iterator[str]]


def format_rows(look: Look, columns: Sequence[str], rows: Rows) -> Iterator[str]:
    """Yield the result piece by piece, newlines included."""
    return FORMATTERS[look.mode](look, columns, rows)


def text_of(value: Any, null: str = "") -> str:
    """A value as people read it."""
    if value is None:
        return null
    if isinstance(value, bytes):
        return f"X'{value.hex().upper()}'"
    if isinstance(value, float) and math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return str(value)


def _cell(look: Look, value: Any) -> str:
    text = text_of(value, look.null)
    return visible(text) if look.is_safe else text


def _with_header(look: Look, columns: Sequence[str], rows: Rows) -> Rows:
    return chain([columns], rows) if look.has_headers else rows


def _list(look: Look, columns: Sequence[str], rows: Rows) -> Iterator[str]:
    separator = "|" if look.separator is None else look.separator
    for row in _with_header(look, columns, rows):
        yield separator.join(_cell(look, value) for value in row) + "\n"


def _tabs(look: Look, columns: Sequence[str], rows: Rows) -> Iterator[str]:
    return _list(replace(look, separator="\t" if look.separator is None else look.separator), columns, rows)


def _csv(look: Look, columns: Sequence[str], rows: Rows) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="," if look.separator is None else look.separator)
    for row in _with_header(look, columns, rows):
        writer.writerow([_cell(look, value) for value in row])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _json(_look: Look, columns: Sequence[str], rows: Rows) -> Iterator[str]:
    before = "["
    for row in rows:
        pairs = ",".join(
            f"{json.dumps(name)}:{_json_value(value)}" for name, value in zip(columns, row, strict=True)
        )
        yield f"{before}{{{pairs}}}"
        before = ",\n"
    yield "[]\n" if before == "[" else "]\n"


def _json_value(value: Any) -> str:
    if isinstance(value, bytes):
        return json.dumps(value.hex())
    if isinstance(value, float) and math.isinf(value):
        return "9e999" if value > 0 else "-9e999"  # valid JSON that reads as infinity
    return json.dumps(value)


def _line(look: Look, columns: Sequence[str], rows: Rows) -> Iterator[str]:
    """One value per line: a row at a time, upright."""
    width = max((get_cwidth(name) for name in columns), default=0)
    for number, row in enumerate(rows):
        pairs = [
            f"{_pad(visible(name), width, right=True)} = {_cell(look, value)}\n"
            for name, value in zip(columns, row, strict=True)
        ]
        yield ("\n" if number else "") + "".join(pairs)


def _quote(look: Look, columns: Sequence[str], rows: Rows) -> Iterator[str]:
    separator = "," if look.separator is None else look.separator
    for row in _with_header(look, columns, rows):
        line = separator.join(map(_literal, row))
        yield (visible(line) if look.is_safe else line) + "\n"


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float) and math.isinf(value):
        return "9.0e+999" if value > 0 else "-9.0e+999"
    return text_of(value)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Left, fill, cross and right of the lines above, below the header and below; '' leaves one out."""

    top: str
    middle: str
    bottom: str


_FRAMES: Final = {
    "table": _Frame("+-++", "+-++", "+-++"),
    "box": _Frame("┌─┬┐", "├─┼┤", "└─┴┘"),
    "markdown": _Frame("", "|-||", ""),
    "column": _Frame("", " -  ", ""),
}


def _framed(look: Look, columns: Sequence[str], rows: Rows) -> Iterator[str]:
    """Columns as wide as the first rows need; what is wider later stands out."""
    frame, rest = _FRAMES[look.mode], iter(rows)
    header = [visible(name) for name in columns]
    first: list[Sequence[Any]] = [*islice(rest, WIDTH_ROWS)]
    widths = [get_cwidth(name) for name in header]
    for row in first:
        for position, value in enumerate(row):
            widths[position] = max(widths[position], get_cwidth(_shown(look, value)))
    has_header = look.has_headers or look.mode != "column"
    if frame.top:
        yield _rule(frame.top, widths)
    if has_header:
        yield _row(look, header, widths)
        yield _rule(frame.middle, widths)
    for row in chain(first, rest):
        yield _row(look, row, widths)
    if frame.bottom:
        yield _rule(frame.bottom, widths)


def _shown(look: Look, value: Any) -> str:
    text = visible(text_of(value, look.null))
    return text.replace("|", "\\|") if look.mode == "markdown" else text


def _row(look: Look, row: Sequence[Any], widths: Sequence[int]) -> str:
    cells = [
        _pad(_shown(look, value), width, right=isinstance(value, (int, float)))
        for value, width in zip(row, widths, strict=True)
    ]
    if look.mode == "column":
        return "  ".join(cells).rstrip() + "\n"
    bar = "│" if look.mode == "box" else "|"
    return f"{bar} " + f" {bar} ".join(cells) + f" {bar}\n"


def _rule(marks: str, widths: Sequence[int]) -> str:
    left, fill, cross, right = tuple(marks)
    if left == " ":
        return "  ".join(fill * width for width in widths) + "\n"
    return left + cross.join(fill * (width + 2) for width in widths) + right + "\n"


def _pad(text: str, width: int, *, right: bool = False) -> str:
    blanks = " " * max(0, width - get_cwidth(text))
    return blanks + text if right else text + blanks


FORMATTERS: Final[dict[str, Formatter]] = {
    "box": _framed,
    "column": _framed,
    "csv": _csv,
    "json": _json,
    "line": _line,
    "list": _list,
    "markdown": _framed,
    "quote": _quote,
    "table": _framed,
    "tabs": _tabs,
}
ALIASES: Final = {"vertical": "line", "columns": "column", "lines": "line"}
MODES: Final = (*FORMATTERS, "vertical")
