"""One request, asked until a node can answer it: which node, how long, and what may be asked again. Loop thread.

The rule: what was certainly not delivered, or refused by a node that cannot serve now, goes to the next node. What may
have been executed is asked again only when the caller says that repeating it is harmless (a read, a keyed write).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from dqlite_py.client.link import MARGIN_S, TIMEOUT_MAX_S, Link, Opened
from dqlite_py.client.stock.choosing import StockServers
from dqlite_py.client.wire import NoRoom
from dqlite_py.errors import (
    DatabaseLocked,
    DivergenceDetected,
    Error,
    InternalError,
    NodeStopped,
    NoLeader,
    NotLeader,
    OperationalError,
    Outcome,
    OutcomeUnknown,
    Overwritten,
    StorageFull,
    WrongCluster,
    is_database_missing,
)
from dqlite_py.model import Address
from dqlite_py.wire.rpc import RpcError, RpcLost

TRIAL_S: Final = 2.5  # for a node that is not known to lead: it may be cut off from the others
T = TypeVar("T")
ID_BYTES: Final = 16
_WAIT_MIN_S: Final = 0.001
_PAUSE_MIN_S: Final = 0.02
_PAUSE_MAX_S: Final = 0.5
# Another node may do better, and nothing has happened.
_ELSEWHERE: Final = (NotLeader, NoLeader, NodeStopped, Overwritten, DivergenceDetected, WrongCluster)


def is_own_result(error: Error) -> bool:
    """Whether the error is the result of the statements themselves: every node would say the same."""
    return error.code is not None and not isinstance(error, (InternalError, StorageFull, *_ELSEWHERE))


class Attempts:
    """One request under way.

    `is_uncertain`: an attempt may have been executed and its result is not known; of reads it is never said.
    """

    def __init__(
        self,
        link: Link,
        timeout_s: float,
        *,
        leader: bool = True,
        writes: bool = False,
        repeats: bool = True,
        closes: str = "",
    ) -> None:
        """`leader`: it is best asked of the leader. `repeats`: asking twice does no harm. `closes`: each attempt gets
        an id, by which the node knows what it opens, and this method closes what a lost one may have opened."""
        self._link = link
        self._directory = link.directory
        self._leader = leader
        self._writes = writes
        self._repeats = repeats
        self._closes = closes
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._pause_s = _PAUSE_MIN_S
        self._last: Exception | None = None
        self.is_uncertain = False
        self.target: Address | None = None
        self.id = b""  # of the last attempt

    @property
    def left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    async def ask(self, method: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        """What `read` makes of the first answer. Raises the error that settles it; OutcomeUnknown or NoLeader,
        whatever is true, when the time is over."""
        while True:
            try:
                return read(await self._once(method, body))
            except (RpcError, Error) as error:
                self._judge(error)
                self._last = error
            await self._rest()

    async def _once(self, method: str, body: dict[str, Any]) -> Any:
        self.target = None
        try:
            async with asyncio.timeout(self.left_s + MARGIN_S):
                self.target = await self._directory.pick(leader=self._leader)
        except TimeoutError:
            raise NoLeader("no node answered in time") from None
        is_trial = self._repeats and self._leader and self.target != self._directory.leader
        wait_s = max(_WAIT_MIN_S, min(self.left_s, TRIAL_S if is_trial else TIMEOUT_MAX_S))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s + MARGIN_S
        connection = await self._link.caller.in_turn(self.target, method, deadline)
        try:
            body = {**body, "timeout_s": max(_WAIT_MIN_S, min(wait_s, deadline - loop.time() - MARGIN_S))}
            if self._closes:  # nobody else's, and nobody else can guess it
                self.id = body["id"] = secrets.token_bytes(ID_BYTES)
            return await connection.call(method, body, deadline)
        finally:
            connection.turns.release()

    def _judge(self, error: RpcError | Error) -> None:
        """Return when the request may be asked again; raises what settles it."""
        target, directory = self.target, self._directory
        if target is None:
            if not isinstance(error, NoLeader) or isinstance(error, StockServers):
                if self.is_uncertain:
                    raise OutcomeUnknown(str(error))
                raise error  # none of the addresses is the cluster's
        elif isinstance(error, NoRoom):
            return  # in this program; nothing is wrong with the node
        elif isinstance(error, RpcError):
            directory.failed(target, error)
            if isinstance(error, RpcLost):
                if self._closes:  # its answer may be on the way, and a writer would wait for what nobody has
                    Opened(self._link, target, self.id).tell(self._closes)
                self._lost(OutcomeUnknown(f"{target} got the request and did not answer: {error}"))
        elif isinstance(error, NotLeader):
            directory.told(error, target)
        elif isinstance(error, _ELSEWHERE):
            directory.failed(target, error)
        elif is_own_result(error) or not self._writes:
            if isinstance(error, DatabaseLocked) and self.is_uncertain:
                return  # this attempt certainly did not happen; the one before may have
            if error.outcome is not Outcome.NOT_APPLIED and not self._writes:
                raise OperationalError(error.message, code=error.code) from None
            raise error
        elif is_database_missing(error):
            raise OutcomeUnknown(error.message, **error.details) if self.is_uncertain else error
        elif error.outcome is Outcome.UNKNOWN:
            self._lost(error)
        elif not self.is_uncertain:
            raise error

    def _lost(self, error: Error) -> None:
        self.is_uncertain = self._writes
        if not self._repeats:
            raise error

    async def _rest(self) -> None:
        """Wait a little before the next attempt; raises when the time is over."""
        if self.left_s <= self._pause_s:
            text = f"no answer within {self._timeout_s:g} s; the last attempt: {self._last}"
            if self.is_uncertain:
                raise OutcomeUnknown(text)
            raise NoLeader(text)
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(_PAUSE_MAX_S, 2 * self._pause_s)
