"""The control port: JSON lines over TCP or a Unix socket, one daemon thread per connection.

A Unix socket is reached whatever happens to the node's network, and from any network namespace.
Does not know what requests mean (handlers.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Final

from jepsen.server.handlers import Session
from jepsen.server.protocol import FAILED, REQUEST_BYTES_MAX, MalformedRequest, decode, encode, error_answer

log = logging.getLogger("jepsen.server")

CONNECTIONS_MAX: Final = 256
_BACKLOG: Final = 128
UNIX: Final = "unix:"


class BadAddress(ValueError):
    """A control address that is neither host:port nor unix:path, or that cannot be bound."""


def open_control(address: str) -> socket.socket:
    """A listening socket at `host:port` or `unix:path` (an old socket file is replaced); raises BadAddress."""
    try:
        if address.startswith(UNIX):
            return _open_unix(address.removeprefix(UNIX))
        host, separator, port = address.rpartition(":")
        if not separator or not port.isdecimal():
            raise BadAddress(f"control address {address!r} is neither host:port nor unix:path")
        return socket.create_server((host.strip("[]"), int(port)), backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise BadAddress(f"cannot listen on control address {address!r}: {error}") from None


def _open_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class ControlServer:
    """Accepts until closed. Threads are daemons: a process that ends does not wait for its clients."""

    def __init__(self, listener: socket.socket, make_session: Callable[[], Session]) -> None:
        self._listener = listener
        self._make_session = make_session
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def start(self) -> None:
        threading.Thread(target=self._accept, name="control-accept", daemon=True).start()

    def close(self) -> None:
        """Accept no more; a thread in accept() is woken."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            if not self._slots.acquire(blocking=False):
                with connection, contextlib.suppress(OSError):
                    connection.sendall(
                        encode(error_answer("Busy", f"over {CONNECTIONS_MAX} connections", FAILED))
                    )
                continue
            threading.Thread(target=self._serve, args=(connection,), name="control", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        session = self._make_session()
        try:
            with connection, connection.makefile("rb") as lines:
                while line := lines.readline(REQUEST_BYTES_MAX + 1):
                    if not line.endswith(b"\n"):
                        if len(line) > REQUEST_BYTES_MAX:
                            message = f"a request is at most {REQUEST_BYTES_MAX} bytes"
                            connection.sendall(encode(error_answer("MalformedRequest", message, FAILED)))
                        return
                    connection.sendall(_answer(session, line))
        except OSError as error:
            log.debug("control connection ended: %s", error)
        finally:
            session.close()
            self._slots.release()


def _answer(session: Session, line: bytes) -> bytes:
    try:
        request = decode(line)
    except MalformedRequest as error:
        return encode(error_answer("MalformedRequest", str(error), FAILED))
    return encode(session.answer(request))
