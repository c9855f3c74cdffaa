"""Questions to running nodes, from a command: a blocking front over client.caller. Main thread only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from dqlite_py.client.caller import ClusterCaller, Status, open_caller
from dqlite_py.client.stock.choosing import StockServers
from dqlite_py.client.wire import StockAnswer
from dqlite_py.config import TlsSettings
from dqlite_py.errors import Error, NoLeader, OperationalError, OutcomeUnknown
from dqlite_py.model import Address
from dqlite_py.wire.rpc import RpcLost, RpcNotSent

T = TypeVar("T")


class Remote:
    """Asks nodes. Every method blocks for about its timeout at most and raises errors.Error."""

    def __init__(self, tls: TlsSettings | None = None) -> None:
        self._tls = tls

    def status(self, address: Address, timeout_s: float) -> Status:
        """One node's own view."""
        return asyncio.run(self._status(address, timeout_s))

    def any_status(self, addresses: Sequence[Address], timeout_s: float) -> tuple[Address, Status]:
        """The first of these nodes that answers and knows a leader, or else answers. Raises the first one's error."""
        if len(addresses) == 1:
            return addresses[0], self.status(addresses[0], timeout_s)
        found = self.statuses(addresses, timeout_s)
        answered = [(address, status) for address, status in found.items() if not isinstance(status, Error)]
        for address, status in answered:
            if status.get("leader_address"):
                return address, status
        if answered:
            return answered[0]
        raise next(error for error in found.values() if isinstance(error, Error))

    def statuses(self, addresses: Sequence[Address], timeout_s: float) -> dict[Address, Status | Error]:
        """Several nodes' views, asked at the same time; an Error for who did not answer."""

        async def ask() -> dict[Address, Status | Error]:
            async with open_caller(self._tls) as caller:
                return await ask_statuses(caller, addresses, timeout_s)

        return asyncio.run(ask())

    def change(
        self, address: Address, method: str, body: Any, timeout_s: float, *, at_leader: bool = False
    ) -> Any:
        """Call a method of the node at `address`, or of the leader it knows.

        Raises OutcomeUnknown when the request was delivered and no answer came.
        """
        return asyncio.run(self._change(address, method, body, timeout_s, at_leader))

    async def _status(self, address: Address, timeout_s: float) -> Status:
        async with open_caller(self._tls) as caller:
            return await _answer(caller.status(address, timeout_s), address, "status")

    async def _change(
        self, address: Address, method: str, body: Any, timeout_s: float, at_leader: bool
    ) -> Any:
        async with open_caller(self._tls) as caller:
            target = await self._leader(caller, address, timeout_s) if at_leader else address
            return await _answer(caller.call(target, method, body, timeout_s), target, method)

    async def _leader(self, caller: ClusterCaller, asked: Address, timeout_s: float) -> Address:
        status = await _answer(caller.status(asked, timeout_s), asked, "status")
        if status.get("is_leader") is True:
            return asked
        leader = status.get("leader_address")
        if not isinstance(leader, str) or not leader:
            raise NoLeader(f"the node at {asked} knows no leader now")
        return Address(leader)


async def ask_statuses(
    caller: ClusterCaller, addresses: Sequence[Address], timeout_s: float
) -> dict[Address, Status | Error]:
    """Several nodes' views, asked at the same time; an Error for who did not answer."""
    asked = (
        _or_error(_answer(caller.status(address, timeout_s), address, "status")) for address in addresses
    )
    return dict(zip(addresses, await asyncio.gather(*asked), strict=True))


async def _answer(call: Awaitable[T], address: Address, method: str) -> T:
    try:
        return await call
    except StockAnswer as error:
        raise StockServers(f"{address}: {error}") from None
    except RpcNotSent as error:
        raise OperationalError(
            f"no answer from {address}: {error}. Is a node running there, and is the address right?"
        ) from None
    except RpcLost as error:
        raise OutcomeUnknown(f"{address} got the request {method!r} but did not answer: {error}") from None


async def _or_error(work: Awaitable[T]) -> T | Error:
    try:
        return await work
    except Error as error:
        return error
