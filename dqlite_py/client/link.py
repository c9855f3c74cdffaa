"""A process's way to one cluster: the connections, who leads, the keys of writes. Lives on its loop thread.

Made by `open_link`; what a request needs beside its own words. Knows no SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from dqlite_py.client import answers
from dqlite_py.client.caller import ClusterCaller
from dqlite_py.client.directory import Directory
from dqlite_py.client_sessions import ClientSessions
from dqlite_py.config import TlsSettings
from dqlite_py.errors import Error, MalformedMessage, OutcomeUnknown
from dqlite_py.gateway import UnitResult
from dqlite_py.model import Address
from dqlite_py.wire.rpc import RpcError, RpcNotSent

T = TypeVar("T")
MARGIN_S: Final = 0.5  # a node answers at its own deadline, and knows more than we do
TIMEOUT_MAX_S: Final = 3600.0  # of one request
_TELL_TIMEOUT_S: Final = 2.0


class Link:
    """`log_time_us`: the newest log time that an answer has told (microseconds since 1970)."""

    def __init__(self, addresses: Sequence[Address], tls: TlsSettings | None) -> None:
        self.caller = ClusterCaller(tls)
        self.directory = Directory(self.caller, addresses)
        self.log_time_us = 0
        self.sessions = ClientSessions(lambda: self.log_time_us)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    def read_unit(self, answer: Any) -> UnitResult:
        """The result in a node's answer to a write, and note the log time.

        Raises the unit's own error; OutcomeUnknown when the answer makes no sense: the node has acted.
        """
        try:
            result, log_time_us = answers.unit_answer(answer)
        except MalformedMessage as error:
            raise OutcomeUnknown(f"the write was answered, but not readably: {error.message}") from None
        self.log_time_us = max(self.log_time_us, log_time_us)
        return result

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that is kept until it is done; whoever made it looks at its result, or nobody does."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    def soon(self, function: Callable[[], object]) -> None:
        """From any thread: run it on the loop, unless that has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    async def close(self) -> None:
        await self.caller.stop()

    def descriptors(self) -> list[int]:
        """Of open sockets."""
        return self.caller.descriptors()


class Opened:
    """What an id stands for at one node: a result, a frozen state, a transaction. Its requests are not repeated.

    Without an address nothing was opened, and nobody is asked.
    """

    def __init__(self, link: Link, address: Address | None, id: bytes) -> None:
        self._link = link
        self.address = address
        self.id = id

    async def ask(
        self,
        method: str,
        body: dict[str, Any],
        timeout_s: float,
        lost: Callable[[str], Error],
        read: Callable[[Any], T],
        not_sent: Callable[[str], Error] | None = None,
    ) -> T:
        """What `read` makes of the answer; raises `lost(reason)` when there is none, `not_sent(reason)` when the node
        certainly did not hear of it."""
        if self.address is None:
            raise lost("no node was asked")
        try:
            timeout_s = min(timeout_s, TIMEOUT_MAX_S)
            body = {**body, "id": self.id, "timeout_s": timeout_s}
            return read(await self._link.caller.call(self.address, method, body, timeout_s + MARGIN_S))
        except RpcError as error:
            self._link.directory.failed(self.address, error)
            why = not_sent if not_sent is not None and isinstance(error, RpcNotSent) else lost
            raise why(f"{self.address}: {error}") from None

    def keep(self) -> Callable[[], None]:
        """What is open ends with its connection, and that is closed when nothing is asked for a while: prevent that,
        until the result is called (once)."""
        if self.address is None:
            return lambda: None
        return self._link.caller.keep_open(self.address)

    def tell(self, method: str) -> None:
        """Ask for what the node would come to by itself, later. Loop thread."""
        if self.address is not None:
            self._link.spawn(self._tell(self.address, method))

    async def _tell(self, address: Address, method: str) -> None:
        with contextlib.suppress(RpcError, Error):
            await self._link.caller.call(address, method, {"id": self.id}, _TELL_TIMEOUT_S)
