"""When BEGIN is sent, and that a transaction which is gone is never continued in another one."""

from __future__ import annotations

from typing import Any

import pytest

from dqlite_py.errors import TransactionEnded
from dqlite_py.sqlalchemy.transactions import (
    AUTOCOMMIT,
    READ_COMMITTED,
    SERIALIZABLE,
    Transactions,
    check_begin_mode,
)

SELECT, INSERT, CREATE = "SELECT 1", "INSERT INTO t VALUES (1)", "CREATE TABLE t (a)"


@pytest.mark.parametrize(
    ("level", "sql", "mode", "begin"),
    [
        (SERIALIZABLE, SELECT, None, "BEGIN IMMEDIATE"),
        (SERIALIZABLE, INSERT, None, "BEGIN IMMEDIATE"),
        (SERIALIZABLE, "PRAGMA table_info(t)", None, "BEGIN IMMEDIATE"),
        (SERIALIZABLE, "SAVEPOINT a", None, "BEGIN IMMEDIATE"),
        (SERIALIZABLE, SELECT, "DEFERRED", "BEGIN DEFERRED"),
        (SERIALIZABLE, SELECT, "EXCLUSIVE", "BEGIN EXCLUSIVE"),
        (READ_COMMITTED, SELECT, None, None),
        (READ_COMMITTED, "PRAGMA table_info(t)", None, None),
        (READ_COMMITTED, INSERT, None, "BEGIN IMMEDIATE"),
        (READ_COMMITTED, CREATE, None, "BEGIN IMMEDIATE"),
        (READ_COMMITTED, "SAVEPOINT a", None, "BEGIN IMMEDIATE"),
        (AUTOCOMMIT, SELECT, None, None),
        (AUTOCOMMIT, INSERT, None, None),
    ],
)
def test_how_a_transaction_begins(level: str, sql: str, mode: str | None, begin: str | None) -> None:
    info: dict[Any, Any] = {}
    transactions = Transactions("IMMEDIATE")
    transactions.announce(info, level)
    assert transactions.wanted(info, level, False, sql, mode) == begin


def test_it_begins_once() -> None:
    info: dict[Any, Any] = {}
    transactions = Transactions("DEFERRED")
    transactions.announce(info, SERIALIZABLE)
    assert transactions.wanted(info, SERIALIZABLE, False, SELECT, None) == "BEGIN DEFERRED"
    assert transactions.wanted(info, SERIALIZABLE, True, INSERT, None) is None
    transactions.end(info, True, is_commit=True)
    assert not info


def test_what_was_ended_by_the_node_is_not_continued() -> None:
    info: dict[Any, Any] = {}
    transactions = Transactions("IMMEDIATE")
    transactions.announce(info, SERIALIZABLE)
    transactions.wanted(info, SERIALIZABLE, False, INSERT, None)
    for _again in range(2):
        with pytest.raises(TransactionEnded, match=r"rollback\(\)"):
            transactions.wanted(info, SERIALIZABLE, False, INSERT, None)
    with pytest.raises(TransactionEnded):
        transactions.end(info, False, is_commit=True)
    transactions.announce(info, SERIALIZABLE)
    assert transactions.wanted(info, SERIALIZABLE, False, INSERT, None) == "BEGIN IMMEDIATE"


def test_rolling_back_what_is_gone_is_no_error() -> None:
    info: dict[Any, Any] = {}
    transactions = Transactions("IMMEDIATE")
    transactions.announce(info, SERIALIZABLE)
    transactions.wanted(info, SERIALIZABLE, False, INSERT, None)
    transactions.end(info, False, is_commit=False)
    assert not info


def test_a_transaction_without_statements_ends_quietly() -> None:
    info: dict[Any, Any] = {}
    transactions = Transactions("IMMEDIATE")
    transactions.announce(info, SERIALIZABLE)
    transactions.end(info, False, is_commit=True)
    transactions.end({}, False, is_commit=True)  # one that was never announced
    assert not info


def test_who_begins_by_hand_ends_by_hand() -> None:
    info: dict[Any, Any] = {}
    transactions = Transactions("IMMEDIATE")
    transactions.announce(info, SERIALIZABLE)
    assert transactions.wanted(info, SERIALIZABLE, False, "BEGIN EXCLUSIVE", None) is None
    assert transactions.wanted(info, SERIALIZABLE, False, INSERT, None) is None
    transactions.end(info, False, is_commit=True)


@pytest.mark.parametrize("mode", ["", "NOW", None, 1])
def test_unknown_begin_modes(mode: Any) -> None:
    with pytest.raises(ValueError, match="DEFERRED, IMMEDIATE, EXCLUSIVE"):
        check_begin_mode(mode)
