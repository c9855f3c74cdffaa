"""Where frames of types 0xD0 to 0xDF go: to a protocol of our own on the same connection.

`DqliteServer.extension` makes one `Extension` per connection when the first such frame comes. Frames reach it in their
order, also while one of dqlite's requests is at work on the connection; what it writes stands between frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from dqlite_py.wire.dqlite.frames import Frame

FIRST_TYPE: Final = 0xD0
LAST_TYPE: Final = 0xDF


class Channel(Protocol):
    """The connection, for its extension."""

    where: str

    @property
    def is_writing_paused(self) -> bool:
        """The client takes nothing at the moment: produce no more than is asked for (Extension.writable follows)."""
        ...

    def write(self, frames: bytes) -> None:
        """Send whole frames; nothing happens once the connection is closed."""
        ...

    def close(self, reason: str) -> None:
        """End the connection once what was written is sent."""
        ...


class Extension(Protocol):
    """Loop thread; none of its methods waits. What on_frame raises (ProtocolViolation) ends the connection."""

    def on_frame(self, frame: Frame) -> None: ...
    def writable(self) -> None:
        """Writing goes on after a pause."""
        ...

    def closed(self) -> None:
        """The connection is gone; called once."""
        ...


MakeExtension = Callable[[Channel], Extension]


def is_extended(frame_type: int) -> bool:
    return FIRST_TYPE <= frame_type <= LAST_TYPE
