"""Which node to ask: the addresses a program was given, the members they name, and who leads. Loop thread.

Knows nothing of what is asked. An address that failed is tried again when the others have failed, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from dqlite_py.client.caller import ClusterCaller, Status
from dqlite_py.client.stock.choosing import StockServers
from dqlite_py.client.wire import NotServing, StockAnswer
from dqlite_py.errors import Error, InterfaceError, NoLeader, WrongCluster
from dqlite_py.limits import MEMBERS_MAX
from dqlite_py.model import Address
from dqlite_py.wire.address import split_address
from dqlite_py.wire.handshake import NO_CLUSTER
from dqlite_py.wire.rpc import RpcError

HEAD_START_S: Final = 0.15  # of an address over the next one, when it does not answer
STATUS_TIMEOUT_S: Final = 2.0
FRESH_S: Final = 5.0  # who leads is asked for again after this
_ASKED_MAX: Final = 2  # times that one discovery asks one node


class Directory:
    """`leader` and `home`, the node that is asked what any node can answer, are None until `discover` finds them."""

    def __init__(self, caller: ClusterCaller, given: Sequence[Address]) -> None:
        self._caller = caller
        self.given = tuple(given)
        self.leader: Address | None = None
        self.home: Address | None = None
        self._members: list[Address] = []
        self._failures: dict[Address, Exception] = {}  # why each failed last, until it answers
        self._discovering: asyncio.Task[None] | None = None
        self._asked_at = 0.0

    async def pick(self, *, leader: bool) -> Address:
        """The node to ask next: the leader, as far as one is known, or `home`.

        Raises WrongCluster when the given addresses are another cluster's, NoLeader when no node answers now.
        """
        found = self.leader if leader else self.home
        if found is None:
            await asyncio.shield(self._discovery())
        elif leader and time.monotonic() - self._asked_at > FRESH_S:
            self._discovery()  # leadership may have moved without a failure; nobody waits for that
        found = (self.leader if leader else None) or self.home
        if found is None:
            raise self._nobody()
        return found

    def failed(self, address: Address, error: Exception) -> None:
        """`address` did not answer, or cannot serve now."""
        self._failures[address] = error
        if self.leader == address:
            self.leader = None
        if self.home == address:
            self.home = None

    def told(self, error: Error, by: Address) -> None:
        """A node that does not lead said who does, or that it does not know."""
        if self.leader == by:
            self.leader = None
        leader = _address(error.details.get("leader_address"))
        if leader is not None and leader != by and leader not in self._failures:
            self.leader = leader

    @property
    def are_stock(self) -> bool:
        """Whether all that answer are servers of dqlite itself, as far as this process has ever heard."""
        failures = self._failures.values()
        return (
            self._caller.cluster_id == NO_CLUSTER
            and any(isinstance(error, StockAnswer) for error in failures)
            and not any(isinstance(error, (NotServing, WrongCluster)) for error in failures)
        )

    def _nobody(self) -> Error:
        reasons = "; ".join(_text(address, error) for address, error in self._failures.items())
        if self.are_stock:
            return StockServers(f"these are servers of dqlite itself ({reasons})")
        if all(isinstance(self._failures.get(address), WrongCluster) for address in self.given):
            return WrongCluster(f"these are nodes of another cluster than before ({reasons})")
        return NoLeader(f"no node of the cluster answers ({reasons})")

    def _discovery(self) -> asyncio.Task[None]:
        """Ask the nodes who leads; shared by all who want to know at the same time. Fails never."""
        if self._discovering is None or self._discovering.done():
            self._asked_at = time.monotonic()
            self._discovering = asyncio.create_task(self._discover())
        return self._discovering

    async def _discover(self) -> None:
        """The nodes in order, each with a head start, until one says that it leads; whoever is named comes next."""
        known = dict.fromkeys([*self.given, *self._members])
        order = sorted(known, key=lambda a: (a != self.leader, a in self._failures))
        asked: dict[Address, int] = {}
        waiting: dict[asyncio.Task[Address | None], Address] = {}
        try:
            while order or waiting:
                if order:
                    address = order.pop(0)
                    asked[address] = asked.get(address, 0) + 1
                    waiting[asyncio.create_task(self._ask(address))] = address
                done, _ = await asyncio.wait(
                    waiting, timeout=HEAD_START_S if order else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    del waiting[task]
                    named = task.result()
                    if named and named not in waiting.values() and asked.get(named, 0) < _ASKED_MAX:
                        order = [named, *(a for a in order if a != named)]
                if done and self.leader is not None:
                    return
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _ask(self, address: Address) -> Address | None:
        """Note what the node at `address` says; who leads, if that is another one."""
        try:
            status = await self._caller.status(address, STATUS_TIMEOUT_S)
        except (Error, RpcError) as error:
            self.failed(address, error)
            return None
        self._failures.pop(address, None)
        if self.home is None:
            self.home = address
        self._note_members(status)
        if status.get("is_leader") is True:
            self.leader = address
            return None
        if self.leader == address:
            self.leader = None
        return _address(status.get("leader_address"))

    def _note_members(self, status: Status) -> None:
        members = status.get("members")
        if isinstance(members, list):
            found = [_address(m.get("address")) for m in members[:MEMBERS_MAX] if isinstance(m, dict)]
            self._members = [address for address in found if address is not None]


def _text(address: Address, error: Exception) -> str:
    text = error.message if isinstance(error, Error) else str(error)
    return text if text.startswith(f"{address}: ") else f"{address}: {text}"


def _address(value: Any) -> Address | None:
    if not isinstance(value, str):
        return None
    try:
        split_address(value)
    except InterfaceError:
        return None
    return Address(value)
