"""One end of a simulated TCP connection: the kernel's socket and asyncio's transport on top of it.

`data_arrived`, `fin_arrived`, `reset_arrived`, `timed_out` are the kernel's and happen even while the process is
paused; everything a protocol hears goes through `call_soon` of its loop. Behaves as asyncio's selector transports
do: reads of at most 256 KiB, the socket closes one callback after `close` or `abort`, unread bytes at that moment
make it a reset. No TLS, no BufferedProtocol.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from tests.simulation.cluster.network_model import Life
from tests.simulation.cluster.network_pipe import Piece, Pipe

if TYPE_CHECKING:
    from tests.simulation.cluster.network_host import SimHost, SimServer

READ_BYTES_MAX: Final = 256 * 1024
_HIGH_BYTES: Final = 64 * 1024
Name = tuple[str, int]


class SimSocket:
    """What `get_extra_info("socket")` and `server.sockets` give: names, and options nobody looks at."""

    def __init__(self, own_name: Name, peer_name: Name | None = None) -> None:
        self._own_name = own_name
        self._peer_name = peer_name

    def getsockname(self) -> Name:
        return self._own_name

    def getpeername(self) -> Name:
        if self._peer_name is None:
            raise OSError(errno.ENOTCONN, "a listening socket has no peer")
        return self._peer_name

    def setsockopt(self, *_: object) -> None:
        """Accepted and without effect."""

    def fileno(self) -> int:
        return -1


class SimTransport(asyncio.Transport):
    """Exists from the kernel's handshake on; a protocol is given to it by `start`."""

    __slots__ = (
        "_acceptor",
        "_closing",
        "_eof_arrived",
        "_eof_told",
        "_eof_wanted",
        "_error",
        "_high",
        "_loop",
        "_loss_planned",
        "_low",
        "_protocol",
        "_read_planned",
        "_reading",
        "_unread",
        "_unread_bytes",
        "_unsent",
        "_unsent_bytes",
        "_writing_paused",
        "host",
        "incoming",
        "is_gone",
        "is_opening",
        "is_without_kernel",
        "names",
        "outgoing",
    )
    incoming: Pipe
    outgoing: Pipe

    def __init__(
        self, host: SimHost, loop: Life, own_name: Name, peer_name: Name, acceptor: SimServer | None = None
    ) -> None:
        self.host = host
        self.names = (own_name, peer_name)
        self._acceptor = acceptor  # until it was accepted
        self.is_opening = acceptor is not None  # until the dialler acknowledged it
        self.is_gone = False  # for the kernel: bytes that arrive are answered with a reset
        self.is_without_kernel = False  # the machine lost power: nothing is sent again
        self._loop = loop
        self._protocol: asyncio.Protocol | None = None
        self._unread: list[Piece] = []
        self._unread_bytes = 0
        self._eof_arrived = self._eof_told = self._eof_wanted = False
        self._error: OSError | None = None
        self._read_planned = False
        self._reading = True
        self._unsent: deque[Piece] = deque()
        self._unsent_bytes = 0
        self._high, self._low = _HIGH_BYTES, _HIGH_BYTES // 4
        self._writing_paused = False
        self._closing = False
        self._loss_planned = False
        host.sockets[self] = None

    def __repr__(self) -> str:
        return f"<simulated connection {self.names[0]} to {self.names[1]}>"

    # -- the kernel

    def data_arrived(self, pieces: list[Piece], size: int) -> None:
        self._unread.extend(pieces)
        self._unread_bytes += size
        if not self._read_planned:
            self._plan_read()

    def opened(self) -> None:
        """The handshake is complete: the process may accept it."""
        self.is_opening = False
        if self._acceptor is not None:
            self._acceptor.accept_soon(self)

    def fin_arrived(self) -> None:
        self._eof_arrived = True
        self._plan_read()

    def reset_arrived(self) -> None:
        self._fail(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))

    def timed_out(self) -> None:
        self._fail(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))

    def _fail(self, error: OSError) -> None:
        if self.is_gone:
            return
        self.is_gone = True
        self._error = error
        self.host.sockets.pop(self, None)
        self.outgoing.break_off()
        self._plan_read()
        if self._unsent:
            self._loop.call_soon(self._drain)

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def window_opened(self) -> None:
        if not self.is_gone:
            self._loop.call_soon(self._drain)

    def close_socket(self) -> None:
        """The process closes it, or is killed: the kernel says so to the other side."""
        if self.is_gone:
            return
        self._leave()
        if self._unread_bytes:
            self.outgoing.reset()
        elif not self._eof_told_peer():
            self.outgoing.finish()

    def refuse_process(self) -> None:
        """Nobody accepted it, and nobody will: the kernel resets it."""
        if not self.is_gone:
            self._leave()
            self.outgoing.reset()

    def lose_power(self) -> None:
        """The machine stops: nobody hears of it."""
        self.is_without_kernel = True
        self._leave()

    def discard(self) -> None:
        """It never came to be, as far as this side knows."""
        self._leave()
        self.outgoing.break_off()
        self.incoming.break_off()

    def _leave(self) -> None:
        self.is_gone = self._closing = True
        self.host.sockets.pop(self, None)
        if self._acceptor is not None:
            self._acceptor.waiting.pop(self, None)

    def _eof_told_peer(self) -> bool:
        return self._eof_wanted and not self._unsent

    # -- the process reads

    def start(self, protocol: asyncio.Protocol) -> None:
        """Give it to a protocol; on the loop."""
        self._acceptor = None
        self._protocol = protocol
        protocol.connection_made(self)
        self._plan_read()

    def _plan_read(self) -> None:
        if self._read_planned or self._protocol is None or not self._reading or self._closing:
            return
        if self._unread_bytes or self._error is not None or (self._eof_arrived and not self._eof_told):
            self._read_planned = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._read_planned = False
        if self._closing or not self._reading:
            return
        protocol = self._protocol
        assert protocol is not None
        if self._unread_bytes:
            data = self._take_unread()
            try:
                protocol.data_received(data)
            except Exception as error:  # noqa: BLE001 - as asyncio: the connection ends, the loop goes on
                self._fatal(error, "data_received")
        elif self._error is not None:
            self._plan_loss(self._error)
        elif self._eof_arrived and not self._eof_told:
            self._eof_told = True
            keep_open: object = None
            try:
                keep_open = protocol.eof_received()
            except Exception as error:  # noqa: BLE001 - as above
                self._fatal(error, "eof_received")
            if not keep_open:
                self.close()
        self._plan_read()

    def _take_unread(self) -> bytes:
        pieces = self._unread
        if self._unread_bytes <= READ_BYTES_MAX:
            self._unread = []
            first = pieces[0]
            data = first if len(pieces) == 1 and type(first) is bytes else b"".join(pieces)
            self._unread_bytes = 0
        else:
            whole = b"".join(pieces)
            data = whole[:READ_BYTES_MAX]
            self._unread = [whole[READ_BYTES_MAX:]]
            self._unread_bytes -= READ_BYTES_MAX
        self.incoming.consumed(len(data))
        return data

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._plan_read()

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    # -- the process writes

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._eof_wanted:
            raise RuntimeError("cannot write after write_eof()")
        if self._closing or not data or not self._loop.is_alive:
            return  # a dead process is unwound, and its farewells reach nobody
        if self._error is not None:
            self._plan_loss(self._error)
            return
        piece: Piece = data if type(data) is bytes else bytes(data)
        size = len(piece)
        if not self._unsent:
            room = self.outgoing.room_bytes
            if size <= room:
                self.outgoing.send(piece, size)
                return
            if room > 0:
                self.outgoing.send(memoryview(piece)[:room], room)
                piece, size = memoryview(piece)[room:], size - room
        self._unsent.append(piece)
        self._unsent_bytes += size
        if self._unsent_bytes > self._high and not self._writing_paused:
            self._writing_paused = True
            assert self._protocol is not None
            self._protocol.pause_writing()

    def _drain(self) -> None:
        """There is room, or an error to be noticed by writing."""
        if self._loss_planned:
            return
        if self._error is not None:
            self._plan_loss(self._error)
            return
        unsent, outgoing = self._unsent, self.outgoing
        while unsent:
            room = outgoing.room_bytes
            if room <= 0:
                break
            piece = unsent.popleft()
            if len(piece) > room:
                unsent.appendleft(memoryview(piece)[room:])
                piece = memoryview(piece)[:room]
            self._unsent_bytes -= len(piece)
            outgoing.send(piece, len(piece))
        if self._writing_paused and self._unsent_bytes <= self._low:
            self._writing_paused = False
            assert self._protocol is not None
            self._protocol.resume_writing()
        if not unsent:
            if self._closing:
                self._plan_loss(None)
            elif self._eof_wanted:
                outgoing.finish()

    def write_eof(self) -> None:
        if self._closing or self._eof_wanted or not self._loop.is_alive:
            return
        self._eof_wanted = True
        if not self._unsent:
            self.outgoing.finish()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._unsent_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH_BYTES if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"write buffer limits: high ({high}) must be >= low ({low}) must be >= 0")
        self._high, self._low = high, low

    # -- closing

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._unsent:
            self._plan_loss(None)

    def abort(self) -> None:
        self._plan_loss(None)

    def _fatal(self, error: Exception, where: str) -> None:
        self._loop.call_exception_handler(
            {
                "message": f"Fatal error: protocol.{where}() call failed.",
                "exception": error,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        self._plan_loss(error)

    def _plan_loss(self, error: Exception | None) -> None:
        if self._loss_planned:
            return
        self._loss_planned = self._closing = True
        self._unsent.clear()
        self._unsent_bytes = 0
        self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        try:
            if self._protocol is not None:
                self._protocol.connection_lost(error)
        finally:
            self.close_socket()

    # -- what asyncio's transports have besides

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sockname":
            return self.names[0]
        if name == "peername":
            return self.names[1]
        if name == "socket":
            return SimSocket(*self.names)
        return default

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)
