"""The requests of one connection: a frame in, its answer out; at once, later, or by a coroutine. Loop thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.aio.steps import drive
from dqlite_py.command import check_database_name
from dqlite_py.errors import Error
from dqlite_py.gateway import UnitResult
from dqlite_py.server.dqlite import answers
from dqlite_py.server.dqlite.dump import NO_DATABASE, send_dump
from dqlite_py.server.dqlite.failures import BUSY, Refused, failure_of
from dqlite_py.server.dqlite.rows import RowsFrames
from dqlite_py.server.dqlite.session import SqlSession
from dqlite_py.server.dqlite.settings import HEARTBEAT_MS
from dqlite_py.server.dqlite.texts import begins
from dqlite_py.wire.dqlite.frames import Frame
from dqlite_py.wire.dqlite.quick import sql_request
from dqlite_py.wire.dqlite.requests import Request, RequestType, decode_request
from dqlite_py.wire.dqlite.responses import Database, Failure, Welcome
from dqlite_py.wire.dqlite.violations import CODE_PARSE, refused

if TYPE_CHECKING:
    from dqlite_py.server.dqlite.connection import Connection
    from dqlite_py.server.dqlite.server import DqliteServer

_SQL: Final = (RequestType.EXEC_SQL, RequestType.QUERY_SQL)
WITH_SQL: Final = (*_SQL, RequestType.EXEC, RequestType.QUERY)
_NO_ROOM: Final = Failure(BUSY, "clients do not take their rows, and the node keeps no more: try again later")
Work = bytes | Coroutine[Any, Any, bytes] | None
"""An answer, a coroutine of it, or None: Connection.answered hears it later."""


class Requests:
    __slots__ = ("_connection", "_is_legacy", "_server", "is_alone", "sql")

    def __init__(self, server: DqliteServer, connection: Connection) -> None:
        self._server = server
        self._connection = connection
        self._is_legacy = False
        self.is_alone = False  # SQL at work that began outside a transaction
        self.sql = SqlSession(server.gateway, server.settings, server.statements)

    def begin(self, frame: Frame, *, is_legacy: bool) -> Work:
        """Raises ProtocolViolation, Refused, and what the node says."""
        self._is_legacy = is_legacy
        kind = frame.type
        self.sql.begin_request()
        self.is_alone = kind in WITH_SQL and not self.sql.in_transaction
        if kind in _SQL and (quick := sql_request(frame)) is not None:
            self._server.cluster.check_leader()
            self.sql.core(quick.database)
            run = self._execute if kind == RequestType.EXEC_SQL else self._query
            return run(quick.sql, quick.values)
        request = decode_request(frame)
        return _HANDLERS[request.type](self, request)

    def gone(self, after: asyncio.Task[bytes] | None) -> None:
        """The client is: undo what is open, when the request at work has stopped."""
        if self.sql.is_open:
            self._server.spawn(self._close(after))

    async def _close(self, after: asyncio.Task[bytes] | None) -> None:
        if after is not None:
            await asyncio.wait([after])
        with suppress(Error):
            await self.sql.close()

    def failure(self, error: Error) -> bytes:
        """The answer to the request at work when it ends so."""
        return answers.failure(failure_of(error, is_alone=self.is_alone))

    # -- about the node ---------------------------------------------------------------------------------

    def leader(self, _request: Request) -> Work:
        leader = self._server.cluster.leader()
        return answers.encode(leader._replace(id=None) if self._is_legacy else leader)

    def client(self, _request: Request) -> Work:
        return answers.encode(Welcome(HEARTBEAT_MS))

    def unknown(self, _request: Request) -> Work:
        raise refused("unrecognized request type", CODE_PARSE)

    def members(self, request: Request) -> Work:
        return answers.encode(self._server.cluster.members(_number(request, 0)))

    async def transfer(self, request: Request) -> bytes:
        await self._server.cluster.transfer(_number(request, 0))
        return answers.EMPTY

    async def add(self, request: Request) -> bytes:
        await self._server.cluster.add(_number(request, 0), _text(request, 1))
        return answers.EMPTY

    async def assign(self, request: Request) -> bytes:
        await self._server.cluster.assign(_number(request, 0), _number(request, 1))
        return answers.EMPTY

    async def remove(self, request: Request) -> bytes:
        await self._server.cluster.remove(_number(request, 0))
        return answers.EMPTY

    def describe(self, request: Request) -> Work:
        return answers.encode(self._server.cluster.describe(_number(request, 0)))

    async def weight(self, request: Request) -> bytes:
        await self._server.cluster.set_weight(_number(request, 0))
        return answers.EMPTY

    # -- SQL --------------------------------------------------------------------------------------------

    async def open(self, request: Request) -> bytes:
        self._server.cluster.check_leader()
        await self.sql.open(check_database_name(_text(request, 0)))
        self._connection.trust()
        return answers.encode(Database())

    async def prepare(self, request: Request) -> bytes:
        self._server.cluster.check_leader()
        self.sql.core(_number(request, 0))
        return answers.encode(await self.sql.prepare(_text(request, 1), with_tail=request.schema == 1))

    def finalize(self, request: Request) -> Work:
        self.sql.core(_number(request, 0))
        self.sql.finalize(_number(request, 1))
        return answers.EMPTY

    def interrupt(self, _request: Request) -> Work:
        return answers.EMPTY  # nothing is at work

    def exec(self, request: Request) -> Work:
        self._server.cluster.check_leader()
        self.sql.core(_number(request, 0))
        return self._execute(self.sql.statement(_number(request, 1)), _values(request))

    def exec_sql(self, request: Request) -> Work:
        self._server.cluster.check_leader()
        self.sql.core(_number(request, 0))
        return self._execute(_text(request, 1), _values(request))

    def _execute(self, sql: str, values: Sequence[Any]) -> Work:
        body = self.sql.plain_write(sql, values)
        if body is None:
            return self._execute_all(sql, values)
        core = self.sql.core(0)
        connection, session = self._connection, self.sql

        def written(unit: UnitResult | None, error: Error | None) -> None:
            if unit is None:
                assert error is not None
                connection.answered(self.failure(error))
                return
            try:
                frames = answers.result(*session.wrote(sql, unit))
            except Error as failed:
                frames = self.failure(failed)
            connection.answered(frames)

        self._server.gateway.write(core.database, body, core.settings.timeout_s, written)
        return None

    async def _execute_all(self, sql: str, values: Sequence[Any]) -> bytes:
        done = await self.sql.execute(0, sql, values)
        if self.is_alone and self.sql.in_transaction and begins(sql):
            try:
                self._server.cluster.check_leader()
            except Refused:  # it was begun at the next leader: the client is to do that itself
                await self.sql.roll_back()
                raise
        return answers.result(*done)

    def query(self, request: Request) -> Work:
        self._server.cluster.check_leader()
        self.sql.core(_number(request, 0))
        return self._query(self.sql.statement(_number(request, 1)), _values(request))

    def query_sql(self, request: Request) -> Work:
        self._server.cluster.check_leader()
        self.sql.core(_number(request, 0))
        return self._query(_text(request, 1), _values(request))

    async def _query(self, sql: str, values: Sequence[Any]) -> bytes:
        """Sends all frames but the last, which is the answer."""
        connection = self._connection
        result = await self.sql.query(0, sql, values)
        frames = RowsFrames(result.columns or (), result.decltypes)
        rows, rest = result.rows, result.rest
        is_stream = rest is not None  # a read: it may be refused in the middle
        try:
            while True:
                for frame in frames.add(rows):
                    self._check_room(frame, is_stream)
                    connection.write(frame)
                    await connection.drain()
                    if connection.is_interrupted:
                        return b""
                if rest is None:
                    last = frames.last()
                    self._check_room(last, is_stream)
                    return last
                rows = await drive(rest.fetch())
                if not rows:
                    rest = None
        finally:
            if rest is not None:
                await drive(rest.close())

    def _check_room(self, frame: bytes, is_stream: bool) -> None:
        if is_stream and not self._server.has_room_for(len(frame)):
            raise Refused(_NO_ROOM)

    async def dump(self, request: Request) -> bytes:
        try:
            database = check_database_name(_text(request, 0))
        except Error:
            raise Refused(NO_DATABASE) from None
        await send_dump(self._server.dumps, database, self._connection)
        return b""


def _number(request: Request, position: int) -> int:
    value = request.fields[position]
    assert isinstance(value, int)
    return value


def _text(request: Request, position: int) -> str:
    value = request.fields[position]
    assert isinstance(value, str)
    return value


def _values(request: Request) -> list[Any]:
    params = request.fields[2]
    assert isinstance(params, tuple)
    return [param.value for param in params]


_HANDLERS: Final[dict[RequestType, Callable[[Requests, Request], Work]]] = {
    RequestType.LEADER: Requests.leader,
    RequestType.CLIENT: Requests.client,
    RequestType.HEARTBEAT: Requests.unknown,
    RequestType.OPEN: Requests.open,
    RequestType.PREPARE: Requests.prepare,
    RequestType.EXEC: Requests.exec,
    RequestType.QUERY: Requests.query,
    RequestType.FINALIZE: Requests.finalize,
    RequestType.EXEC_SQL: Requests.exec_sql,
    RequestType.QUERY_SQL: Requests.query_sql,
    RequestType.INTERRUPT: Requests.interrupt,
    RequestType.CONNECT: Requests.unknown,
    RequestType.ADD: Requests.add,
    RequestType.ASSIGN: Requests.assign,
    RequestType.REMOVE: Requests.remove,
    RequestType.DUMP: Requests.dump,
    RequestType.CLUSTER: Requests.members,
    RequestType.TRANSFER: Requests.transfer,
    RequestType.DESCRIBE: Requests.describe,
    RequestType.WEIGHT: Requests.weight,
}
