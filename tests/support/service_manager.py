"""The service manager's end of the notification socket."""

from __future__ import annotations

import socket


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def heard(self) -> list[dict[str, str]]:
        """All messages that have come, without waiting."""
        self._socket.setblocking(False)
        messages: list[dict[str, str]] = []
        while True:
            try:
                messages.append(self._decode(self._socket.recv(4096)))
            except BlockingIOError:
                return messages

    def next(self, name: str, timeout_s: float = 60.0) -> dict[str, str]:
        """The next message with a field of this name; waits."""
        self._socket.settimeout(timeout_s)
        while True:
            message = self._decode(self._socket.recv(4096))
            if name in message:
                return message

    @staticmethod
    def _decode(message: bytes) -> dict[str, str]:
        return dict(line.split("=", 1) for line in message.decode().splitlines())

    def close(self) -> None:
        self._socket.close()
