"""Real dqlite servers: nodes of Debian's `dqlite-demo` on loopback, to be killed; their database port is theirs."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

PROGRAM: Final = "dqlite-demo"
START_S: Final = 20.0


def free_ports(count: int) -> list[int]:
    with _listening(count) as sockets:
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def _listening(count: int) -> Iterator[list[socket.socket]]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()


class StockNode:
    """`address`: of the database port."""

    def __init__(self, folder: Path, port: int, api_port: int, join: str | None) -> None:
        self.address = f"127.0.0.1:{port}"
        self._api = f"127.0.0.1:{api_port}"
        self._folder = folder
        folder.mkdir()
        self._command = [PROGRAM, "--api", self._api, "--db", self.address, "--dir", str(folder)]
        if join is not None:
            self._command += ["--join", join]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it serves: its HTTP port opens when it belongs to the cluster."""
        log = self._folder.with_suffix(".log")
        with log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        deadline = time.monotonic() + START_S
        host, port = self._api.split(":")
        while True:
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError(f"{PROGRAM} does not start: {log.read_text()}") from None
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def stock_cluster(folder: Path, count: int) -> Iterator[list[StockNode]]:
    """Voters; all of them are killed at the end. Skips the test where the program is missing."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} (Debian's package go-dqlite) is not installed")
    ports = free_ports(2 * count)
    nodes: list[StockNode] = []
    try:
        for number in range(count):
            join = nodes[0].address if nodes else None
            node = StockNode(folder / f"node{number}", ports[2 * number], ports[2 * number + 1], join)
            nodes.append(node)
            node.start()
        yield nodes
    finally:
        for node in nodes:
            node.kill()
