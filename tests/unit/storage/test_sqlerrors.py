"""SQLite codes to PEP 249 classes: total, and as CPython's sqlite3 has them."""

from __future__ import annotations

import sqlite3

import apsw
import pytest

from dqlite_py import errors
from dqlite_py.resultcodes import BY_PRIMARY_CODE, environment_error, error_class, error_from_code
from dqlite_py.storage.sqlerrors import error_from_apsw

DIFFERENT_ON_PURPOSE = {
    7,  # NOMEM: sqlite3 raises MemoryError
    16,  # EMPTY: unused by SQLite
    22, 23, 24, 25, 27, 28,
}  # fmt: skip


def test_every_primary_code_has_a_class() -> None:
    codes = {
        code
        for code, name in apsw.mapping_result_codes.items()
        if isinstance(code, int) and code not in (0, 100, 101) and isinstance(name, str)
    }
    assert codes <= set(BY_PRIMARY_CODE)


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SELECT nope", ()),
        ("syntax error", ()),
        ("INSERT INTO t VALUES (1)", ()),
        ("INSERT INTO s VALUES (NULL)", ()),
        ("INSERT INTO s VALUES ('text')", ()),
        ("INSERT INTO c VALUES (-5)", ()),
        ("SELECT zeroblob(3000000000)", ()),
        ("SELECT abs(-9223372036854775808)", ()),
        ("SELECT json('{')", ()),
    ],
)
def test_the_classes_of_cpythons_sqlite3(sql: str, params: tuple[object, ...]) -> None:
    setup = (
        "CREATE TABLE t (a PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        "CREATE TABLE s (a INTEGER NOT NULL) STRICT",
        "CREATE TABLE c (a CHECK (a > 0))",
    )
    stdlib, ours = sqlite3.connect(":memory:"), apsw.Connection(":memory:")
    try:
        for statement in setup:
            stdlib.execute(statement)
            ours.execute(statement)
        with pytest.raises(sqlite3.Error) as expected:
            stdlib.execute(sql, params)
        with pytest.raises(apsw.Error) as found:
            ours.execute(sql, params).fetchall()
        error = error_from_apsw(found.value)
        assert type(error).__name__ == type(expected.value).__name__
        assert error.code == expected.value.sqlite_errorcode
    finally:
        stdlib.close()
        ours.close()


def test_extended_codes_follow_their_primary() -> None:
    assert error_class(2067) is errors.IntegrityError
    assert error_class(787) is errors.IntegrityError
    assert error_class(516) is errors.OperationalError
    assert error_class(200) is errors.DatabaseError
    error = error_from_code(23, "no", statement=4)
    assert isinstance(error, errors.NotSupportedError)
    assert (error.code, error.message, error.details) == (23, "no", {"statement": 4})
    assert error_from_code(1, "x").details == {}


def test_environmental_failures() -> None:
    assert isinstance(environment_error(13, 0, "full"), errors.StorageFull)
    assert isinstance(environment_error(778, 28, "ENOSPC"), errors.StorageFull)
    assert isinstance(environment_error(778, 5, "EIO"), errors.InternalError)


def test_apsw_errors_without_a_code() -> None:
    assert isinstance(error_from_apsw(apsw.BindingsError("few")), errors.ProgrammingError)
    assert isinstance(error_from_apsw(apsw.ThreadingViolationError("x")), errors.InternalError)
