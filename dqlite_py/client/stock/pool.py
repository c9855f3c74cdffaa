"""Connections to the leader with a database open, lent to one request, result or transaction at a time. Loop thread."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Sequence
from typing import Final

from dqlite_py.client.stock.connection import StockConnection, Unreachable
from dqlite_py.client.stock.discovery import Discovery
from dqlite_py.client.stock.failures import Doubtful, Refused, checked
from dqlite_py.errors import NoLeader
from dqlite_py.limits import DQLITE_CONNECTIONS_MAX, DQLITE_IDLE_CONNECTIONS_MAX
from dqlite_py.model import Address
from dqlite_py.wire.dqlite.requests import Request, RequestType

PAUSE_MIN_S: Final = 0.005
PAUSE_MAX_S: Final = 0.25


class Pauses:
    """Longer each time, and never the same for two that wait."""

    def __init__(self) -> None:
        self._next_s = PAUSE_MIN_S

    async def rest(self) -> None:
        await asyncio.sleep(self._next_s * random.uniform(0.5, 1.0))
        self._next_s = min(PAUSE_MAX_S, 2 * self._next_s)


class Pool:
    """At most DQLITE_CONNECTIONS_MAX are lent at a time; who needs another waits."""

    def __init__(self, addresses: Sequence[Address], context: ssl.SSLContext | None) -> None:
        self.discovery = Discovery(addresses, context)
        self._idle: list[StockConnection] = []
        self._lent: set[StockConnection] = set()
        self._room = asyncio.Semaphore(DQLITE_CONNECTIONS_MAX)
        self._finding = asyncio.Lock()

    async def take(self, database: str, deadline: float) -> StockConnection:
        """Give it back (`put`). `deadline` by the loop's clock. Raises NoLeader, or SQLite's error for the database."""
        pauses, reason = Pauses(), "every connection is in use"
        held = False
        try:
            async with asyncio.timeout_at(deadline):
                await self._room.acquire()
                held = True
                while True:
                    try:
                        connection = self._idle_for(database) or await self._opened(database)
                        self._lent.add(connection)
                        return connection
                    except (Unreachable, Doubtful, Refused) as error:
                        reason = str(error)
                    await pauses.rest()
        except BaseException as error:
            if held:
                self._room.release()
            if isinstance(error, TimeoutError):
                raise NoLeader(f"no leader was found in time: {reason}") from None
            raise

    def put(self, connection: StockConnection, *, leads: bool = True) -> None:
        """It is free again; `leads` False: its server refused to serve."""
        if connection not in self._lent:
            return
        self._lent.discard(connection)
        self._room.release()
        if not leads:
            self.drop_leader(connection)
        elif connection.is_usable and connection.address == self.discovery.leader:
            self._idle.append(connection)
            if len(self._idle) > DQLITE_IDLE_CONNECTIONS_MAX:
                self._idle.pop(0).abort("too many are idle")
        else:
            connection.abort("not needed any more")

    def descriptors(self) -> list[int]:
        """Of open sockets."""
        return [number for one in (*self._idle, *self._lent) if (number := one.fileno) >= 0]

    def drop_leader(self, connection: StockConnection) -> None:
        connection.abort("its server does not lead")
        if self.discovery.leader == connection.address:
            self.discovery.leader = None
            self._drop_idle()

    def close(self) -> None:
        self._drop_idle()
        for connection in self._lent:
            connection.abort("closed")

    def _drop_idle(self) -> None:
        for connection in self._idle:
            connection.abort("not needed any more")
        self._idle.clear()

    def _idle_for(self, database: str) -> StockConnection | None:
        self._idle = [connection for connection in self._idle if connection.is_usable]
        for position in range(len(self._idle) - 1, -1, -1):
            if self._idle[position].database == database:
                return self._idle.pop(position)
        return None

    async def _opened(self, database: str) -> StockConnection:
        async with self._finding:  # one search serves all that wait
            connection = await self.discovery.connect()
        try:
            checked(await connection.ask(Request(RequestType.OPEN, (database, 0, "volatile"))))
        except Refused:
            self.drop_leader(connection)
            raise
        except BaseException:
            connection.abort("the database cannot be opened")
            raise
        connection.database = database
        return connection
