"""Rows as text: each mode, wide and dangerous values, and memory that is bounded."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqlite_py.cli.shell.formats import FORMATTERS, WIDTH_ROWS, Look, format_rows, visible

COLUMNS = ["id", "name"]
ROWS: list[tuple[Any, ...]] = [(1, "Ann"), (22, None), (3, b"\x00\xff")]


def shown(mode: str, rows: list[tuple[Any, ...]] = ROWS, **look: Any) -> str:
    return "".join(format_rows(Look(mode, **look), COLUMNS, rows))


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("list", "1|Ann\n22|\n3|X'00FF'\n"),
        ("tabs", "1\tAnn\n22\t\n3\tX'00FF'\n"),
        ("csv", "1,Ann\r\n22,\r\n3,X'00FF'\r\n"),
        ("json", '[{"id":1,"name":"Ann"},\n{"id":22,"name":null},\n{"id":3,"name":"00ff"}]\n'),
        ("line", "  id = 1\nname = Ann\n\n  id = 22\nname = \n\n  id = 3\nname = X'00FF'\n"),
        ("quote", "1,'Ann'\n22,NULL\n3,X'00FF'\n"),
        ("column", " 1  Ann\n22\n 3  X'00FF'\n"),
        (
            "table",
            "+----+---------+\n| id | name    |\n+----+---------+\n|  1 | Ann     |\n| 22 |         |\n"
            "|  3 | X'00FF' |\n+----+---------+\n",
        ),
        (
            "markdown",
            "| id | name    |\n|----|---------|\n|  1 | Ann     |\n| 22 |         |\n|  3 | X'00FF' |\n",
        ),
    ],
)
def test_modes(mode: str, text: str) -> None:
    assert shown(mode) == text


@pytest.mark.parametrize(
    ("mode", "head"), [("list", "id|name\n"), ("csv", "id,name\r\n"), ("quote", "'id','name'\n")]
)
def test_headers(mode: str, head: str) -> None:
    assert shown(mode, has_headers=True) == head + shown(mode)


def test_a_separator_and_a_word_for_null() -> None:
    assert shown("list", separator=" ; ", null="NIL").splitlines()[1] == "22 ; NIL"


def test_wide_characters_take_two_columns() -> None:
    lines = shown("box", [(1, "日本"), (2, "abcd")]).splitlines()
    assert lines[3] == "│  1 │ 日本 │"
    assert lines[4] == "│  2 │ abcd │"


def test_nothing_found() -> None:
    assert shown("json", []) == "[]\n"
    assert shown("list", []) == ""
    assert shown("line", []) == ""


def test_a_value_cannot_drive_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\nnext"
    for mode in ("box", "table", "markdown", "column"):
        assert "\x1b" not in shown(mode, [(1, evil)])
    assert "\x1b" not in shown("list", [(1, evil)], is_safe=True)
    assert visible(evil) == "\\x1b]0;owned\\x07\\nnext"
    assert shown("list", [(1, evil)]) == f"1|{evil}\n"  # into a file as it is


def test_infinity_is_valid_json_and_sql() -> None:
    assert json.loads(shown("json", [(1, math.inf)]))[0]["name"] == math.inf
    assert shown("quote", [(1, -math.inf)]) == "1,-9.0e+999\n"


@pytest.mark.parametrize("mode", FORMATTERS)
def test_a_large_result_is_not_held(mode: str) -> None:
    taken = 0

    def rows() -> Iterator[tuple[Any, ...]]:
        nonlocal taken
        while True:
            taken += 1
            yield (taken, "x")

    assert len(list(islice(format_rows(Look(mode), COLUMNS, rows()), 50))) == 50
    assert taken <= WIDTH_ROWS + 50


values = st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())


@given(st.lists(st.tuples(values, values), max_size=5))
def test_json_and_csv_are_read_back(rows: list[tuple[Any, ...]]) -> None:
    found = json.loads(shown("json", rows))
    assert [list(row.values()) for row in found] == [
        [value.hex() if isinstance(value, bytes) else value for value in row] for row in rows
    ]
    text = shown("csv", rows, null="NULL")
    assert len(list(csv.reader(io.StringIO(text, newline="")))) == len(rows)


@given(st.text())
def test_what_is_visible_has_no_control_characters(text: str) -> None:
    assert visible(text).isprintable()


def test_a_modes_separator_does_not_stay() -> None:
    look = replace(Look(), separator="~").with_mode("vertical")
    assert (look.mode, look.separator) == ("line", None)
