"""What the connections may hold together beyond their requests: the texts of prepared statements. Loop thread."""

from __future__ import annotations

from dqlite_py.server.dqlite.settings import SMALL_BYTES, TEXTS_BYTES_MAX


class PreparedTexts:
    """Of all connections. `used_bytes`: what they hold."""

    __slots__ = ("bytes_max", "used_bytes")

    def __init__(self, bytes_max: int = TEXTS_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0

    def take(self, size: int, held: int) -> bool:
        """Whether a connection that holds `held` bytes may hold `size` more: one with little always may."""
        if held + size > SMALL_BYTES and self.used_bytes + size > self.bytes_max:
            return False
        self.used_bytes += size
        return True

    def give_back(self, size: int) -> None:
        self.used_bytes -= size
