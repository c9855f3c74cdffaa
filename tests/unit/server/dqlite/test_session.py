"""The SQL of one connection over a node that answers as the test says."""

from __future__ import annotations

from typing import Any

import pytest

from dqlite_py.errors import (
    DatabaseLocked,
    Error,
    IntegrityError,
    NotLeader,
    OutcomeUnknown,
    no_such_database,
)
from dqlite_py.gateway import Once, StatementResult, UnitResult
from dqlite_py.server.dqlite.failures import LOST, Refused, failure_of
from dqlite_py.server.dqlite.requests import Requests
from dqlite_py.server.dqlite.session import SqlSession
from dqlite_py.server.dqlite.settings import ServerSettings
from dqlite_py.wire.dqlite.frames import FrameReader
from dqlite_py.wire.dqlite.requests import Request, RequestType, encode_request
from dqlite_py.wire.dqlite.responses import Failure, Response, Result, decode_response


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

    async def begin(self, *_: Any, **__: Any) -> LostCommit:
        return LostCommit()


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
    assert failure_of(caught.value, is_alone=True).code == 10
    session = await session_of(error)
    with pytest.raises(type(error)):
        await session.execute(0, TWO, [])


class LostCommit:
    is_open = False

    async def commit(self, _timeout_s: float) -> UnitResult:
        raise OutcomeUnknown("no answer")

    async def rollback(self) -> None:
        return


async def test_a_commit_of_unknown_outcome_is_told_as_clients_know_it() -> None:
    """dqlite-client makes AmbiguousCommitError of 10506; no client repeats a COMMIT by itself."""
    connection: Any = Answered()
    server: Any = NodeThatLeads()
    requests = Requests(server, connection)
    requests.sql = await session_of(OutcomeUnknown("no answer"))
    assert await answered(requests, "BEGIN IMMEDIATE") == Result(0, 0)
    failure = await answered(requests, "COMMIT")
    assert isinstance(failure, Failure)
    assert failure.code == 10506
    failure = await answered(requests, "INSERT INTO t VALUES (last_insert_rowid())")
    assert isinstance(failure, Failure)
    assert failure.code == 10


class OpenTransaction(LostCommit):
    is_open = True

    def __init__(self) -> None:
        self.is_rolled_back = False

    async def rollback(self) -> None:
        self.is_rolled_back = True


@pytest.mark.parametrize("sql", ["BEGIN IMMEDIATE", "INSERT INTO t VALUES (1); BEGIN IMMEDIATE"])
async def test_a_transaction_that_begins_where_nobody_leads_any_more_is_not_handed_out(
    monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    """It would hold the database at the next leader, and the client could not use it. A client begins it again."""
    server: Any = NodeThatLeads()
    requests = Requests(server, Answered())  # type: ignore[arg-type]
    requests.sql = await session_of(None)
    transaction = OpenTransaction()

    async def begin(*_: Any, **__: Any) -> OpenTransaction:
        monkeypatch.setattr(server.cluster, "check_leader", refuse)
        return transaction

    def refuse() -> None:
        raise Refused(LOST)

    monkeypatch.setattr(requests.sql._gateway, "begin", begin)
    if sql.startswith("BEGIN"):
        with pytest.raises(Refused) as caught:
            await answered(requests, sql)
        assert caught.value.failure == LOST
        assert transaction.is_rolled_back
        assert not requests.sql.in_transaction
    else:  # a part of it took effect: it is not to be sent again
        assert await answered(requests, sql) == Result(1, 1)
        assert not transaction.is_rolled_back


class Answered:
    is_interrupted = False


class NodeThatLeads:
    gateway: Any = None
    statements = None
    settings = ServerSettings()

    class cluster:
        @staticmethod
        def check_leader() -> None:
            return


async def answered(requests: Requests, sql: str) -> Response:
    frame = encode_request(Request(RequestType.EXEC_SQL, (0, sql, ())))
    work: Any = requests.begin(frame, is_legacy=False)
    try:
        frames = await work
    except Error as error:
        frames = requests.failure(error)
    reader = FrameReader(1 << 20)
    reader.feed(frames)
    found = reader.next_frame()
    assert found is not None
    return decode_response(found)


async def test_the_own_error_of_a_later_statement_is_told_as_it_is() -> None:
    session = await session_of(None, IntegrityError("why", code=2067))
    with pytest.raises(IntegrityError):
        await session.execute(0, TWO, [])
