"""Mutual TLS for the peer port, above memory BIOs.

So the code is the same on asyncio and uvloop, and the listener can look at a connection's first bytes before
it decides. Both sides show a certificate of the cluster's authority; the dialled host must be in the
acceptor's certificate (OpenSSL checks) and the hosts that both claim in theirs (wire/handshake.py checks).
Used by raft/listener.py and raft/dialer.py on the loop thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from dqlite_py.config import TlsSettings
from dqlite_py.tlscontexts import client_context, server_context
from dqlite_py.wire.frames import starts_like_a_frame

TLS_FIRST_BYTE: Final = 0x16  # a handshake record
_READ_BYTES: Final = 64 * 1024


class TlsContexts:
    """The two sides' contexts; raises ssl.SSLError or OSError for unusable files."""

    def __init__(self, settings: TlsSettings) -> None:
        self.server = server_context(settings)
        self.client = client_context(settings)


def certified_names(certificate: dict[str, Any] | None) -> tuple[str, ...]:
    """DNS names and IP addresses of a certificate's subjectAltName."""
    names = (certificate or {}).get("subjectAltName", ())
    return tuple(value for kind, value in names if kind in ("DNS", "IP Address"))


class TlsLayer(asyncio.Protocol):
    """The socket's protocol; `inner` sees a plain transport, from the end of the TLS handshake on.

    `failed(reason)` is called instead when the handshake fails; the socket is then closed.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        inner: asyncio.Protocol,
        failed: Callable[[str], None],
        *,
        server_hostname: str | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        self.inner = inner
        self._failed = failed
        self._transport: asyncio.Transport | None = None
        self._open = False
        self._over = False
        self._waiting: deque[bytes] = deque()

    # -- what the socket says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._advance()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if not self._open and starts_like_a_frame(data):
            self._fail("the peer speaks plaintext: it is configured without TLS, this node with")
            return
        self._incoming.write(data)
        self._advance()

    def eof_received(self) -> bool:
        if not self._open:
            self._fail("the peer closed the connection during the TLS handshake")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        was_open, self._over = self._open, True
        self._open = False
        if was_open:
            self.inner.connection_lost(exc)
        elif self._failed is not _ignore:
            self._fail(f"the connection broke during the TLS handshake: {exc or 'closed'}")

    def pause_writing(self) -> None:
        if self._open:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        if self._open:
            self.inner.resume_writing()

    # -- the machine

    def _advance(self) -> None:
        try:
            if not self._open:
                self._tls.do_handshake()
                self._open = True
                self._flush()
                self.inner.connection_made(_InnerTransport(self))
            self._write_waiting()
            self._read()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert
            self._break(error)

    def _read(self) -> None:
        chunks: list[bytes] = []
        ended = False
        try:
            while not self._over:
                chunk = self._tls.read(_READ_BYTES)
                if not chunk:
                    ended = True
                    break
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLZeroReturnError:
            ended = True
        if chunks and not self._over:
            self.inner.data_received(b"".join(chunks))
        if ended and not self._over:
            self.inner.eof_received()
            self.close()

    def _break(self, error: ssl.SSLError) -> None:
        reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
        if self._open:
            transport = self._transport
            assert transport is not None
            self._over = True
            self._open = False
            self._failed = _ignore
            self.inner.connection_lost(ConnectionError(f"TLS: {reason}"))
            transport.abort()
        else:
            self._fail(f"TLS handshake failed: {reason}")

    def _fail(self, reason: str) -> None:
        if self._failed is not _ignore:
            failed, self._failed = self._failed, _ignore
            failed(reason)
        self._over = True
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing.pending and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    def _write_waiting(self) -> None:
        while self._waiting:
            self._tls.write(self._waiting[0])
            self._waiting.popleft()
        self._flush()

    # -- what the inner transport asks

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    @property
    def certificate(self) -> dict[str, Any] | None:
        return self._tls.getpeercert()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._over or not data:
            return
        self._waiting.append(bytes(data))
        try:
            self._write_waiting()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            asyncio.get_running_loop().call_soon(self._break, error)

    def close(self) -> None:
        if self._over:
            return
        with contextlib.suppress(ssl.SSLError):  # writes our close_notify; the peer's is not waited for
            self._tls.unwrap()
        self._flush()
        self.transport.close()


def _ignore(reason: str) -> None:
    """A second failure of a connection that has failed."""


class _InnerTransport(asyncio.Transport):
    def __init__(self, layer: TlsLayer) -> None:
        super().__init__()
        self._layer = layer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._layer.write(data)

    def close(self) -> None:
        self._layer.close()

    def abort(self) -> None:
        self._layer.transport.abort()

    def is_closing(self) -> bool:
        return self._layer.transport.is_closing()

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._layer.transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._layer.transport.set_write_buffer_limits(high, low)

    def pause_reading(self) -> None:
        self._layer.transport.pause_reading()

    def resume_reading(self) -> None:
        self._layer.transport.resume_reading()

    def is_reading(self) -> bool:
        return self._layer.transport.is_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._layer.inner = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._layer.inner

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peercert":
            return self._layer.certificate or {}  # without one: certified for no host, never "without TLS"
        return self._layer.transport.get_extra_info(name, default)
