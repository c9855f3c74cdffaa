"""Requests and answers between nodes, on established connections. Loop thread.

The caller's half keeps, per connection, what waits for an answer; ids start at random and never leave their
connection, so that a late answer meets nobody. The server's half runs handlers, bounded per connection.
Says whether a request that failed was certainly not delivered (RpcNotSent) or may have been (RpcLost).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from dqlite_py.errors import (
    Busy,
    Error,
    InterfaceError,
    MalformedMessage,
    NodeStopped,
    NotSupportedError,
    OutcomeUnknown,
    RequestTooLarge,
    WrongCluster,
    from_wire,
)
from dqlite_py.limits import FRAME_FRAGMENT_BYTES, RPC_RUNNING_BYTES_MAX, RPC_RUNNING_MAX
from dqlite_py.logs import event
from dqlite_py.model import Address, NodeId
from dqlite_py.raft.connection import Connection
from dqlite_py.wire.frames import FrameType, OutgoingMessage
from dqlite_py.wire.rpc import (
    METHOD_LENGTH_MAX,
    Request,
    Response,
    decode_rpc,
    encode_rpc,
    error_body,
    pack_value,
    unpack_value,
)
from dqlite_py.wire.rpc import (
    RpcError as RpcError,
)
from dqlite_py.wire.rpc import (
    RpcLost as RpcLost,
)
from dqlite_py.wire.rpc import (
    RpcNotSent as RpcNotSent,
)
from dqlite_py.wire.sendqueue import Lane, Queued

log = logging.getLogger(__name__)
_NEVER: Final = math.inf


class RpcContext(NamedTuple):
    """Who asks. `verified`: a node of our cluster (as its handshake says, and its certificate with TLS).

    `connection`: by which it asks; PeerTransport.watch_callers tells when it is closed.
    """

    peer_id: NodeId
    verified: bool
    address: Address
    connection: Connection


Handler = Callable[[RpcContext, Any], Awaitable[Any]]


def _lane(message: OutgoingMessage) -> Lane:
    return Lane.RPC_LARGE if message.size_bytes > FRAME_FRAGMENT_BYTES else Lane.RPC


class _Pending(NamedTuple):
    method: str
    future: asyncio.Future[Any]
    queued: Queued
    deadline: float


class PendingCalls:
    """What one dialled connection waits for. One timer serves all calls, set to the earliest deadline."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pending: dict[int, _Pending] = {}
        self._ids = itertools.count(random.getrandbits(64))
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = _NEVER
        self.used_at = self._loop.time()

    def __len__(self) -> int:
        return len(self._pending)

    async def call(self, method: str, body: Any, deadline: float) -> Any:
        """The answer's body; raises RpcNotSent, RpcLost, or the errors.Error that the other side raised.

        Cancelled: the request is taken back if it is still wholly queued, else its answer is ignored.
        """
        number = next(self._ids) % 2**64
        message = OutgoingMessage(FrameType.REQUEST, encode_rpc(Request(number, method, pack_value(body))))
        queued = self._connection.send(_lane(message), message)
        if queued is None:
            raise RpcNotSent(f"{method}: the connection is closed or its queue is full")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending[number] = _Pending(method, future, queued, deadline)
        if deadline < self._timer_due:
            self._wait_until(deadline)
        try:
            return await future
        except asyncio.CancelledError:
            self._connection.take_back(queued)
            raise
        finally:
            del self._pending[number]
            self.used_at = self._loop.time()
            if future.done() and not future.cancelled():
                future.exception()  # seen, also when the caller was cancelled first

    def _wait_until(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = None if due == _NEVER else self._loop.call_at(due, self._time_over)

    def _time_over(self) -> None:
        """Fail the calls whose time is over; what is answered later is ignored."""
        due, following = self._timer_due, _NEVER
        for pending in self._pending.values():
            if pending.future.done():
                continue
            if pending.deadline > due:
                following = min(following, pending.deadline)
            elif self._connection.take_back(pending.queued):
                text = f"{pending.method}: still queued when its time was over"
                pending.future.set_exception(RpcNotSent(text))
            else:
                pending.future.set_exception(RpcLost(f"{pending.method}: no answer in time"))
        self._wait_until(following)

    def received(self, body: bytes | bytearray) -> None:
        """An answer arrived; raises MalformedMessage."""
        response = decode_rpc(body)
        if not isinstance(response, Response):
            raise MalformedMessage("a request where an answer belongs", what="response")
        pending = self._pending.get(response.id)
        if pending is None or pending.future.done():
            event(log, logging.DEBUG, "an answer nobody waits for", connection=self._connection)
        else:
            _settle(pending.future, response)

    def connection_lost(self, reason: str) -> None:
        """Fail what waits; called BEFORE the connection forgets its queue."""
        self._wait_until(_NEVER)
        for pending in self._pending.values():
            if pending.future.done():
                continue
            # Without its last frame the other side cannot have it.
            kind = RpcLost if pending.queued.handed_over else RpcNotSent
            pending.future.set_exception(kind(reason))


def _settle(future: asyncio.Future[Any], response: Response) -> None:
    try:
        value = unpack_value(response.body)
    except MalformedMessage as error:
        # The other side acted and its answer cannot be read: nothing is known.
        future.set_exception(RpcLost(f"the answer cannot be read: {error.message}"))
        return
    if response.failed:
        future.set_exception(from_wire(value))
    else:
        future.set_result(value)


@dataclass(slots=True)
class _Running:
    count: int = 0
    size_bytes: int = 0


class RpcServer:
    """Methods and the handlers at work."""

    def __init__(self) -> None:
        self._methods: dict[str, tuple[Handler, bool]] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order of their start
        self._running: dict[Connection, _Running] = {}

    @property
    def running_count(self) -> int:
        return len(self._tasks)

    def register(self, method: str, handler: Handler, open_to_joiners: bool) -> None:
        if method in self._methods or not 0 < len(method) <= METHOD_LENGTH_MAX:
            raise InterfaceError(f"method {method!r} is registered twice, or its name is too long")
        self._methods[method] = (handler, open_to_joiners)

    def request_received(self, connection: Connection, body: bytes | bytearray) -> None:
        """Start the handler, or answer at once when it may not run; raises MalformedMessage."""
        request = decode_rpc(body)
        if not isinstance(request, Request):
            raise MalformedMessage("an answer where a request belongs", what="request")
        refusal = self._refusal(connection, request.method, len(body))
        running = self._running.get(connection)
        if running is None:
            running = self._running[connection] = _Running()
        if running.count >= 2 * RPC_RUNNING_MAX:
            # Even refusals pile up when their answers are not read.
            connection.abort("too many requests whose answers are not taken")
            return
        running.count += 1
        running.size_bytes += len(body)
        work = self._refuse(connection, request, refusal) if refusal else self._serve(connection, request)
        task = asyncio.get_running_loop().create_task(work, name=f"rpc {request.method}")
        self._tasks[task] = None

        def finished(done: asyncio.Task[None]) -> None:
            self._tasks.pop(done, None)
            running.count -= 1
            running.size_bytes -= len(body)
            if not running.count:
                self._running.pop(connection, None)
            if not done.cancelled() and done.exception() is not None:
                event(
                    log,
                    logging.ERROR,
                    "answering a request failed",
                    method=request.method,
                    exc_info=done.exception(),
                )

        task.add_done_callback(finished)

    def open_method(self, method: str) -> Handler | None:
        """The handler of a method that is also for callers who are no nodes of this cluster."""
        handler, is_open = self._methods.get(method, (None, False))
        return handler if is_open else None

    async def stop(self) -> None:
        """Cancel the handlers and wait for them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _refusal(self, connection: Connection, method: str, size_bytes: int) -> Error | None:
        known = self._methods.get(method)
        if known is None and not self._methods:
            return NodeStopped("the node is starting: ask again")
        if known is None:
            return NotSupportedError(f"this release has no method {method!r}")
        if not (connection.verified or known[1]):
            return WrongCluster(f"{method!r} is for nodes of this cluster only")
        running = self._running.get(connection)
        if running is not None and (
            running.count >= RPC_RUNNING_MAX or running.size_bytes + size_bytes > RPC_RUNNING_BYTES_MAX
        ):
            return Busy(f"{running.count} requests of {running.size_bytes} bytes of this node are at work")
        return None

    async def _refuse(self, connection: Connection, request: Request, refusal: Error) -> None:
        await self._answer(connection, _failed(request, refusal))

    async def _serve(self, connection: Connection, request: Request) -> None:
        context = RpcContext(connection.peer_id, connection.verified, connection.peer_address, connection)
        handler, _ = self._methods[request.method]
        try:
            result = await handler(context, unpack_value(request.body))
            response = _succeeded(request, result)
        except Error as error:
            response = _failed(request, error)
        except Exception:  # noqa: BLE001 - logged
            event(
                log,
                logging.ERROR,
                "a request failed",
                method=request.method,
                node=context.peer_id,
                exc_info=True,
            )
            # It may have done its work before it failed.
            wrong = OutcomeUnknown(f"{request.method} failed; the node's log has the reason")
            response = _failed(request, wrong)
        await self._answer(connection, response)

    async def _answer(self, connection: Connection, response: Response) -> None:
        """Queue the answer, waiting for room; the connection may be gone: then nobody waits for it."""
        try:
            message = OutgoingMessage(FrameType.RESPONSE, encode_rpc(response))
        except RequestTooLarge as error:
            event(log, logging.WARNING, "an answer cannot be sent", reason=error.message)
            failed = Response(response.id, True, pack_value(error_body(_unsendable(error))))
            message = OutgoingMessage(FrameType.RESPONSE, encode_rpc(failed))
        if not connection.is_open or connection.send(_lane(message), message) is not None:
            return
        running = self._running.setdefault(connection, _Running())
        running.size_bytes += message.size_bytes
        try:
            while await connection.wait_space() and connection.send(_lane(message), message) is None:
                continue
        finally:
            running.size_bytes -= message.size_bytes


def _failed(request: Request, error: Error) -> Response:
    return Response(request.id, True, pack_value(error_body(error)))


def _succeeded(request: Request, result: Any) -> Response:
    try:
        return Response(request.id, False, pack_value(result))
    except (InterfaceError, RequestTooLarge) as error:
        return _failed(request, _unsendable(error))


def _unsendable(error: Error) -> OutcomeUnknown:
    """The handler has done its work: the caller must not hear that nothing happened."""
    return OutcomeUnknown(f"it was done, but the answer cannot be sent: {error.message}")
