"""One client's socket: bytes to frames, one request at a time, answers in order, bounded memory. Loop thread.

While a request is at work the next frame is looked at, no further: an INTERRUPT of a query ends it, anything else waits
in its place. Reading stops when a client sends on regardless, writing waits when it does not take its rows. An idle
connection is this object, an empty buffer and a socket; there is no task and no timer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

from dqlite_py.errors import Error
from dqlite_py.limits import DQLITE_GREETING_BYTES_MAX
from dqlite_py.logs import event
from dqlite_py.raft.quietlog import QuietLog
from dqlite_py.server.dqlite import answers
from dqlite_py.server.dqlite.extension import Extension, is_extended
from dqlite_py.server.dqlite.failures import ERROR, Refused, in_doubt
from dqlite_py.server.dqlite.requests import WITH_SQL, Requests
from dqlite_py.server.dqlite.settings import READ_AHEAD_BYTES, SMALL_BYTES
from dqlite_py.server.dqlite.sockets import keep_alive
from dqlite_py.wire.address import join_address
from dqlite_py.wire.dqlite.frames import Frame, FrameReader, Version, decode_handshake
from dqlite_py.wire.dqlite.requests import RequestType
from dqlite_py.wire.dqlite.responses import Failure
from dqlite_py.wire.dqlite.violations import ProtocolViolation

if TYPE_CHECKING:
    from dqlite_py.server.dqlite.server import DqliteServer

log = QuietLog(logging.getLogger("dqlite_py.server"))
HANDSHAKE_BYTES: Final = 8
_INTERRUPTED: Final = (RequestType.QUERY, RequestType.QUERY_SQL)


class Connection(asyncio.Protocol):
    __slots__ = (
        "_counted_bytes",
        "_drained",
        "_extension",
        "_is_advancing",
        "_is_closing",
        "_is_interrupted",
        "_is_reading_paused",
        "_next",
        "_reader",
        "_requests",
        "_server",
        "_task",
        "_transport",
        "_version",
        "_why_last",
        "_working",
        "_working_bytes",
        "_written_bytes",
        "is_writing_paused",
        "partial_since",
        "stalled_since",
        "stalled_taken",
        "where",
    )

    def __init__(self, server: DqliteServer) -> None:
        self._server = server
        self._reader = FrameReader(DQLITE_GREETING_BYTES_MAX)
        self._requests: Requests | None = None
        self._version: Version | None = None
        self._extension: Extension | None = None
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[bytes] | None = None
        self._working: int | None = None  # type of the request at work
        self._working_bytes = 0
        self._next: Frame | None = None
        self._drained: asyncio.Future[None] | None = None
        self._is_interrupted = False
        self._is_closing = False
        self._is_advancing = False
        self._why_last: str | None = None
        self._is_reading_paused = False
        self._counted_bytes = 0
        self.is_writing_paused = False
        self.partial_since: float | None = None
        self.stalled_since: float | None = None
        self.stalled_taken = 0
        self._written_bytes = 0
        self.where = "nowhere"

    # -- asyncio.Protocol -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._server.write_buffer_bytes)
        name = transport.get_extra_info("peername")
        self.where = join_address(name[0], name[1]) if isinstance(name, tuple) else repr(name)
        keep_alive(transport.get_extra_info("socket"))
        refusal = self._server.admit(self)
        if refusal is not None:
            self._refuse(refusal)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        if self._version is None:
            try:
                self._version = decode_handshake(data[:HANDSHAKE_BYTES])
            except ProtocolViolation as violation:  # the listener lets only whole, known ones through
                self._violated("handshake", violation)
                return
            data = data[HANDSHAKE_BYTES:]
        self._reader.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.is_writing_paused = True
        self._server.stalled(self)

    def resume_writing(self) -> None:
        self.is_writing_paused = False
        if not self._is_closing:
            self._server.flows(self)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._extension is not None:
            self._extension.writable()
        self._advance()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._is_closing = True
        self._server.gone(self)
        extension, self._extension = self._extension, None
        if extension is not None:
            extension.closed()
        if self._drained is not None and not self._drained.done():
            self._drained.cancel()
        if self._task is not None:
            self._task.cancel()
        requests, self._requests = self._requests, None
        if requests is not None:
            requests.gone(after=self._task)

    # -- frames -----------------------------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        """Of answers."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def taken_bytes(self) -> int:
        """Of answers, by the client or what is between it and us."""
        return self._written_bytes - self.unsent_bytes

    @property
    def buffered_bytes(self) -> int:
        """Received, and not yet a request at work."""
        return self._reader.buffered_bytes + (len(self._next.body) if self._next is not None else 0)

    def _advance(self) -> None:
        """Begin as many requests as can be now."""
        if self._is_advancing:  # an answer that was there at once: who called begins the next request
            return
        self._is_advancing = True
        try:
            while not self._is_closing:
                if self._why_last is not None and self._working is None:
                    self.close(self._why_last)
                    break
                if self._next is None:
                    self._next = self._reader.next_frame()
                    if self._next is not None and len(self._next.body) > SMALL_BYTES:
                        self._account()  # BEFORE it is at work, and not to be refused any more
                        continue
                frame = self._next
                if frame is None:
                    break
                if is_extended(frame.type) and self._server.extension is not None:
                    self._next = None
                    self._extended(frame)
                elif self._working is None:
                    if self.is_writing_paused:
                        break  # who does not take answers gets no more of them
                    self._next = None
                    self._begin(frame)
                elif (
                    frame.type == RequestType.INTERRUPT
                    and self._working in _INTERRUPTED
                    and not self._is_interrupted  # a second one has its answer when this one has
                ):
                    self._next = None
                    self._is_interrupted = True
                    self._session().sql.interrupt()
                    if self._drained is not None and not self._drained.done():
                        self._drained.set_result(None)
                    break
                else:
                    break
        except ProtocolViolation as violation:
            self._violated("frame", violation)
        finally:
            self._is_advancing = False
        self._account()

    def _session(self) -> Requests:
        if self._requests is None:
            self._requests = Requests(self._server, self)
        return self._requests

    def _extended(self, frame: Frame) -> None:
        if self._extension is None:
            make = self._server.extension
            assert make is not None
            self.trust()
            self._extension = make(self)
        self._extension.on_frame(frame)

    def _begin(self, frame: Frame) -> None:
        self._server.counters.requests += 1
        self._server.partial(self, is_partial=False)
        self._working = frame.type
        self._working_bytes = len(frame.body)
        try:
            work = self._session().begin(frame, is_legacy=self._version is Version.LEGACY)
        except ProtocolViolation as violation:
            self._working, self._working_bytes = None, 0
            if violation.is_fatal or violation.code is None:
                raise
            # The frame is whole, and so is what follows it: an answer, and on.
            self._server.violation(self, "request", violation.message)
            self.write(answers.failure(Failure(violation.code, violation.message)))
        except Refused as refused:
            self._answer(answers.failure(refused.failure))
        except Error as error:
            self._answer(self._session().failure(error))
        except Exception as error:  # noqa: BLE001  # one connection's trouble
            self._answer(self._broken(error))
            self.close(
                "a request failed unexpectedly"
            )  # what it began may still answer, in the next one's place
        else:
            if isinstance(work, bytes):
                self._answer(work)
            elif work is not None:
                self._task = self._server.loop.create_task(work)
                self._task.add_done_callback(self._worked)

    def _answer(self, frames: bytes) -> None:
        self._working, self._working_bytes = None, 0
        self.write(frames)

    def answered(self, frames: bytes) -> None:
        """By a request without a task: it is over."""
        self._answer(frames)
        self._advance()

    def _worked(self, task: asyncio.Task[bytes]) -> None:
        self._task = None
        if task.cancelled():  # the client is gone, or else hears at least that
            self.close("a request was given up")
            return
        error = task.exception()
        if error is None:
            frames = task.result()
        elif isinstance(error, Refused):
            frames = answers.failure(error.failure)
        elif isinstance(error, Error):
            frames = self._session().failure(error)
        else:
            frames = self._broken(error)
        if self._is_interrupted:
            self._is_interrupted = False
            frames = answers.EMPTY
        self._answer(frames)
        self._advance()

    def _broken(self, error: BaseException) -> bytes:
        event(log, logging.ERROR, "a client's request failed", where=self.where, reason=repr(error))
        self._server.counters.failures += 1
        # SQL may have done its work before it failed.
        why = f"internal error: {type(error).__name__}"
        if self._working in WITH_SQL:
            return answers.failure(in_doubt(why, is_alone=self._session().is_alone))
        return answers.failure(Failure(ERROR, why))

    # -- for requests that stream -----------------------------------------------------------------------

    def trust(self) -> None:
        """A database is open: requests may be as large as SQL is."""
        self._reader.body_bytes_max = self._server.request_bytes_max

    @property
    def is_interrupted(self) -> bool:
        return self._is_interrupted

    def write(self, frames: bytes) -> None:
        if self._transport is not None and not self._is_closing:
            self._written_bytes += len(frames)
            self._transport.write(frames)

    async def drain(self) -> None:
        """Return when the client takes more, or the query is interrupted."""
        if not self.is_writing_paused or self._is_interrupted:
            await asyncio.sleep(0)  # others' turn: encoding rows takes time
            return
        self._drained = self._server.loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None

    # -- bounds -------------------------------------------------------------------------------------------

    def _account(self) -> None:
        """Of memory and time: what is here, at work or not."""
        if self._is_closing:
            return
        size = self.buffered_bytes
        server, held = self._server, size + self._working_bytes
        server.buffered_bytes += held - self._counted_bytes
        self._counted_bytes = held
        if size > SMALL_BYTES and server.buffered_bytes > server.requests_bytes_max:
            text = f"requests of all clients hold {server.buffered_bytes} bytes: try again later"
            self._violated("memory", ProtocolViolation(text, code=ERROR))
            return
        is_waiting = self._working is not None or self.is_writing_paused
        if is_waiting and size > READ_AHEAD_BYTES:
            self._pause_reading()
        elif self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = False
            self._transport.resume_reading()
        server.partial(self, is_partial=size > 0 and not is_waiting)

    def _pause_reading(self) -> None:
        if not self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def forget_bytes(self) -> int:
        counted, self._counted_bytes = self._counted_bytes, 0
        return counted

    def _violated(self, kind: str, violation: ProtocolViolation) -> None:
        self._server.violation(self, kind, violation.message)
        if (
            violation.code is None or self._working is not None
        ):  # it would be taken for the answer of what is at work
            self.close(violation.message)
        else:
            self._refuse(Failure(violation.code, violation.message))

    def _refuse(self, failure: Failure) -> None:
        self.write(answers.failure(failure))
        self.close(failure.message)

    def close(self, reason: str) -> None:
        """Once what was written is sent."""
        if not self._is_closing and self._transport is not None:
            event(log, logging.INFO, "a client's connection is closed", where=self.where, reason=reason)
            self._is_closing = True
            self._next, self._reader = None, FrameReader(0)  # nobody looks at it any more
            self._server.buffered_bytes -= self.forget_bytes()
            self._transport.close()
            self._server.stalled(self)  # until all is sent, or the client has not taken it for too long

    def finish(self, reason: str) -> None:
        """Close it when the request at work is answered."""
        self._why_last = reason
        self._advance()

    def abort(self, reason: str) -> None:
        """At once."""
        if self._transport is not None:
            event(log, logging.INFO, "a client's connection is dropped", where=self.where, reason=reason)
            self._is_closing = True
            self._transport.abort()
