"""An extended connection whose first bytes came in several segments. Loop thread.

The listener mostly sees at once what a connection is going to be; when its first segment is too short, dqlite's
protocol has the connection, and hands over the frames of our types.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dqlite_py.server.dqlite.extension import Channel
from dqlite_py.server.extended.server import ExtendedServer
from dqlite_py.wire.dqlite.frames import Frame, Version, encode_frame, encode_handshake


class JoinedExtension:
    """Implements server.dqlite.extension.Extension."""

    def __init__(self, server: ExtendedServer, channel: Channel) -> None:
        self._connection = server.make_connection()
        self._connection.connection_made(_ChannelTransport(channel, self._connection))
        self._connection.where = channel.where
        self._connection.data_received(encode_handshake(Version.V1))

    def on_frame(self, frame: Frame) -> None:
        self._connection.data_received(encode_frame(frame))

    def writable(self) -> None:
        self._connection.resume_writing()

    def closed(self) -> None:
        self._connection.connection_lost(None)


class _ChannelTransport(asyncio.Transport):
    def __init__(self, channel: Channel, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._channel = channel
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data:
            self._channel.write(bytes(data))
        if self._channel.is_writing_paused:
            self._protocol.pause_writing()

    def close(self) -> None:
        self._channel.close("the extended connection is over")

    def abort(self) -> None:
        self.close()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """They are the channel's."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default
