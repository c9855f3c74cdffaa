"""One connection to a node by the extension of dqlite's protocol: the opening, calls, streams. Loop thread.

Says whether a call that failed was certainly not delivered (RpcNotSent) or may have been executed (RpcLost). Its owner
(client.connections) looks after idle ones.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

from dqlite_py.errors import MalformedMessage, RequestTooLarge, WrongCluster, from_wire
from dqlite_py.limits import RPC_RUNNING_BYTES_MAX, RPC_RUNNING_MAX, WRITE_BUFFER_BYTES_MAX
from dqlite_py.wire.dqlite import extension as ext
from dqlite_py.wire.dqlite.extension_flow import Assembly, ExtensionQueue, Queued
from dqlite_py.wire.dqlite.frames import FrameReader
from dqlite_py.wire.dqlite.violations import ProtocolViolation
from dqlite_py.wire.rpc import RpcLost, RpcNotSent, pack_value, unpack_value

CALLS_MAX: Final = RPC_RUNNING_MAX * 3 // 4  # in turn; the rest is for what others may be waiting for
_NEVER: Final = math.inf
_PAUSE_BYTES: Final = WRITE_BUFFER_BYTES_MAX // 2
OnMore = Callable[[Any], None]


class NotServing(RpcNotSent):
    """By a node of ours, which cannot serve programs now."""


class NotExtended(RpcNotSent):
    """The server answers, and does not know the extension: a stock dqlite, or another release of ours."""


class NoRoom(RpcNotSent):
    """The connection is well, and has as much under way as it may."""


class StockAnswer(NotExtended):
    """The server has said so itself, in dqlite's words."""


class _Pending(NamedTuple):
    method: str
    future: asyncio.Future[Any]
    queued: Queued
    deadline: float
    on_more: OnMore | None


class NodeConnection(asyncio.Protocol):
    """`opened`: the node's answer to EXTEND; fails with WrongCluster, NotExtended or RpcNotSent.

    `keepers`: who wants it open without calls on it. `turns`: held by calls that may have to wait for the ones before.
    `heard_at`, `sent_at`, `used_at`: loop time.
    """

    def __init__(self, cluster_id: bytes) -> None:
        """`cluster_id`: the one to belong to, or empty for any."""
        self._loop = asyncio.get_running_loop()
        self._cluster_id = cluster_id
        self.opened: asyncio.Future[ext.Extended] = self._loop.create_future()
        self.lost = asyncio.Event()  # the socket is gone
        self.keepers = 0
        self.turns = asyncio.Semaphore(CALLS_MAX)
        self.heard_at = self.sent_at = self.used_at = self._loop.time()
        self.on_closed: Callable[[], None] = _nothing
        self._has_heard = self._has_sent = False
        self._reader = FrameReader(ext.FRAME_BYTES_MAX)
        self._assembly = Assembly(RPC_RUNNING_BYTES_MAX, RPC_RUNNING_MAX)
        self._queue = ExtensionQueue()
        self._pending: dict[int, _Pending] = {}
        self._ids = itertools.count(random.getrandbits(62))
        self._transport: asyncio.Transport | None = None
        self._is_paused = self._is_flush_planned = self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = _NEVER

    @property
    def is_open(self) -> bool:
        return not self._is_closed

    @property
    def call_count(self) -> int:
        return len(self._pending)

    @property
    def fileno(self) -> int:
        """-1 without a socket."""
        found = None if self._transport is None else self._transport.get_extra_info("socket")
        return -1 if found is None else int(found.fileno())

    # -- calls

    async def call(self, method: str, body: Any, deadline: float) -> Any:
        """The answer's value; raises RpcNotSent, RpcLost, or the errors.Error that the node raised.

        Cancelled: the call is taken back if it is still here, else the node is told that nobody waits.
        """
        return await self.finish(self.begin(method, body, deadline))

    def begin(self, method: str, body: Any, deadline: float, on_more: OnMore | None = None) -> int:
        """Send a call; its number is for `finish`, which is to be awaited at once. Raises RpcNotSent.

        `on_more` hears the pieces that come before the answer, for which `allow` has to be called.
        """
        packed = pack_value(body)
        if len(packed) > ext.BODY_BYTES_MAX:
            raise RequestTooLarge(f"{method}: a request of {len(packed)} bytes, at most {ext.BODY_BYTES_MAX}")
        number = next(self._ids)
        if self._is_closed:
            raise RpcNotSent(f"{method}: the connection is closed")
        queued = self._queue.push_call(number, method, packed)
        if queued is None:
            raise NoRoom(f"{method}: the connection's queue is full")
        self._flush_soon()
        self._pending[number] = _Pending(method, self._loop.create_future(), queued, deadline, on_more)
        if deadline < self._timer_due:
            self._wait_until(deadline)
        return number

    async def finish(self, number: int) -> Any:
        """The answer to what was begun; as `call`."""
        pending = self._pending[number]
        future = pending.future
        try:
            return await future
        except asyncio.CancelledError:
            self._give_up(number, pending.queued)
            raise
        finally:
            self._pending.pop(number, None)
            self.used_at = self._loop.time()
            if future.done() and not future.cancelled():
                future.exception()  # seen, also when the caller was cancelled first

    def allow(self, number: int, pieces: int) -> None:
        """Take so many more pieces of a stream."""
        self._send_control(ext.encode_message(ext.Credit(number, pieces)))

    def ping(self) -> None:
        self._send_control(ext.encode_message(ext.Ping(0)))

    def _give_up(self, number: int, queued: Queued) -> bool:
        """Nobody waits for the call any more; whether the node certainly has nothing of it to execute."""
        is_back = self._queue.remove(queued)
        if not is_back or queued.is_begun:
            self._send_control(ext.encode_message(ext.Cancel(number)))
        return is_back

    def _wait_until(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = None if due == _NEVER else self._loop.call_at(due, self._time_over)

    def _time_over(self) -> None:
        """Fail the calls whose time is over; what is answered later is ignored."""
        due, following = self._timer_due, _NEVER
        for number, pending in self._pending.items():
            if pending.future.done():
                continue
            if pending.deadline > due:
                following = min(following, pending.deadline)
            elif self._give_up(number, pending.queued):
                text = f"{pending.method}: still queued when its time was over"
                pending.future.set_exception(RpcNotSent(text))
            else:
                pending.future.set_exception(RpcLost(f"{pending.method}: no answer in time"))
        self._wait_until(following)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_PAUSE_BYTES)
        self._transport.write(ext.encode_opening(self._cluster_id))

    def data_received(self, data: bytes) -> None:
        if self._is_closed:
            return
        self._has_heard = True
        try:
            self._reader.feed(data)
            while (frame := self._reader.next_frame()) is not None:
                self._received(ext.decode_from_node(frame))
                if self._is_closed:
                    return
        except ProtocolViolation as violation:
            self.close(f"the server's bytes make no sense: {violation.message}", NotExtended)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._shut(self._why_lost(exc), RpcNotSent if exc else NotExtended)
        self.lost.set()

    def _why_lost(self, exc: Exception | None) -> str:
        reason = getattr(exc, "reason", None) or ""  # of an SSLError: OpenSSL's name
        if "_ALERT_" in reason:
            said = reason.partition("_ALERT_")[2].replace("_", " ").lower()
            return f"the node refuses this program's certificate: {said}"
        text = str(exc) if exc else "the node closed the connection"
        if self.opened.done():
            return text
        # With TLS 1.3 a client is judged after its handshake has ended.
        if self._transport is not None and self._transport.get_extra_info("sslcontext"):
            return f"{text}; it may not take this program's certificate"
        return f"{text}; it may require TLS"

    def note_activity(self, now: float) -> None:
        """Take over what happened since the last call."""
        if self._has_heard:
            self._has_heard = False
            self.heard_at = now
        if self._has_sent:
            self._has_sent = False
            self.sent_at = now

    # -- closing

    def close(self, reason: str, kind: type[RpcNotSent] = RpcNotSent) -> None:
        """Close; what waits for an answer fails. `kind` is what an opening fails with."""
        self._shut(reason, kind)
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """The same at once, without another word to the node."""
        self._shut(reason, RpcNotSent)
        if self._transport is not None:
            self._transport.abort()

    def _shut(self, reason: str, kind: type[RpcNotSent]) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if not self.opened.done():
            self.opened.set_exception(kind(reason))
        if not self.opened.cancelled():
            self.opened.exception()  # seen, also when nobody waits
        self._wait_until(_NEVER)
        for pending in self._pending.values():
            if not pending.future.done():
                # Without its last piece the node cannot have it.
                failed = RpcLost if pending.queued.is_handed_over else RpcNotSent
                pending.future.set_exception(failed(reason))
        self._queue.clear()
        self.on_closed()

    # -- messages

    def _received(self, message: ext.Message) -> None:
        match message:
            case ext.Answer():
                body = self._assembly.whole(message.id, message.body)
                pending = self._pending.get(message.id)
                if pending is None or pending.future.done():
                    return  # nobody waits for it any more
                if message.kind is ext.AnswerKind.MORE:
                    self._more(message.id, pending, body)
                else:
                    _settle(pending.future, message.kind, body)
            case ext.Part():
                self._assembly.add(message)
            case ext.Ping():
                pass
            case ext.Extended() if not self.opened.done():
                self._judge(message)
            case ext.Failure() if not self.opened.done():
                self._refused(message)
            case ext.Failure():
                self.close(f"the node refuses to go on: {message.message}")
            case _:
                raise ProtocolViolation("EXTENDED twice")

    def _judge(self, extended: ext.Extended) -> None:
        if extended.version != ext.EXTENSION_VERSION:
            self.close(f"the server speaks version {extended.version} of the extension", NotExtended)
        elif self._cluster_id not in (b"", extended.cluster_id):
            self._fail(WrongCluster(f"the node belongs to cluster {extended.cluster_id.hex()}"))
        else:
            self.opened.set_result(extended)

    def _refused(self, failure: ext.Failure) -> None:
        if failure.code == ext.RefusalCode.WRONG_CLUSTER:
            self._fail(WrongCluster(failure.message))
        elif failure.code in _REFUSALS:
            self._fail(NotServing(failure.message))
        else:
            self._fail(StockAnswer(f"a server of dqlite itself: {failure.message} ({failure.code})"))

    def _fail(self, error: Exception) -> None:
        self.opened.set_exception(error)
        self.close(str(error))

    def _more(self, number: int, pending: _Pending, body: bytes) -> None:
        if pending.on_more is None:
            raise ProtocolViolation("a piece where no stream was asked for")
        try:
            pending.on_more(unpack_value(body))
        except MalformedMessage as error:
            self._give_up(number, pending.queued)
            pending.future.set_exception(error)

    # -- sending

    def _send_control(self, frame: bytes) -> None:
        if not self._is_closed:
            self._queue.push_control(frame)
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Once at the end of this turn of the loop: what many ask together leaves together."""
        if not (self._is_flush_planned or self._is_paused):
            self._is_flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_planned = False
        transport = self._transport
        if self._is_paused or self._is_closed or transport is None:
            return
        frames = self._queue.take(WRITE_BUFFER_BYTES_MAX)
        if frames:
            transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
            self._has_sent = True
        if self._queue.size_bytes:
            self._flush_soon()


_REFUSALS: Final = frozenset(ext.RefusalCode)


def _settle(future: asyncio.Future[Any], kind: ext.AnswerKind, body: bytes) -> None:
    try:
        value = unpack_value(body)
    except MalformedMessage as error:
        # The node acted and its answer cannot be read: nothing is known.
        future.set_exception(RpcLost(f"the answer cannot be read: {error.message}"))
        return
    if kind is ext.AnswerKind.ERROR:
        told = from_wire(value)
        if isinstance(told, MalformedMessage) and not _names_it(value):
            future.set_exception(RpcLost(f"the node's error cannot be read: {told.message}"))
        else:
            future.set_exception(told)
    else:
        future.set_result(value)


def _names_it(value: Any) -> bool:
    """Whether it is the node that calls something malformed."""
    return isinstance(value, list) and value[:1] == [MalformedMessage.__name__]


def _nothing() -> None:
    """Nobody wants to know."""
