"""Migrations: applied once and in order, checked by hash, safe beside others, all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.dbapi import connect
from dqlite_py.errors import OperationalError, OutcomeUnknown, ProgrammingError
from dqlite_py.migrations import MigrationError, load, migrate, status
from tests.support.fakegateway import FakeGateway


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_init.sql").write_text(
        "CREATE TABLE t (a);\n-- a comment; with a semicolon\nINSERT INTO t VALUES (';');"
    )
    (folder / "0002_more.sql").write_text("ALTER TABLE t ADD COLUMN b;\n")
    (folder / "README.md").write_text("not SQL")
    return folder


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway() as gateway:
        yield gateway


@pytest.fixture
def connection(gateway: FakeGateway) -> Iterator[Any]:
    connection = connect(gateway, "app")
    yield connection
    connection.close()


def names(found: list[Any]) -> list[str]:
    return [each.name for each in found]


def test_files_are_applied_once_and_in_order(connection: Any, folder: Path) -> None:
    assert [state.applied_at for state in status(connection, folder)] == [None, None]
    assert names(migrate(connection, folder)) == ["0001_init.sql", "0002_more.sql"]
    assert migrate(connection, folder) == []
    (folder / "10-last.sql").write_text("INSERT INTO t VALUES (1, 2)")
    assert [state.applied_at is None for state in status(connection, folder)] == [False, False, True]
    assert names(migrate(connection, folder)) == ["10-last.sql"]
    assert connection.execute("SELECT * FROM t").fetchall() == [(";", None), (1, 2)]
    rows = connection.execute("SELECT version, name, length(sha256) FROM dqlite_migrations").fetchall()
    assert rows == [(1, "0001_init.sql", 64), (2, "0002_more.sql", 64), (10, "10-last.sql", 64)]


def test_looking_changes_nothing(connection: Any, folder: Path) -> None:
    status(connection, folder)
    assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


def test_line_ends_and_a_byte_order_mark_do_not_count(connection: Any, folder: Path) -> None:
    migrate(connection, folder)
    path = folder / "0001_init.sql"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert migrate(connection, folder) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("0001_init.sql", "CREATE TABLE t (a, b)", "0001_init.sql was changed after it was applied"),
        ("0001_again.sql", "SELECT 1", "have the same number 1"),
        ("more.sql", "SELECT 1", "more.sql has no number"),
        ("0003_empty.sql", "-- nothing", "0003_empty.sql holds no statement"),
        ("0000_before.sql", "SELECT 1", "give it a number above 2"),
        ("0003_bad.sql", "\xff", "is not SQL text"),
    ],
)
def test_files_that_do_not_fit(connection: Any, folder: Path, name: str, text: str, message: str) -> None:
    migrate(connection, folder)
    (folder / "0004_fine.sql").write_text("CREATE TABLE never (a)")
    (folder / name).write_bytes(text.encode("latin-1"))
    for function in (status, migrate):
        with pytest.raises(MigrationError, match=message):
            function(connection, folder)
    assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'never'").fetchone() == (0,)


def test_a_missing_file(connection: Any, folder: Path) -> None:
    migrate(connection, folder)
    (folder / "0002_more.sql").rename(folder / "0002_more.txt")
    with pytest.raises(MigrationError, match=r"0002_more\.sql was applied to the database and is missing"):
        migrate(connection, folder)
    assert migrate(connection, folder, allow_newer=True) == []
    (folder / "0003_newer.sql").write_text("SELECT 1")
    with pytest.raises(MigrationError, match="missing"):
        migrate(connection, folder, allow_newer=True)


def test_a_failing_statement_undoes_its_file(connection: Any, folder: Path) -> None:
    (folder / "0003_bad.sql").write_text("CREATE TABLE u (a); INSERT INTO missing VALUES (1)")
    with pytest.raises(
        OperationalError, match=r"0003_bad.sql, statement 2: no such table: missing"
    ) as caught:
        migrate(connection, folder)
    assert caught.value.details["statement"] == 1
    assert [state.applied_at is None for state in status(connection, folder)] == [False, False, True]
    (folder / "0003_bad.sql").write_text("CREATE TABLE u (a)")
    assert names(migrate(connection, folder)) == ["0003_bad.sql"]


class Beside:
    """A connection during whose first write of a file somebody else migrates."""

    def __init__(self, connection: Any, other: Any, folder: Path) -> None:
        self._connection, self._other, self._folder = connection, other, folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute_atomic(self, statements: Any) -> Any:
        if len(statements) > 1 and self._other is not None:
            other, self._other = self._other, None
            migrate(other, self._folder)
        return self._connection.execute_atomic(statements)


def test_somebody_else_migrates_meanwhile(connection: Any, gateway: FakeGateway, folder: Path) -> None:
    other = connect(gateway, "app")
    assert migrate(Beside(connection, other, folder), folder) == []
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
    other.close()


def test_somebody_else_has_other_files(
    connection: Any, gateway: FakeGateway, folder: Path, tmp_path: Path
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "0001_init.sql").write_text("CREATE TABLE z (a)")
    other = connect(gateway, "app")
    with pytest.raises(MigrationError, match=r"0001_init\.sql was changed"):
        migrate(Beside(connection, other, others), folder)
    other.close()


def test_a_write_whose_outcome_is_not_known(connection: Any, gateway: FakeGateway, folder: Path) -> None:
    migrate(connection, folder)
    (folder / "0003_late.sql").write_text("CREATE TABLE late (a)")

    class Lost(Beside):
        def execute_atomic(self, statements: Any) -> Any:
            self._connection.execute_atomic(statements)
            if len(statements) > 1:
                raise OutcomeUnknown("no answer")

    with pytest.raises(OutcomeUnknown):
        migrate(Lost(connection, None, folder), folder)
    assert migrate(connection, folder) == []


def test_in_a_transaction(connection: Any, folder: Path) -> None:
    connection.execute("BEGIN")
    with pytest.raises(ProgrammingError, match="transaction"):
        migrate(connection, folder)
    connection.rollback()


def test_rows_of_another_shape(connection: Any, folder: Path) -> None:
    connection.row_factory = lambda _cursor, row: {"row": row}
    assert len(migrate(connection, folder)) == 2
    assert len(status(connection, folder)) == 2


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="cannot be read"):
        load(tmp_path / "missing")
