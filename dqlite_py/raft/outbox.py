"""What one connection has still to send, and the socket it leaves by. Loop thread; owned by raft/connection.py.

Nothing is handed to a socket whose buffer is full: there, control messages could not overtake what is large.
Whoever has queued all it has calls `flush`; who cannot know calls `flush_soon`, and what all of them queue in one
turn of the loop leaves in one write.
"""

from __future__ import annotations

import asyncio
from typing import Final

from dqlite_py.limits import FRAME_FRAGMENT_BYTES, WRITE_BUFFER_BYTES_MAX
from dqlite_py.wire.sendqueue import SendQueue

_FLUSH_BYTES_MAX: Final = 8 * FRAME_FRAGMENT_BYTES  # at once, so that one connection does not hold the loop
_FAREWELL_BYTES_MAX: Final = 4 * FRAME_FRAGMENT_BYTES
# Half of what is filled up to: a full buffer is then always a paused one, and one that is not has room for the rest.
_PAUSE_BYTES: Final = WRITE_BUFFER_BYTES_MAX // 2


class Outbox(SendQueue):
    """A send queue with its socket, once that is there."""

    __slots__ = ("_flush_planned", "_loop", "_paused", "_space", "_space_wanted", "has_sent", "transport")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.transport: asyncio.Transport | None = None
        self.has_sent = False  # something, since somebody last looked and cleared it
        self._loop = loop
        self._paused = False
        self._flush_planned = False
        self._space = asyncio.Event()
        self._space_wanted = False

    def attach(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=_PAUSE_BYTES)

    def flush_soon(self) -> None:
        """Flush once at the end of this turn of the loop."""
        if not (self._flush_planned or self._paused):
            self._flush_planned = True
            self._loop.call_soon(self._planned_flush)

    def _planned_flush(self) -> None:
        self._flush_planned = False
        self.flush()

    def flush(self) -> None:
        """Everything queued so far leaves in one write, as far as the socket takes it; the rest when it has room."""
        transport = self.transport
        if not self.size_bytes or self._paused or transport is None or transport.is_closing():
            return  # what is queued on a closing one is dropped by connection_lost
        if self.size_bytes <= _PAUSE_BYTES:
            pieces = self.take_all()
            transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        else:
            self._flush_much(transport)
        self.has_sent = True
        if self._space_wanted:
            self._tell_space()

    def _flush_much(self, transport: asyncio.Transport) -> None:
        written = 0
        while self.size_bytes and not self._paused and written < _FLUSH_BYTES_MAX:
            pieces = self.take(WRITE_BUFFER_BYTES_MAX - transport.get_write_buffer_size())
            if not pieces:
                break
            data = b"".join(pieces)
            written += len(data)
            transport.write(data)
        if self.size_bytes:
            self.flush_soon()

    def pause(self) -> None:
        """The socket's buffer is full."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if self.size_bytes:
            self.flush_soon()

    def farewell(self) -> None:
        """Hand what is queued, not more than a little, to a socket that is to be closed."""
        if self.transport is not None:
            pieces = self.take(_FAREWELL_BYTES_MAX)
            if pieces:
                self.transport.write(b"".join(pieces))

    def clear(self) -> None:
        super().clear()
        self._tell_space()

    async def wait_space(self) -> None:
        """Until the queue has shrunk."""
        self._space.clear()
        self._space_wanted = True
        await self._space.wait()

    def _tell_space(self) -> None:
        self._space_wanted = False
        self._space.set()
