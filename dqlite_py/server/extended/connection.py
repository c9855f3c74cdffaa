"""One extended connection: its opening, its calls at work, and its answers. Loop thread.

Calls run side by side, each in a task, within bounds; their answers leave in whatever order they come. What handlers
hold for the connection ends when it does (ProgramMethods.watch_callers).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

from dqlite_py.errors import (
    Busy,
    Error,
    NodeStopped,
    NotSupportedError,
    OutcomeUnknown,
)
from dqlite_py.limits import (
    CONTROL_QUEUE_BYTES_MAX,
    RPC_RUNNING_BYTES_MAX,
    RPC_RUNNING_MAX,
    WRITE_BUFFER_BYTES_MAX,
)
from dqlite_py.logs import event
from dqlite_py.node.programs import Method
from dqlite_py.server.extended.calls import RunningCall, packed_result
from dqlite_py.wire.address import join_address
from dqlite_py.wire.dqlite import extension as ext
from dqlite_py.wire.dqlite.extension_flow import Assembly, ExtensionQueue
from dqlite_py.wire.dqlite.frames import FrameReader
from dqlite_py.wire.dqlite.primitives import WORD_BYTES
from dqlite_py.wire.dqlite.violations import CODE_PARSE, ProtocolViolation
from dqlite_py.wire.handshake import NO_CLUSTER
from dqlite_py.wire.rpc import error_body, pack_value, unpack_value

if TYPE_CHECKING:
    from dqlite_py.server.extended.server import ExtendedServer

log = logging.getLogger(__name__)
_PAUSE_BYTES: Final = WRITE_BUFFER_BYTES_MAX // 2
_LINGER_S: Final = 5.0  # for a client to take the last words of a connection that is closed
_SMALL_BYTES: Final = (
    1024 * 1024
)  # a connection that has no more to send is never ended for the memory of all


class ExtendedConnection(asyncio.Protocol):
    """`is_open`: EXTEND was answered, and the connection is not closed. `heard_at`, `piece_at` (when a piece of a
    message came last) and `stalled_since` (nothing is taken of what is sent): loop time."""

    def __init__(self, server: ExtendedServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self.is_open = False
        self.where = "nowhere"
        self.lost = asyncio.Event()  # the socket is gone
        self.heard_at = self.piece_at = self._loop.time()
        self.stalled_since: float | None = None
        self._has_heard = False
        self._handshake_left = WORD_BYTES
        self._reader = FrameReader(ext.FRAME_BYTES_MAX)
        self._assembly = Assembly(RPC_RUNNING_BYTES_MAX, RPC_RUNNING_MAX)
        self._discarded: set[int] = set()  # calls whose pieces are not kept: there are too many
        self._queue = ExtensionQueue()
        self._unsent_bytes = 0  # as the server has counted them
        self._calls: dict[int, RunningCall] = {}
        self._running_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._is_closed = False
        self._is_flush_planned = False
        self._space: asyncio.Event | None = None  # set when the queue has shrunk
        self._lingering: asyncio.TimerHandle | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_PAUSE_BYTES)
        name = transport.get_extra_info("peername")
        self.where = join_address(name[0], name[1]) if isinstance(name, tuple) else repr(name)
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._is_closed:
            return
        self._has_heard = True
        if self._handshake_left:
            cut = min(self._handshake_left, len(data))
            self._handshake_left -= cut
            data = data[cut:]
        reader = self._reader
        try:
            reader.feed(data)
            while (frame := reader.next_frame()) is not None:
                self._received(ext.decode_from_client(frame))
                if self._is_closed:
                    return
        except ProtocolViolation as violation:
            self._refuse(violation.code or CODE_PARSE, violation.message)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._is_paused = True
        if self.stalled_since is None:
            self.stalled_since = self._loop.time()

    def resume_writing(self) -> None:
        self._is_paused = False
        self.stalled_since = None
        self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
        self._shut()
        self.lost.set()

    @property
    def holds_pieces(self) -> bool:
        """Of messages whose end has not come."""
        return len(self._assembly) > 0

    def note_heard(self, now: float) -> None:
        """Take over into `heard_at` what came since the last call."""
        if self._has_heard:
            self._has_heard = False
            self.heard_at = now

    # -- closing

    def abort(self, reason: str) -> None:
        """Close at once; what is queued is dropped."""
        if not self._is_closed:
            event(log, logging.INFO, "a program's connection is dropped", where=self.where, reason=reason)
        self._shut()
        if self._transport is not None:
            self._transport.abort()

    async def stop(self) -> None:
        """End the calls, hand what is answered to the socket and close it."""
        for task in (tasks := [call.task for call in self._calls.values()]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._close()

    def _close(self) -> None:
        if self._transport is not None and not self._is_closed:
            self._transport.write(b"".join(self._queue.take(2 * WRITE_BUFFER_BYTES_MAX)))
            self._transport.close()
            self._lingering = self._loop.call_later(_LINGER_S, self._transport.abort)
        self._shut()

    def _shut(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.is_open = False
        self._queue.clear()
        if self._space is not None:
            self._space.set()
        self._server.pieces_bytes -= self._assembly.held_bytes
        self._note_unsent()
        for call in list(self._calls.values()):
            call.not_wanted()
        self._server.gone(self)

    def _refuse(self, code: int, reason: str) -> None:
        """Say why, as dqlite does, and close."""
        self._server.refused(self.where, reason)
        self._queue.push_control(ext.encode_message(ext.Failure(code, reason)))
        self._close()

    # -- messages

    def _received(self, message: ext.Message) -> None:
        if not self.is_open:
            if not isinstance(message, ext.Extend):
                raise ProtocolViolation("a message before EXTEND", code=CODE_PARSE)
            self._extend(message)
            return
        match message:
            case ext.Call():
                self._call(message)
            case ext.Cancel():
                self._cancel(message.id)
            case ext.Credit():
                call = self._calls.get(message.id)
                if call is not None:
                    call.allow(message.pieces)
            case ext.Part():
                self._part(message)
            case ext.Ping():
                if self._queue.size_bytes < CONTROL_QUEUE_BYTES_MAX:  # who reads is answered
                    self._send_control(ext.encode_message(message))
            case _:
                raise ProtocolViolation("EXTEND on an extended connection", code=CODE_PARSE)

    def _extend(self, extend: ext.Extend) -> None:
        who = self._server.who()
        cluster_id = who.cluster_id
        if extend.version != ext.EXTENSION_VERSION:
            text = f"version {extend.version} of the extension is not known here, {ext.EXTENSION_VERSION} is"
            self._refuse(ext.RefusalCode.UNKNOWN_VERSION, text)
        elif self._server.is_stopping:
            self._refuse(ext.RefusalCode.STOPPING, "the node is stopping")
        elif cluster_id == NO_CLUSTER:
            self._refuse(ext.RefusalCode.NO_CLUSTER, "this node belongs to no cluster (yet)")
        elif extend.cluster_id not in (b"", cluster_id):
            text = f"this node belongs to cluster {cluster_id.hex()}, not to {extend.cluster_id.hex()}"
            self._refuse(ext.RefusalCode.WRONG_CLUSTER, text)
        elif self._server.is_full:
            self._refuse(ext.RefusalCode.FULL, "this node has as many connections as it can hold")
        else:
            self.is_open = True
            answer = ext.Extended(ext.EXTENSION_VERSION, ext.FEATURES, cluster_id, who.node_id)
            self._send_control(ext.encode_message(answer))

    def _part(self, part: ext.Part) -> None:
        server = self._server
        if part.id in self._calls:
            raise ProtocolViolation(f"a call with the id {part.id} is at work", code=CODE_PARSE)
        if part.id in self._discarded:
            return
        if server.pieces_bytes + len(part.piece) > server.held_bytes_max:
            if len(self._discarded) >= RPC_RUNNING_MAX:
                raise ProtocolViolation("too many messages in pieces", code=CODE_PARSE)
            self._drop_pieces(part.id)
            self._discarded.add(part.id)
            return
        self._assembly.add(part)
        server.pieces_bytes += len(part.piece)
        self.piece_at = self._loop.time()

    def _drop_pieces(self, call_id: int) -> None:
        before = self._assembly.held_bytes
        self._assembly.drop(call_id)
        self._server.pieces_bytes += self._assembly.held_bytes - before
        self._discarded.discard(call_id)

    def _cancel(self, call_id: int) -> None:
        self._drop_pieces(call_id)
        call = self._calls.get(call_id)
        if call is not None:
            call.not_wanted()

    def _call(self, call: ext.Call) -> None:
        if call.id in self._calls:
            raise ProtocolViolation(f"a call with the id {call.id} is at work", code=CODE_PARSE)
        before = self._assembly.held_bytes
        body = self._assembly.whole(call.id, call.body)
        self._server.pieces_bytes += self._assembly.held_bytes - before
        if len(self._calls) >= 2 * RPC_RUNNING_MAX:
            # Even refusals pile up when their answers are not read.
            self._refuse(CODE_PARSE, "too many calls whose answers are not taken")
            return
        method = self._server.methods.get(call.method)
        refusal = self._refusal(call.method, method, len(body))
        if call.id in self._discarded:
            self._discarded.remove(call.id)
            refusal = Busy(f"requests of {self._server.pieces_bytes} bytes are on their way to this node")
        running = RunningCall(self, call.id, method is not None and method.ends_when_cancelled)
        work = self._serve(running, call.method, method, body, refusal)
        running.task = task = self._loop.create_task(work)
        self._calls[call.id] = running
        self._running_bytes += len(body)
        self._server.held_bytes += len(body)

        def finished(done: asyncio.Task[None]) -> None:
            self._calls.pop(call.id, None)
            self._running_bytes -= len(body)
            self._server.held_bytes -= len(body)
            if done.cancelled():  # perhaps before it began
                self._ended(running, call.method)
            elif done.exception() is not None:
                event(
                    log,
                    logging.ERROR,
                    "answering a program failed",
                    method=call.method,
                    exc_info=done.exception(),
                )

        task.add_done_callback(finished)

    def _ended(self, call: RunningCall, name: str) -> None:
        """Answer a call whose handler was cancelled, if there is room: nobody waits for it, or the node stops."""
        why = "the node stopped" if self._server.is_stopping else "it was cancelled by the caller"
        packed = pack_value(error_body(OutcomeUnknown(f"{name}: {why} before it was answered")))
        last = call.last
        if last is not None and self._queue.remove(last) and last.is_begun:
            packed = b""  # ends the piece, which makes no sense then: nobody looks at it
        if self.is_open and self._queue.push_answer(call.id, ext.AnswerKind.ERROR, packed) is not None:
            self._flush_soon()

    def _refusal(self, name: str, method: Method | None, size_bytes: int) -> Error | None:
        server = self._server
        if method is None and server.methods.get("status") is None:
            return NodeStopped("the node is starting: ask again")
        if method is None:
            return NotSupportedError(f"this node has no method {name!r} for programs")
        if len(self._calls) >= RPC_RUNNING_MAX or self._running_bytes + size_bytes > RPC_RUNNING_BYTES_MAX:
            return Busy(
                f"{len(self._calls)} calls of {self._running_bytes} bytes are at work on this connection"
            )
        if server.held_bytes > server.held_bytes_max:
            return Busy(
                f"calls and answers of {server.held_bytes} bytes of all programs are at work on this node"
            )
        return None

    # -- answers

    async def _serve(
        self, call: RunningCall, name: str, method: Method | None, body: bytes, refusal: Error | None
    ) -> None:
        kind, packed = ext.AnswerKind.ERROR, b""
        try:
            if refusal is not None or method is None:
                raise refusal or NotSupportedError(name)
            packed = packed_result(await method.handler(call, unpack_value(body)))
            kind = ext.AnswerKind.OK
        except Error as error:
            packed = pack_value(error_body(error))
        except Exception:  # noqa: BLE001 - one call's trouble
            event(log, logging.ERROR, "a program's call failed", method=name, where=self.where, exc_info=True)
            # It may have done its work before it failed.
            wrong = OutcomeUnknown(f"{name} failed; the node's log has the reason")
            packed = pack_value(error_body(wrong))
        await self.answer(call, kind, packed)

    async def answer(self, call: RunningCall, kind: ext.AnswerKind, packed: bytes) -> None:
        """Queue an answer, waiting for room; the connection may be gone: then nobody waits for it.

        The answers of one call stay in order: a large one has to have left BEFORE the next is queued.
        """
        while self.is_open:
            if call.last is None or call.last.is_handed_over:
                call.last = self._queue.push_answer(call.id, kind, packed)
                if call.last is not None:
                    if self._is_paused:
                        self._note_unsent()
                    self._flush_soon()
                    return
            if self._server.is_stopping:
                return
            if self._space is None:
                self._space = asyncio.Event()
            self._space.clear()
            self._server.held_bytes += len(packed)
            try:
                await self._space.wait()
            finally:
                self._server.held_bytes -= len(packed)

    def _send_control(self, frame: bytes) -> None:
        self._queue.push_control(frame)
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Once at the end of this turn of the loop."""
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
        if self._space is not None:
            self._space.set()
        if self._queue.size_bytes:
            self._flush_soon()
        self._note_unsent()

    def _note_unsent(self) -> None:
        server, size = self._server, self._queue.size_bytes
        server.unsent_bytes += size - self._unsent_bytes
        self._unsent_bytes = size
        if self._is_paused and size > _SMALL_BYTES and server.unsent_bytes > server.held_bytes_max:
            self.abort(f"answers of {server.unsent_bytes} bytes are not taken by programs")
