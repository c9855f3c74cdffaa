"""The members of stock dqlite servers: asked for and changed at their leader, by plain requests, once. Any thread.

Blocks on a loop of its own; for commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from dqlite_py.client.stock.connection import StockConnection, Unreachable, dial
from dqlite_py.client.stock.discovery import Discovery
from dqlite_py.client.stock.failures import Doubtful, Refused, checked
from dqlite_py.client.stock.pool import Pauses
from dqlite_py.config import TlsSettings
from dqlite_py.errors import NoLeader, OperationalError, OutcomeUnknown
from dqlite_py.model import Address
from dqlite_py.tlscontexts import client_context
from dqlite_py.wire.dqlite.requests import FieldValue, Request, RequestType
from dqlite_py.wire.dqlite.responses import Metadata, Response, ServerEntry, Servers

T = TypeVar("T")
ROLES: Final = ("voter", "standby", "spare")  # by their numbers
_WITH_ROLES: Final = 1


class StockMembers:
    """Every method blocks for `timeout_s` at most, and raises errors.Error: NoLeader where nobody leads, OutcomeUnknown
    for a change that was sent and not answered."""

    def __init__(self, servers: Sequence[Address], tls: TlsSettings | None, timeout_s: float) -> None:
        self._servers = tuple(servers)
        self._context = None if tls is None else client_context(tls)
        self._timeout_s = timeout_s

    def leader(self) -> Address:
        async def address(connection: StockConnection) -> Address:
            return connection.address

        return self._at_leader(address)

    def list(self) -> tuple[ServerEntry, ...]:
        async def members(connection: StockConnection) -> tuple[ServerEntry, ...]:
            found = checked(await connection.ask(Request(RequestType.CLUSTER, (_WITH_ROLES,))))
            return found.entries if isinstance(found, Servers) else ()

        return self._at_leader(members)

    def describe(self, member: Address) -> Metadata:
        """What the member says of itself."""
        found = self._at(member, Request(RequestType.DESCRIBE, (0,)), changes=False)
        if not isinstance(found, Metadata):
            raise OperationalError(f"{member} does not tell its weight")
        return found

    def set_weight(self, member: Address, weight: int) -> None:
        self._at(member, Request(RequestType.WEIGHT, (weight,)), changes=True)

    def change(self, kind: RequestType, *fields: FieldValue) -> None:
        """ASSIGN, REMOVE or TRANSFER, at the leader."""

        async def ask(connection: StockConnection) -> Response:
            return await _changed(connection, Request(kind, fields))

        self._at_leader(ask)

    def _at_leader(self, work: Callable[[StockConnection], Awaitable[T]]) -> T:
        return self._run(lambda: _found(Discovery(self._servers, self._context)), work)

    def _at(self, member: Address, request: Request, *, changes: bool) -> Response:
        async def ask(connection: StockConnection) -> Response:
            return await _changed(connection, request) if changes else checked(await connection.ask(request))

        return self._run(lambda: dial(member, self._context), ask)

    def _run(
        self,
        connect: Callable[[], Awaitable[StockConnection]],
        work: Callable[[StockConnection], Awaitable[T]],
    ) -> T:
        async def run() -> T:
            async with asyncio.timeout(self._timeout_s):
                connection = await connect()
                try:
                    return await work(connection)
                finally:
                    connection.abort("not needed any more")

        try:
            return asyncio.run(run())
        except Unreachable as error:
            raise NoLeader(str(error)) from None
        except Refused as refused:
            raise refused.error from None
        except Doubtful as error:
            raise OperationalError(error.reason) from None
        except TimeoutError:
            raise OperationalError(f"no answer within {self._timeout_s:g} s") from None


async def _found(discovery: Discovery) -> StockConnection:
    """The leader; looks for it as long as it is let."""
    pauses = Pauses()
    reason = "no answer"
    try:
        while True:
            try:
                return await discovery.connect()
            except Unreachable as error:
                reason = str(error)
            await pauses.rest()
    except asyncio.CancelledError:
        raise NoLeader(f"no leader was found in time: {reason}") from None


async def _changed(connection: StockConnection, request: Request) -> Response:
    try:
        return checked(await connection.ask(request))
    except Doubtful as error:
        raise OutcomeUnknown(f"the request was sent, and its answer is lost: {error.reason}") from None
    except asyncio.CancelledError:
        raise OutcomeUnknown("the request was sent, and not answered in time") from None
