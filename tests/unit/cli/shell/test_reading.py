"""Input taken apart: where statements and dot commands begin and end."""

from __future__ import annotations

import pytest

from dqlite_py.cli.shell.reading import is_entered, lines_of, pieces, words
from dqlite_py.errors import ProgrammingError


def read(text: str) -> list[tuple[str, int]]:
    return [tuple(piece) for piece in pieces(lines_of(text))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SELECT 1;", [("SELECT 1;", 1)]),
        ("SELECT 1", [("SELECT 1", 1)]),
        ("SELECT 1; SELECT\n2;\n\nSELECT 3;", [("SELECT 1;", 1), ("SELECT\n2;", 1), ("SELECT 3;", 4)]),
        (".mode csv\nSELECT 1;\n.quit", [(".mode csv", 1), ("SELECT 1;", 2), (".quit", 3)]),
        ("SELECT '\n.mode csv\n;';", [("SELECT '\n.mode csv\n;';", 1)]),
        ("-- a note\n.tables", [(".tables", 2)]),
        ("SELECT 1\ngo\nSELECT 2\n/\n", [("SELECT 1\n;", 1), ("SELECT 2\n;", 3)]),
        (
            "CREATE TRIGGER x AFTER INSERT ON t BEGIN\nDELETE FROM u;\nEND;\nSELECT 1;",
            [("CREATE TRIGGER x AFTER INSERT ON t BEGIN\nDELETE FROM u;\nEND;", 1), ("SELECT 1;", 4)],
        ),
        ("\n \n;\n", []),
        ("SELECT 'on\ngo\n/\n';", [("SELECT 'on\ngo\n/\n';", 1)]),
        ("SELECT 'a\u2028b\x0cc\rd';", [("SELECT 'a\u2028b\x0cc\rd';", 1)]),
        ("# a note; really\nSELECT 1;", [("SELECT 1;", 2)]),
        ("\ufeff.tables", [(".tables", 1)]),
        (
            "SELECT '\udcff';\nSELECT '\0';\nSELECT 1",
            [("SELECT '\udcff';", 1), ("SELECT '\0';", 2), ("SELECT 1", 3)],
        ),
        ("SELECT 1; -- end\n.tables", [("SELECT 1;", 1), (".tables", 2)]),
    ],
)
def test_pieces(text: str, found: list[tuple[str, int]]) -> None:
    assert read(text) == found


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("", True),
        (".tab", True),
        ("SELECT 1", False),
        ("SELECT 1;", True),
        ("SELECT ';", False),
        ("  ", True),
    ],
)
def test_what_may_be_run(text: str, is_whole: bool) -> None:
    assert is_entered(text) is is_whole


def test_words() -> None:
    assert words("'a b' c ''") == ["a b", "c", ""]
    assert words("\\t #x") == ["\\t", "#x"]
    with pytest.raises(ProgrammingError, match="quotation"):
        words("'a")
