"""Who leads: the last leader is asked first, then all known servers; whoever it is has to name itself. Loop thread.

The addresses of members are learned from the leader, beside those that the program gave.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final

from dqlite_py.client.stock.connection import StockConnection, Unreachable, dial
from dqlite_py.client.stock.failures import Doubtful
from dqlite_py.limits import MEMBERS_MAX
from dqlite_py.model import Address
from dqlite_py.wire.dqlite.requests import Request, RequestType
from dqlite_py.wire.dqlite.responses import Servers

_PROBE_S: Final = 2.0
_CLUSTER: Final = Request(RequestType.CLUSTER, (1,))


class Discovery:
    """`leader`: the last that named itself, None when it is not known."""

    def __init__(self, addresses: Sequence[Address], context: ssl.SSLContext | None) -> None:
        self._given = tuple(addresses)
        self._members: tuple[Address, ...] = ()
        self._context = context
        self.leader: Address | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All that are known, the given ones first."""
        return tuple(dict.fromkeys((*self._given, *self._members)))

    async def connect(self) -> StockConnection:
        """A connection to the leader. Raises Unreachable, with what each server said, when nobody leads."""
        if self.leader is not None:
            last, self.leader = self.leader, None
            try:
                return self._found(await self._probe(last))
            except Unreachable:
                pass  # all are asked
        return self._found(await self._first_of_all())

    def _found(self, connection: StockConnection) -> StockConnection:
        self.leader = connection.address
        return connection

    async def _first_of_all(self) -> StockConnection:
        reasons = []
        winner: StockConnection | None = None
        tasks = [asyncio.ensure_future(self._probe(address)) for address in self.addresses]
        try:
            for next_done in asyncio.as_completed(tasks):
                try:
                    winner = await next_done
                except Unreachable as error:
                    reasons.append(str(error))
                    continue
                await self._learn(winner)
                return winner
        finally:
            for task in tasks:
                task.cancel()
                task.add_done_callback(lambda done: _let_go(done, winner))  # even if this wait is cancelled
            await asyncio.gather(*tasks, return_exceptions=True)
        raise Unreachable("no server leads: " + "; ".join(reasons))

    async def _probe(self, address: Address) -> StockConnection:
        """A connection to the leader, if `address` leads or names one that says so, too."""
        try:
            async with asyncio.timeout(_PROBE_S):
                named = await self._asked(address)
                if isinstance(named, StockConnection):
                    return named
                if not named:
                    raise Unreachable(f"{address}: it knows no leader")
                confirmed = await self._asked(named)
                if isinstance(confirmed, StockConnection):
                    return confirmed
                raise Unreachable(f"{address}: it names {named}, which does not say that it leads")
        except TimeoutError:
            raise Unreachable(f"{address}: no answer within {_PROBE_S:g} s") from None

    async def _asked(self, address: Address) -> StockConnection | Address:
        """The connection when `address` names itself, or else whom it names; "" for nobody."""
        connection = await dial(address, self._context)
        try:
            named = Address((await connection.leader()).address)
        except Doubtful as error:
            raise Unreachable(error.reason) from None
        except BaseException:
            connection.abort("not needed any more")
            raise
        if named == address:
            return connection
        connection.abort("it does not lead")
        return named

    async def _learn(self, connection: StockConnection) -> None:
        try:
            async with asyncio.timeout(_PROBE_S):
                found = await connection.ask(_CLUSTER)
        except (Doubtful, TimeoutError):
            connection.abort("it does not tell its members")
            return
        except BaseException:
            connection.abort("not needed any more")
            raise
        if isinstance(found, Servers):
            self._members = tuple(Address(entry.address) for entry in found.entries[:MEMBERS_MAX])


def _let_go(probe: asyncio.Future[StockConnection], winner: StockConnection | None) -> None:
    if not probe.cancelled() and probe.exception() is None and (found := probe.result()) is not winner:
        found.abort("another was quicker")
