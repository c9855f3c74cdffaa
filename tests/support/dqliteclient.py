"""A blocking client of dqlite's protocol for tests: the codec over a plain socket, nothing hidden."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

from dqlite_py.wire.dqlite.frames import Frame, FrameReader, Version, encode_frame, encode_handshake
from dqlite_py.wire.dqlite.requests import Request, RequestType, encode_request
from dqlite_py.wire.dqlite.responses import Failure, Response, Result, decode_response
from dqlite_py.wire.dqlite.rows import RowsBatch
from dqlite_py.wire.dqlite.tuples import params_schema
from dqlite_py.wire.dqlite.values import WireValue, typed

TIMEOUT_S = 20.0
RESPONSE_BYTES_MAX = 1 << 30


class DqliteClient(contextlib.AbstractContextManager["DqliteClient"]):
    def __init__(
        self,
        address: str,
        *,
        version: Version = Version.V1,
        database: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        self.version = version
        self.has_roles = True
        self.socket = socket.create_connection((host, int(port)), TIMEOUT_S)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=host)
        self._reader = FrameReader(RESPONSE_BYTES_MAX)
        self.send_bytes(encode_handshake(version))
        if database is not None:
            opened = self.call(RequestType.OPEN, database, 0, "volatile")
            assert not isinstance(opened, Failure), opened

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send(self, kind: RequestType, *fields: Any, schema: int = 0) -> None:
        self.send_bytes(encode_frame(encode_request(Request(kind, fields, schema))))

    def receive_frame(self) -> Frame:
        """Raises EOFError when the server has closed the connection."""
        while (frame := self._reader.next_frame()) is None:
            received = self.socket.recv(1 << 16)
            if not received:
                raise EOFError
            self._reader.feed(received)
        return frame

    def receive(self) -> Response:
        return decode_response(self.receive_frame(), self.version, has_roles=self.has_roles)

    def call(self, kind: RequestType, *fields: Any, schema: int = 0) -> Response:
        self.send(kind, *fields, schema=schema)
        return self.receive()

    def is_closed_by_server(self) -> bool:
        """Wait for the end of the connection."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            return True
        return True

    # -- SQL ----------------------------------------------------------------------------------------------

    def execute(self, sql: str, *values: Any) -> Response:
        return self.call(RequestType.EXEC_SQL, 0, sql, wire_values(values), schema=params_schema(len(values)))

    def done(self, sql: str, *values: Any) -> tuple[int, int]:
        """(last insert id, rows affected)."""
        result = self.execute(sql, *values)
        assert isinstance(result, Result), result
        return tuple(result)

    def query(self, sql: str, *values: Any) -> Failure | RowsBatch:
        """All batches as one."""
        self.send(RequestType.QUERY_SQL, 0, sql, wire_values(values), schema=params_schema(len(values)))
        return self.rows()

    def rows(self) -> Failure | RowsBatch:
        rows: list[tuple[WireValue, ...]] = []
        while True:
            batch = self.receive()
            if isinstance(batch, Failure):
                return batch
            assert isinstance(batch, RowsBatch), batch
            rows += batch.rows
            if batch.is_last:
                return RowsBatch(batch.columns, tuple(rows), True)

    def values(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        found = self.query(sql, *values)
        assert isinstance(found, RowsBatch), found
        return [tuple(value.value for value in row) for row in found.rows]

    def failure(self, sql: str, *values: Any) -> tuple[int, str]:
        """(code, message) of an EXEC_SQL that fails."""
        failed = self.execute(sql, *values)
        assert isinstance(failed, Failure), failed
        return tuple(failed)


def wire_values(values: tuple[Any, ...]) -> tuple[WireValue, ...]:
    return tuple(value if isinstance(value, WireValue) else typed(value) for value in values)
