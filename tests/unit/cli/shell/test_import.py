"""`.import`: what is in after it, whatever happened."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dqlite_py.cli.shell import importcommand
from tests.unit.cli.shell.shells import shell

TABLE = "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);INSERT INTO t VALUES (1,'x'),(2,NULL);"


def test_import_into_a_table_that_is_made(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('\ufeffname,"a ""b"""\nAnn,"x\ny"\n\n,2\n', encoding="utf-8")
    with shell(look=None) as one:
        one.run(f".import {file} people")
        assert one.run('SELECT quote(name), quote("a ""b""") FROM people') == "'Ann'|'x\ny'\n''|'2'\n"
        one.run(f".import --skip 1 {file} people")
        assert one.run("SELECT count(*) FROM people") == "4\n"


def test_import_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importcommand, "IMPORT_ROWS", 2)
    file = tmp_path / "rows.tsv"
    file.write_text("1\ta\n2\tb\n3\tc\n3\td\n5\te\n")
    with shell() as one:
        one.run("CREATE TABLE t(a INTEGER PRIMARY KEY, b);")
        one.run(f".import --tabs {file} t")
        assert "import: 2 rows are in, up to row 2 of the file; --skip 2 goes on" in capsys.readouterr().err
        assert one.run("SELECT group_concat(a) FROM t") == "1,2\n"
        one.run(f"DELETE FROM t; BEGIN;\n.import --tabs {file} t\nROLLBACK; SELECT count(*) FROM t;")
        assert one.session.transaction == "none"
        assert "import: 2 rows are in the open transaction" in capsys.readouterr().err
        one.run(f"DELETE FROM t;\n.import --tabs --atomic {file} t")
        assert one.run("SELECT count(*) FROM t") == "0\n"
        assert one.session.transaction == "none"
        assert "import: no row is in" in capsys.readouterr().err
        one.run(f".import --tabs --atomic --skip 3 {file} t")
        assert one.run("SELECT group_concat(a) FROM t") == "3,5\n"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("1,a\n2,b\n3,c,x\n", "import: 2 rows are in, up to row 2 of the file; --skip 2 goes on from there"),
        ("1,a\n2,b\n3,\xff\n", "import: 2 rows are in, up to row 2 of the file; --skip 2 goes on from there"),
        ("1,a\n1,b\n", "import: no row is in"),
    ],
)
def test_an_import_that_fails_tells_which_rows_are_in(
    rows: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importcommand, "IMPORT_ROWS", 2)
    file = tmp_path / "rows.csv"
    file.write_text(rows, encoding="latin-1")
    with shell() as one:
        one.run(f"CREATE TABLE t(a INTEGER PRIMARY KEY, b);\n.import {file} t")
        assert one.session.failures == 1
    assert said in capsys.readouterr().err


def test_an_import_whose_last_batch_is_unknown_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("1\n2\n")
    with shell() as one:
        one.run("CREATE TABLE t(a INTEGER PRIMARY KEY);")
        one.gateway.next_write = "lost"
        one.run(f".import {file} t")
    assert "import: all of rows 1 to 2 are in or none: look before you go on" in capsys.readouterr().err


def test_an_import_from_a_pipe_and_of_a_long_value(tmp_path: Path) -> None:
    pipe, many = tmp_path / "pipe", "".join(f"{number}\n" for number in range(3000))
    os.mkfifo(pipe)
    (tmp_path / "long.csv").write_text("y" * 300_000)
    with shell() as one, ThreadPoolExecutor(1) as writer:
        one.run("CREATE TABLE t(a);")
        written = writer.submit(pipe.write_text, many)
        one.run(f".import {pipe} t")
        written.result()
        one.run(f".import {tmp_path / 'long.csv'} t")
        assert one.session.failures == 0
        assert one.run("SELECT count(*), max(length(a)) FROM t") == "3001|300000\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1,2,3\n", "line 1 has 3 values, the table 2 columns"),
        ('1,2\n3,"4\n', "line 2"),
        ('1,2\n3,"4"x\n', "line 2"),
    ],
)
def test_a_file_that_does_not_fit(
    tmp_path: Path, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(content)
    with shell() as one:
        one.run(f"{TABLE}\n.import {file} t")
        assert one.session.failures == 1
        assert one.run("SELECT count(*) FROM t") == "2\n"
    assert said in capsys.readouterr().err
