"""Options of a client's socket: no delay for small answers, and a probe for peers that are gone without a word."""

from __future__ import annotations

import socket
from typing import Any, Final

IDLE_S: Final = 60  # until the first probe
INTERVAL_S: Final = 15
PROBES: Final = 4


def keep_alive(sock: Any) -> None:
    """`sock`: an asyncio transport's socket, or None where it has none."""
    if sock is None or getattr(sock, "family", None) not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: also while something that was sent is not acknowledged
        gone_ms = (IDLE_S + PROBES * INTERVAL_S) * 1000
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, gone_ms)
