"""When a transaction of SQLAlchemy begins in the database, and that it is never continued in another one.

SQLAlchemy announces a transaction before its first statement (do_begin). BEGIN is sent with the first statement that
needs it, so that the statement's options (read_level, begin_mode) can choose how. From then on the database must be in
that transaction until SQLAlchemy ends it: a transaction that the node has ended (a time limit, lost leadership) leaves
a connection on which each statement would commit by itself, which would tear the unit apart. Such a statement, and the
commit, raise TransactionEnded instead.

The state is kept in the pool's record of the connection (`info`). Used on the thread that uses the connection.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, Final

from sqlalchemy.engine.interfaces import IsolationLevel

from dqlite_py.errors import TransactionEnded
from dqlite_py.sqltext import StatementKind, describe

SERIALIZABLE: Final = "SERIALIZABLE"
READ_COMMITTED: Final = "READ COMMITTED"
AUTOCOMMIT: Final = "AUTOCOMMIT"
LEVELS: Final[Sequence[IsolationLevel]] = (SERIALIZABLE, READ_COMMITTED, AUTOCOMMIT)
BEGIN_MODES: Final = ("DEFERRED", "IMMEDIATE", "EXCLUSIVE")

_KEY: Final = "dqlite_py.transaction"
_ANNOUNCED: Final = "announced"
_BEGUN: Final = "begun"
_NO_TRANSACTION_NEEDED: Final = (StatementKind.READ, StatementKind.ASK, StatementKind.EMPTY)


class Transactions:
    """The rules of one dialect: `begin_mode` is how a SERIALIZABLE transaction begins if nothing else is said."""

    def __init__(self, begin_mode: str) -> None:
        self.begin_mode = begin_mode

    def announce(self, info: MutableMapping[Any, Any], level: str) -> None:
        """SQLAlchemy has begun a transaction; nothing is sent yet."""
        if level == AUTOCOMMIT:
            info.pop(_KEY, None)
        else:
            info[_KEY] = _ANNOUNCED

    def wanted(
        self, info: MutableMapping[Any, Any], level: str, is_open: bool, sql: str, mode: str | None
    ) -> str | None:
        """The BEGIN that must be sent before `sql`, or None; `mode` is what the statement's options ask for.

        Raises TransactionEnded when the transaction is gone.
        """
        state = info.get(_KEY)
        if state is None or is_open:
            return None
        if state is _BEGUN:
            raise _ended()
        kind, keyword, _single = describe(sql)
        if kind is StatementKind.TRANSACTION and keyword not in ("SAVEPOINT", "RELEASE"):
            del info[_KEY]  # the caller begins by hand, and so must end by hand
            return None
        if level == READ_COMMITTED and kind in _NO_TRANSACTION_NEEDED:
            return None
        info[_KEY] = _BEGUN
        if level == READ_COMMITTED:  # it begins with a write, and may write at once
            return "BEGIN IMMEDIATE"
        return f"BEGIN {mode or self.begin_mode}"

    def end(self, info: MutableMapping[Any, Any], is_open: bool, *, is_commit: bool) -> None:
        """SQLAlchemy ends the transaction. Raises TransactionEnded at a commit when there is nothing left of it."""
        if info.pop(_KEY, None) is _BEGUN and is_commit and not is_open:
            raise _ended()


def check_begin_mode(mode: Any) -> str:
    """The mode in capitals; raises ValueError for anything else."""
    found = mode.upper() if isinstance(mode, str) else ""
    if found not in BEGIN_MODES:
        raise ValueError(f"begin_mode is one of {', '.join(BEGIN_MODES)}, not {mode!r}")
    return found


def _ended() -> TransactionEnded:
    return TransactionEnded(
        "the transaction is over, and nothing of it was applied: a time limit, lost leadership or OR ROLLBACK has "
        "ended it before; call rollback() and run the transaction again"
    )
