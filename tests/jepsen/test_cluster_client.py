"""jepsen/cluster/client.py against sockets that misbehave: what is Failed and what is Unknown."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jepsen.cluster.client import ClientError, Failed, NodeClient, Unknown

OK = b'{"ok":{"columns":["a"],"rows":[[{"bytes":"00ff"},1]],"rowcount":-1,"lastrowid":null}}\n'


@contextmanager
def node_that(serve: Callable[[socket.socket], Any], path: Path) -> Iterator[Path]:
    """A Unix socket on which one connection is given to `serve`."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def run() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):  # the client may give up first
            serve(connection)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield path
    finally:
        thread.join()
        listener.close()


def answer(line: bytes) -> Callable[[socket.socket], Any]:
    def serve(connection: socket.socket) -> None:
        connection.recv(100_000)
        connection.sendall(line)

    return serve


def error_of(line: bytes, tmp_path: Path) -> ClientError:
    with node_that(answer(line), tmp_path / "s") as path, NodeClient(path, 5.0) as client:
        with pytest.raises(ClientError) as caught:
            client.execute("INSERT INTO t VALUES (1)")
        return caught.value


def test_nobody_there_is_failed(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="cannot connect"):
        NodeClient(tmp_path / "s", 1.0)


def test_socket_file_of_a_dead_process_is_failed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(Failed, match="refused"):
        NodeClient(tmp_path / "s", 1.0)


def test_result(tmp_path: Path) -> None:
    with node_that(answer(OK), tmp_path / "s") as path, NodeClient(path, 5.0) as client:
        result = client.query("SELECT 1")
    assert (result.columns, result.rows) == (["a"], [(b"\x00\xff", 1)])


def test_request_on_the_line(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def serve(connection: socket.socket) -> None:
        seen.append(json.loads(connection.recv(100_000)))
        connection.sendall(b'{"ok":[]}\n')

    with node_that(serve, tmp_path / "s") as path, NodeClient(path, 2.0) as client:
        client.unit([("a", [b"\x01"]), ("b", {"n": None})])
    assert seen == [
        {
            "f": "unit",
            "timeout_s": 1.3,
            "statements": [["a", [{"bytes": "01"}]], ["b", {"named": {"n": None}}]],
        }
    ]


@pytest.mark.parametrize(("outcome", "kind"), [("failed", Failed), ("unknown", Unknown)])
def test_outcome_of_the_node_decides(outcome: str, kind: type[ClientError], tmp_path: Path) -> None:
    line = json.dumps({"error": {"class": "Busy", "message": "later", "outcome": outcome}}).encode()
    error = error_of(line + b"\n", tmp_path)
    assert (type(error), error.name, error.message) == (kind, "Busy", "later")


@pytest.mark.parametrize(
    "line", [b"", b"[]\n", b"{}\n", b'{"ok"\n', b'{"ok":', b'{"error":{"class":"New"}}\n']
)
def test_no_good_answer_is_unknown(line: bytes, tmp_path: Path) -> None:
    assert isinstance(error_of(line, tmp_path), Unknown)


def test_time_out_is_unknown_and_closes(tmp_path: Path) -> None:
    """The late answer must not be taken for the next request's."""
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        done.wait(10)
        connection.sendall(OK)

    with node_that(serve, tmp_path / "s") as path, NodeClient(path, 0.1) as client:
        begin = time.monotonic()
        with pytest.raises(Unknown, match="Timeout"):
            client.execute("x")
        assert time.monotonic() - begin < 5
        assert client.is_closed
        with pytest.raises(Failed, match="closed"):
            client.execute("x")
        done.set()


def test_dripping_answer_does_not_extend_the_time(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        for _ in range(1000):
            connection.sendall(b" ")
            time.sleep(0.01)

    with node_that(serve, tmp_path / "s") as path, NodeClient(path, 0.2) as client:  # noqa: SIM117
        with pytest.raises(Unknown, match="Timeout"):
            client.execute("x")


def test_value_that_cannot_travel_is_failed(tmp_path: Path) -> None:
    with node_that(answer(OK), tmp_path / "s") as path, NodeClient(path, 5.0) as client:
        with pytest.raises(Failed, match="object cannot travel"):
            client.execute("x", [object()])
        assert not client.is_closed
        client.execute("x")


def test_deep_folder(tmp_path: Path) -> None:
    """Longer than a Unix socket's path may be."""
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    with node_that(answer(OK), tmp_path / "s") as path:
        path.rename(folder / "s")
        with NodeClient(folder / "s", 5.0) as client:
            assert client.execute("x").rowcount == -1
