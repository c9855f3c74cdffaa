"""Ask a node who leads and who belongs, byte by byte: the clusters must not rely on the codec under test."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import NamedTuple

HANDSHAKE = struct.pack("<Q", 1)
LEADER, CLUSTER = 0, 16
SERVER, SERVERS = 1, 3
WITH_ROLES = 1
VOTER = 0
PROBE_S = 2.0


class View(NamedTuple):
    """What one node says. `leader` is "" when it knows none."""

    leader: str
    voters: frozenset[str]


def view_of(address: str, tls: ssl.SSLContext | None = None) -> View:
    """OSError where nobody answers, or not as it should."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), PROBE_S) as plain:
        connection = plain if tls is None else tls.wrap_socket(plain, server_hostname=host)
        try:
            connection.sendall(HANDSHAKE + _request(LEADER, 0) + _request(CLUSTER, WITH_ROLES))
            server, servers = _answer(connection, SERVER), _answer(connection, SERVERS)
        finally:
            connection.close()
    (count,), offset, voters = struct.unpack_from("<Q", servers), 8, set()
    for _ in range(count):
        name = servers[offset + 8 :].split(b"\0", 1)[0]
        offset += 8 + len(name) // 8 * 8 + 8
        if struct.unpack_from("<Q", servers, offset) == (VOTER,):
            voters.add(name.decode())
        offset += 8
    return View(server[8:].split(b"\0", 1)[0].decode(), frozenset(voters))


def _request(kind: int, word: int) -> bytes:
    return struct.pack("<IBBHQ", 1, kind, 0, 0, word)


def _answer(connection: socket.socket, kind: int) -> bytes:
    words, found = struct.unpack("<IB", _read(connection, 8)[:5])
    body = _read(connection, words * 8)
    if found != kind:
        raise OSError(f"an answer of type {found} for {kind}: {body!r}")
    return body


def _read(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = connection.recv(size - len(found))
        if not more:
            raise OSError("closed in the middle of an answer")
        found += more
    return found
