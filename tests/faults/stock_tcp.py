"""Stock pysyncobj over real sockets on 127.0.0.1, ticked by the test itself: no thread of its own.

For the faults that live in its transport (RF-16, RF-22). Used by tests/faults only.
"""

from __future__ import annotations

import pickle
import select
import socket
import struct
import zlib
from collections.abc import Callable
from typing import Any

from pysyncobj import SyncObjConf
from pysyncobj.syncobj import SyncObj, replicated


class TcpNode(SyncObj):
    """A cluster of one, listening on a free port."""

    def __init__(self, **conf: Any) -> None:
        timing = {"appendEntriesPeriod": 0.01, "raftMinTimeout": 0.05, "raftMaxTimeout": 0.06}
        super().__init__(
            "127.0.0.1:65000",  # its name; it listens where bindAddress says
            [],
            SyncObjConf(autoTick=False, bindAddress="127.0.0.1:0", **timing, **conf),
        )
        self.data: list[Any] = []

    @replicated
    def op(self, value: Any) -> None:
        self.data.append(value)

    def listening(self) -> socket.socket:
        return self._SyncObj__transport._server._TcpServer__socket

    def dial(self) -> socket.socket:
        return socket.create_connection(self.listening().getsockname(), timeout=2)

    def tick_until(self, done: Callable[[], bool], ticks: int = 300) -> bool:
        """Tick until `done`; each tick waits at most 10 ms for the network."""
        for _ in range(ticks):
            if done():
                return True
            self.doTick(0.01)
        return done()


class Stranger:
    """A client without any credentials, speaking stock's frames: length, zlib, pickle."""

    def __init__(self, node: TcpNode) -> None:
        self.socket = node.dial()
        self.received = b""

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def say(self, message: Any) -> None:
        data = zlib.compress(pickle.dumps(message, 2))
        self.socket.sendall(struct.pack("i", len(data)) + data)

    def heard(self) -> list[Any]:
        """The messages received up to now."""
        while select.select([self.socket], [], [], 0)[0]:
            data = self.socket.recv(65536)
            if not data:
                break
            self.received += data
        rest, messages = self.received, []
        while len(rest) >= 4 and len(rest) >= 4 + (size := struct.unpack("i", rest[:4])[0]):
            messages.append(pickle.loads(zlib.decompress(rest[4 : 4 + size])))
            rest = rest[4 + size :]
        return messages
