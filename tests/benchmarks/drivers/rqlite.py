"""rqlite over HTTP: `rqlited` nodes; one request per operation, no queued writes (they are not durable)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from dqlite_py.cli.demo.processes import free_addresses
from tests.benchmarks.drivers.http import HttpCluster, HttpConnection, HttpError
from tests.benchmarks.workloads import BATCH_ROWS, FILL, INSERT, LOOKUP_ROWS, PUT, READ, SCHEMA

PROGRAM = "rqlited"


def missing() -> str:
    return "" if shutil.which(PROGRAM) else f"{PROGRAM} is not on PATH"


def open_cluster(folder: Path, nodes: int = 3, name: str = "rqlite") -> RqliteCluster:
    return RqliteCluster(folder, nodes, name)


class RqliteClient:
    def __init__(self, connection: HttpConnection, level: str) -> None:
        self._connection = connection
        self._query = f"/db/query?level={'none' if level == 'stale' else 'linearizable'}"

    def execute(self, statements: list[list[str]]) -> None:
        answer = self._connection.call("/db/execute?transaction", statements)
        if b'"error"' in answer:
            raise HttpError(answer[:200].decode(errors="replace"))

    def insert(self, value: str) -> None:
        self.execute([[INSERT, value]])

    def put(self, key: str, value: str) -> None:
        self.execute([[PUT, key, value]])

    def many(self, values: list[str]) -> None:
        self.execute([[INSERT, value] for value in values])

    atomic = many

    def read(self, number: int) -> None:
        answer = self._connection.call(self._query, [[READ, number]])
        if b'"values"' not in answer:
            raise HttpError(answer[:200].decode(errors="replace"))


class RqliteCluster(HttpCluster):
    make_client = RqliteClient

    def __init__(self, folder: Path, nodes: int, name: str) -> None:
        super().__init__(folder, nodes, name)
        addresses = free_addresses(2 * nodes)
        self._http, raft = addresses[:nodes], addresses[nodes:]
        try:
            for number in range(nodes):
                command = [PROGRAM, "-node-id", str(number + 1)]
                command += ["-http-addr", self._http[number], "-raft-addr", raft[number]]
                command += ["-join", raft[0]] if number else []
                self.start([*command, str(folder / str(number + 1))])
                self.wait_for(f"{PROGRAM} {number + 1} is ready", lambda n=number: self._is_ready(n))  # type: ignore[misc]
            client = RqliteClient(HttpConnection(self._http[0]), "stale")
            client.execute([[sql] for sql in SCHEMA])
            for _ in range(LOOKUP_ROWS // BATCH_ROWS):
                client.execute([[FILL, "x" * 100]] * BATCH_ROWS)
        except BaseException:
            self.close()
            raise

    def _is_ready(self, number: int) -> bool:
        connection = HttpConnection(self._http[number])
        try:
            connection.call("/readyz")
            found = json.loads(connection.call("/nodes"))
            return len(found) >= number + 1 and all(node["reachable"] for node in found.values())
        finally:
            connection.close()

    def leader_address(self) -> str:
        """The first node bootstrapped the cluster; nothing happens here that takes leadership from it."""
        return self._http[0]
