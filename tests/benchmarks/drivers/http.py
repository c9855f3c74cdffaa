"""HTTP for the peers' drivers: one keep-alive connection per client, written by hand so that it costs little.

Clients are threads of client processes (tests.benchmarks.clients).
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import clients, load
from tests.benchmarks.children import die_with_parent
from tests.benchmarks.counters import NodeRef
from tests.benchmarks.drivers.base import Cluster, Meter
from tests.benchmarks.measures import Tally, Window
from tests.benchmarks.workloads import Client, Operation, Workload, workload

TIMEOUT_S = 20.0
READY_S = 40.0


class HttpError(Exception):
    """A status that is not 2xx, or an answer that is no HTTP."""


class HttpConnection:
    def __init__(self, address: str) -> None:
        self._address = address
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def call(self, path: str, body: Any = None) -> bytes:
        """POST JSON (or GET without a body); returns the answer's body. Raises HttpError, OSError."""
        content = b"" if body is None else json.dumps(body).encode()
        verb = "GET" if body is None else "POST"
        head = f"{verb} {path} HTTP/1.1\r\nHost: {self._address}\r\nContent-Type: application/json\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        status, answer = self._answer()
        if not 200 <= status < 300:
            raise HttpError(f"{status}: {answer[:200].decode(errors='replace')}")
        return answer

    def _answer(self) -> tuple[int, bytes]:
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        status = int(lines[0].split()[1])
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return status, self._chunks()
        return status, self._take(int(headers.get("content-length", 0)))

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self._line(), 16):
            found += self._take(size)
            self._line()
        self._line()
        return found

    def _line(self) -> bytes:
        while b"\r\n" not in self._rest:
            self._more()
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line

    def _take(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._more()
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise HttpError("the server closed the connection")
        self._rest += data

    def close(self) -> None:
        self._socket.close()


class HttpCluster(Cluster):
    """Node processes with an HTTP interface; subclasses start them and name the leader's address."""

    note = "clients: threads in other processes, a keep-alive HTTP connection each, to the leader"
    make_client: Callable[
        [HttpConnection, str], Client
    ]  # of a module, so that client processes can import it

    def __init__(self, folder: Path, nodes: int, name: str) -> None:
        super().__init__(folder, nodes)
        self.name = name
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str]) -> None:
        log = self.folder / f"{self.name}-{len(self._processes) + 1}.log"
        with log.open("ab") as output:
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                    preexec_fn=die_with_parent,
                )
            )

    def wait_for(self, what: str, is_met: Callable[[], bool]) -> None:
        """Until `is_met` without raising; TimeoutError with the end of the first log."""
        deadline, last = time.monotonic() + READY_S, "no answer"
        while True:
            try:
                if is_met():
                    return
                last = "not yet"
            except (OSError, HttpError, ValueError, KeyError) as error:
                last = str(error)
            ended = [p.returncode for p in self._processes if p.poll() is not None]
            if ended or time.monotonic() > deadline:
                log = (self.folder / f"{self.name}-1.log").read_text(errors="replace")[-400:]
                raise TimeoutError(f"{what}: {last}; exit codes {ended}; its log ends: {log}")
            time.sleep(0.1)

    def leader_address(self) -> str:
        raise LookupError

    def leader_number(self) -> int:
        return 0

    def nodes(self) -> list[NodeRef]:
        leader = self.leader_number()
        return [NodeRef(f"node{i + 1}", p.pid, i == leader) for i, p in enumerate(self._processes)]

    def run(
        self, chosen: Workload, count: int, seconds: float, rate: float | None, meter: Meter
    ) -> tuple[Tally, Window]:
        arguments = {
            "make_client": type(self).make_client,
            "address": self.leader_address(),
            "name": chosen.name,
        }
        return clients.run_processes(_client_process, arguments, count, seconds, rate, meter.at_edge)

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _client_process(
    make_client: Callable[[HttpConnection, str], Client],
    address: str,
    name: str,
    clients: int,
    first: int,
    wait: Callable[[], Window],
    rate: float | None,
) -> Tally:
    chosen = workload(name)

    made = [make_client(HttpConnection(address), chosen.level) for _ in range(clients)]

    def make(number: int) -> Operation:
        return chosen.make(made[number], random.Random(first + number))

    window = wait()
    tally, _window = load.run_threads(make, clients, window.seconds, rate, window=window)
    return tally
