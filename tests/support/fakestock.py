"""A scripted dqlite server on a loopback port, for the client that falls back to such servers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from dqlite_py.model import Address
from dqlite_py.wire.dqlite.frames import Frame, FrameReader, Version, decode_handshake, encode_frame
from dqlite_py.wire.dqlite.requests import Request, RequestType, decode_request
from dqlite_py.wire.dqlite.responses import (
    Database,
    Empty,
    Failure,
    Metadata,
    Response,
    Result,
    Server,
    ServerEntry,
    Servers,
    encode_response,
)
from dqlite_py.wire.dqlite.rows import RowsBatch
from dqlite_py.wire.dqlite.violations import ProtocolViolation

CLOSE = "close"
SILENCE = "silence"
DONE = Result(1, 1)


class Raw(NamedTuple):
    """Bytes as an answer."""

    data: bytes


Answer = Response | str | Raw


class FakeServer:
    """A server that leads unless told otherwise, and answers SQL from a script: by the text's beginning, in order.

    A script's last answer is for all that follow; what it does not name is DONE or no rows. `seen`: the SQL it got.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("{}:{}".format(*self._listener.getsockname()))
        self.leader = self.address
        self.script: dict[str, list[Answer]] = {}
        self.seen: list[str] = []
        self.changes: list[tuple[Any, ...]] = []  # of members
        self.opened = 0
        self.searches = 0  # for the other members
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()  # of what the threads of several clients use
        self._is_closed = False
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._is_closed:
                    client.close()
                    return
                self._sockets.append(client)
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        reader = FrameReader(1 << 20)
        try:
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            first = b""
            while len(first) < 8:
                if not (received := client.recv(8 - len(first))):
                    return
                first += received
            assert decode_handshake(first) is Version.V1
            while received := client.recv(4096):
                reader.feed(received)
                while (frame := reader.next_frame()) is not None:
                    for answer in self._answers_to(frame):
                        if answer == CLOSE:
                            return
                        if isinstance(answer, Raw):
                            client.sendall(answer.data)
                        elif not isinstance(answer, str):
                            client.sendall(encode_frame(encode_response(answer)))
        except OSError:
            pass
        finally:
            client.close()

    def _answers_to(self, frame: Frame) -> Iterator[Answer]:
        try:
            request = decode_request(frame)
        except ProtocolViolation as violation:
            if violation.is_fatal or violation.code is None:
                raise
            yield Failure(violation.code, violation.message)
            return
        yield from self.answers(request)

    def answers(self, request: Request) -> Iterator[Answer]:
        match request.type:
            case RequestType.LEADER:
                yield from self._scripted("LEADER", Server(1 if self.leader else 0, self.leader))
            case RequestType.CLUSTER:
                self.searches += 1
                yield from self._scripted("CLUSTER", Servers((ServerEntry(1, self.address, 0),)))
            case RequestType.OPEN:
                self.opened += 1
                yield from self._scripted("OPEN", Database())
            case RequestType.INTERRUPT:
                yield Empty()
            case RequestType.DESCRIBE:
                yield Metadata(3, 5)
            case RequestType.ASSIGN | RequestType.REMOVE | RequestType.TRANSFER | RequestType.WEIGHT:
                self.changes.append((request.type.name, *request.fields))
                yield from self._scripted(request.type.name, Empty())
            case kind:
                sql = str(request.fields[1])
                self.seen.append(sql)
                no_rows = RowsBatch(("x",), (), True)
                yield from self._scripted(sql, no_rows if kind is RequestType.QUERY_SQL else DONE)

    def _scripted(self, sql: str, usual: Answer) -> Iterator[Answer]:
        with self._lock:
            answers = next((found for start, found in self.script.items() if sql.startswith(start)), [usual])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        yield answer

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()


@contextmanager
def servers(count: int) -> Iterator[list[FakeServer]]:
    made = [FakeServer() for _ in range(count)]
    try:
        yield made
    finally:
        for server in made:
            server.close()
