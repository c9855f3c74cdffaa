"""Records what Debian's dqlite (1.11.1) and its shell say: made captured.txt, "who direction hex" a line.

`python -m tests.unit.wire.dqlite.capture HOST:PORT` for a fresh node (`dqlite-demo --db HOST:PORT …`). The shell talks
through a relay, which takes the node's place in what the node says of its address (of the same length).
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

from dqlite_py.wire.dqlite.frames import Frame, FrameReader, Version, encode_frame, encode_handshake
from dqlite_py.wire.dqlite.requests import Request, encode_request
from dqlite_py.wire.dqlite.requests import RequestType as R
from dqlite_py.wire.dqlite.responses import ResponseType
from dqlite_py.wire.dqlite.values import ValueType, WireValue, typed

BYTES_MAX = 1 << 20
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600) SELECT i FROM n"
PARAMS = (
    typed(1),
    typed(2.5),
    typed("täxt"),
    typed(b"\0\1"),
    typed(None),
    WireValue(ValueType.BOOLEAN, 1),
    WireValue(ValueType.ISO8601, "2026-11-28 08:00:00"),
)
SQL = [
    Request(R.CLIENT, (7,)),
    Request(R.OPEN, ("golden", 0, "volatile")),
    Request(R.OPEN, ("golden", 0, "")),
    Request(R.EXEC_SQL, (0, "CREATE TABLE t (a INTEGER PRIMARY KEY, b BOOLEAN, d DATETIME, v)", ())),
    Request(R.EXEC_SQL, (0, "INSERT INTO t VALUES (?, 7, 1700000000, 2.5)", (typed(1),))),
    Request(R.EXEC_SQL, (0, "INSERT INTO t VALUES (2, 1, '2026-11-28 08:00:00', x'0102')", ())),
    Request(R.EXEC_SQL, (0, "INSERT INTO t VALUES (3, NULL, NULL, 'täxt')", ())),
    Request(R.EXEC_SQL, (0, "INSERT INTO t(a) VALUES (3)", ())),
    Request(R.EXEC_SQL, (0, "INSERT INTO nowhere VALUES (3)", ())),
    Request(R.EXEC_SQL, (0, "", ())),
    Request(R.QUERY_SQL, (0, "SELECT * FROM t ORDER BY a", ())),
    Request(R.QUERY_SQL, (0, "SELECT * FROM t WHERE 0", ())),
    Request(R.QUERY_SQL, (0, "SELECT ?, ?, ?, ?, ?, ?, ?", PARAMS), 0),
    Request(R.QUERY_SQL, (0, "SELECT ?, ?, ?, ?, ?, ?, ?", PARAMS), 1),
    Request(R.QUERY_SQL, (0, NUMBERS, ())),
    Request(R.QUERY_SQL, (0, "", ())),
    Request(R.PREPARE, (0, "SELECT a FROM t WHERE a > ? AND a < ?")),
    Request(R.QUERY, (0, 0, (typed(0), typed(3)))),
    Request(R.FINALIZE, (0, 0)),
    Request(R.FINALIZE, (0, 0)),
    Request(R.PREPARE, (0, "DELETE FROM t WHERE a = ?; SELECT 1"), 1),
    Request(R.EXEC, (0, 0, (typed(1),)), 1),
    Request(R.INTERRUPT, (0,)),
    Request(R.CLUSTER, (0,)),
    Request(R.CLUSTER, (1,)),
    Request(R.DESCRIBE, (0,)),
    Request(R.WEIGHT, (3,)),
    Request(R.DUMP, ("golden",)),
    Request(R.ADD, (3, "127.0.0.1:9")),
    Request(R.REMOVE, (3,)),
    Request(R.REMOVE, (99,)),
    Request(R.TRANSFER, (99,)),
    Request(R.ASSIGN, (99, 1)),
]


def call(connection: socket.socket, reader: FrameReader, frame: Frame) -> Iterator[str]:
    raw = encode_frame(frame)
    connection.sendall(raw)
    yield f"ours > {raw.hex()}"
    while True:
        while (answer := reader.next_frame()) is None:
            received = connection.recv(4096)
            if not received:
                raise SystemExit(f"closed after {raw.hex()}")
            reader.feed(received)
        yield f"dqlite < {encode_frame(answer).hex()}"
        if answer.type != ResponseType.ROWS or not answer.body.endswith(b"\xee" * 8):
            return


def ask(host: str, port: int, version: Version, requests: list[Request]) -> Iterator[str]:
    reader = FrameReader(BYTES_MAX)
    with socket.create_connection((host, port)) as connection:
        connection.sendall(encode_handshake(version))
        for request in requests:
            yield from call(connection, reader, encode_request(request))


def relay(
    source: socket.socket, target: socket.socket, who: str, found: list[str], addresses: tuple[str, str]
) -> None:
    reader, greeted = FrameReader(BYTES_MAX), who == "dqlite <"
    old, new = (address.encode() for address in addresses)
    early = b""
    while received := source.recv(4096):
        target.sendall(received.replace(old, new))
        if not greeted:
            early += received
            if len(early) < 8:
                continue
            greeted, received = True, early[8:]
        reader.feed(received)
        while (frame := reader.next_frame()) is not None:
            found.append(f"{who} {encode_frame(frame).hex()}")
    target.shutdown(socket.SHUT_WR)


def shell(node: tuple[str, int], command: str, listener: socket.socket, found: list[str]) -> None:
    """One run of the shell by the relay; it comes back once to see that the leader names itself."""
    address = "{}:{}".format(*listener.getsockname())
    addresses = ("{}:{}".format(*node), address)
    process = subprocess.Popen(["dqlite", "-s", address, "golden", command], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        listener.settimeout(1)
        try:
            client, _ = listener.accept()
        except TimeoutError:
            continue
        server = socket.create_connection(node)
        there = threading.Thread(target=relay, args=(client, server, "shell >", found, addresses))
        there.start()
        relay(server, client, "dqlite <", found, addresses)
        there.join()
        client.close()
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    arguments = parser.parse_args()
    host, port = arguments.address.split(":")
    node = (host, int(port))
    lines = [
        line.replace("dqlite <", "legacy <") for line in ask(*node, Version.LEGACY, [Request(R.LEADER, (0,))])
    ]
    lines += ask(*node, Version.V1, [Request(R.LEADER, (0,)), *SQL])
    listener = socket.create_server(("127.0.0.1", 0))
    for command in ("SELECT 1", "INSERT INTO t(a) VALUES (77)", ".cluster", ".leader"):
        shell(node, command, listener, lines)
    sys.stdout.write("\n".join(dict.fromkeys(lines)) + "\n")


if __name__ == "__main__":
    main()
