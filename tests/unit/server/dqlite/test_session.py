"""The SQL of one connection over a node that answers as the test says."""

from __future__ import annotations

from typing import Any

import pytest

from dqlite_py.errors import DatabaseLocked, Error, IntegrityError, NotLeader, no_such_database
from dqlite_py.gateway import Once, StatementResult, UnitResult
from dqlite_py.server.dqlite.failures import failure_of
from dqlite_py.server.dqlite.session import SqlSession
from dqlite_py.server.dqlite.settings import ServerSettings


class Gateway:
    """`outcomes`: of units, one after the other; None: done."""

    def __init__(self, *outcomes: Error | None) -> None:
        self.outcomes = list(outcomes)

    async def open_database(self, _database: str, _timeout_s: float) -> None:
        return

    async def execute_unit(
        self, _database: str, _body: bytes, _timeout_s: float, *, once: Once = True
    ) -> UnitResult:
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return UnitResult(1, [StatementResult(1, 1)])


async def session_of(*outcomes: Error | None) -> SqlSession:
    gateway: Any = Gateway(*outcomes)
    session = SqlSession(gateway, ServerSettings())
    await session.open("app")
    return session


TWO = "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)"


@pytest.mark.parametrize("error", [NotLeader("why"), DatabaseLocked("why", code=5), no_such_database("app")])
async def test_a_text_of_which_a_part_is_done_is_not_sent_again(error: Error) -> None:
    session = await session_of(None, error)
    with pytest.raises(Error) as caught:
        await session.execute(0, TWO, [])
    assert failure_of(caught.value).code == 10506
    session = await session_of(error)
    with pytest.raises(type(error)):
        await session.execute(0, TWO, [])


async def test_the_own_error_of_a_later_statement_is_told_as_it_is() -> None:
    session = await session_of(None, IntegrityError("why", code=2067))
    with pytest.raises(IntegrityError):
        await session.execute(0, TWO, [])
