"""Bad input to dqlite's protocol on a live node: the documented failure to that connection, and the node goes on."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dqlite_py
from dqlite_py.wire.dqlite.frames import Frame, Version, encode_frame, encode_handshake
from dqlite_py.wire.dqlite.requests import Request, RequestType, encode_request
from dqlite_py.wire.dqlite.responses import Failure, Welcome
from dqlite_py.wire.dqlite.values import typed
from tests.integration.cluster import wait_until
from tests.support.dqliteclient import DqliteClient

EXAMPLES = 150


@pytest.fixture
def node(tmp_path: Path) -> Iterator[dqlite_py.Node]:
    with dqlite_py.Node(tmp_path / "node") as made:
        made.wait_ready()
        with DqliteClient(made.address, database="app") as client:
            client.done("CREATE TABLE t (a)")
        yield made


def check_serves(node: dqlite_py.Node) -> None:
    with DqliteClient(node.address, database="app") as client:
        assert client.done("INSERT INTO t VALUES (1)")[1] == 1


def exchange(node: dqlite_py.Node, data: bytes) -> bytes:
    """Send, half-close, and read what comes until the server closes."""
    host, _, port = node.address.rpartition(":")
    received = bytearray()
    with contextlib.closing(socket.create_connection((host, int(port)), 20)) as sock:
        with contextlib.suppress(OSError):  # closed before all was sent
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(1 << 16):
                received += piece
    return bytes(received)


def test_connections_that_are_not_ours(node: dqlite_py.Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    for first in (
        b"\x02" + bytes(7),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 64,
        bytes(64),
        b"\x01" + b"\x01" * 7,
    ):
        assert exchange(node, first) == b""
    check_serves(node)


def test_a_connection_that_ends_in_a_frame(node: dqlite_py.Node) -> None:
    whole = encode_handshake(Version.V1) + encode_frame(encode_request(Request(RequestType.CLIENT, (1,))))
    for end in range(len(whole)):
        exchange(node, whole[:end])
    check_serves(node)
    wait_until(lambda: node.status()["dqlite"]["connections"] == 0, "all are gone")


def test_large_requests_need_an_open_database(node: dqlite_py.Node) -> None:
    text = "x" * 200_000
    with DqliteClient(node.address) as client:
        with contextlib.suppress(ConnectionError):
            client.send(RequestType.QUERY_SQL, 0, f"SELECT '{text}'", ())
            failure = client.receive()
            assert isinstance(failure, Failure)
            assert failure.code == 1005
        assert client.is_closed_by_server()
    with DqliteClient(node.address, database="app") as client:
        assert client.values(f"SELECT '{text}'") == [(text,)]
        assert client.values("SELECT length(?)", bytes(5_000_000)) == [(5_000_000,)]


def frames() -> st.SearchStrategy[bytes]:
    whole = st.builds(
        lambda kind, schema, words: encode_frame(Frame(kind, schema, words * 8)),
        st.integers(0, 255).filter(lambda kind: not 11 <= kind <= 17),  # what changes the cluster
        st.integers(0, 3),
        st.binary(min_size=1, max_size=40),
    )
    sql = st.builds(
        lambda kind, text, values: encode_frame(
            encode_request(Request(kind, (0, text, tuple(map(typed, values)))))
        ),
        st.sampled_from([RequestType.EXEC_SQL, RequestType.QUERY_SQL]),
        st.text(st.sampled_from("SELECT INTO t(a)?;'\"-/*BEGINCOMMIT,1\x00é\n"), max_size=30)
        | st.sampled_from(["BEGIN", "COMMIT", "SELECT * FROM t", "INSERT INTO t VALUES (?)", "PRAGMA x"]),
        st.lists(
            st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(max_size=20), max_size=5
        ),
    )
    opening = st.just(encode_frame(encode_request(Request(RequestType.OPEN, ("app", 0, "")))))
    return st.lists(whole | sql | opening, max_size=8).map(b"".join)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """Frames of which a byte may be another, or the end missing."""
    stream = bytearray(draw(frames()))
    if stream and draw(st.booleans()):
        stream[draw(st.integers(0, len(stream) - 1))] = draw(st.integers(0, 255))
    return bytes(stream[: draw(st.integers(0, len(stream)))] if draw(st.booleans()) else stream)


def test_whatever_is_sent_the_node_goes_on(node: dqlite_py.Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(st.sampled_from(Version), spoilt() | st.binary(max_size=200))
    def send(version: Version, stream: bytes) -> None:
        exchange(node, encode_handshake(version) + stream)
        with DqliteClient(node.address) as client:
            assert client.call(RequestType.CLIENT, 1) == Welcome(15_000)

    send()
    check_serves(node)
    assert node.status()["dqlite"]["failures"] == 0
    wait_until(lambda: node.status()["dqlite"]["buffered_bytes"] == 0, "nothing is held")
