"""etcd over its JSON gateway: a key-value store, so an INSERT is a put of a new key. Its gRPC interface costs less."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from dqlite_py.cli.demo.processes import free_addresses
from tests.benchmarks.drivers.http import HttpCluster, HttpConnection, HttpError
from tests.benchmarks.workloads import KNOWN, LOOKUP_ROWS

PROGRAM = "etcd"
TXN_OPS_MAX = 128  # etcd's default
_numbers = itertools.count()


def missing() -> str:
    return "" if shutil.which(PROGRAM) else f"{PROGRAM} is not on PATH"


def open_cluster(folder: Path, nodes: int = 3, name: str = "etcd") -> EtcdCluster:
    return EtcdCluster(folder, nodes, name)


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class EtcdClient:
    def __init__(self, connection: HttpConnection, level: str) -> None:
        self._connection = connection
        self._is_stale = level == "stale"
        self._prefix = f"{id(self):x}-"

    def put(self, key: str, value: str) -> None:
        self._connection.call("/v3/kv/put", {"key": _coded(key), "value": _coded(value)})

    def insert(self, value: str) -> None:
        self.put(f"{self._prefix}{next(_numbers):012d}", value)

    def atomic(self, values: list[str]) -> None:
        self.put_all({f"{self._prefix}{next(_numbers):012d}": value for value in values})

    def many(self, values: list[str]) -> None:
        raise HttpError(f"a transaction of etcd holds {TXN_OPS_MAX} operations, not {len(values)}")

    def put_all(self, pairs: dict[str, str]) -> None:
        puts = [{"requestPut": {"key": _coded(k), "value": _coded(v)}} for k, v in pairs.items()]
        answer = self._connection.call("/v3/kv/txn", {"success": puts})
        if b'"succeeded"' not in answer:
            raise HttpError(answer[:200].decode(errors="replace"))

    def read(self, number: int) -> None:
        body: dict[str, Any] = {"key": _coded(f"lookup-{number:06d}")}
        if self._is_stale:
            body["serializable"] = True
        if b'"kvs"' not in self._connection.call("/v3/kv/range", body):
            raise AssertionError(f"key {number} is missing")


class EtcdCluster(HttpCluster):
    workloads = frozenset(KNOWN) - {"batch1000"}
    make_client = EtcdClient
    note = "over the JSON gateway; clients: threads in other processes, a connection each, to the leader"

    def __init__(self, folder: Path, nodes: int, name: str) -> None:
        super().__init__(folder, nodes, name)
        addresses = free_addresses(2 * nodes)
        self._client, peers = addresses[:nodes], addresses[nodes:]
        members = ",".join(f"n{i}=http://{peer}" for i, peer in enumerate(peers))
        try:
            for number in range(nodes):
                command = [PROGRAM, "--name", f"n{number}", "--data-dir", str(folder / str(number))]
                for option in ("listen-client-urls", "advertise-client-urls"):
                    command += [f"--{option}", f"http://{self._client[number]}"]
                for option in ("listen-peer-urls", "initial-advertise-peer-urls"):
                    command += [f"--{option}", f"http://{peers[number]}"]
                command += [
                    "--initial-cluster",
                    members,
                    "--initial-cluster-state",
                    "new",
                    "--log-level",
                    "error",
                ]
                self.start(command)
            self.wait_for("etcd has a leader", self._has_leader)
            client = EtcdClient(HttpConnection(self.leader_address()), "stale")
            for low in range(1, LOOKUP_ROWS + 1, 100):
                client.put_all({f"lookup-{n:06d}": "x" * 100 for n in range(low, low + 100)})
        except BaseException:
            self.close()
            raise

    def _status(self, number: int) -> dict[str, Any]:
        connection = HttpConnection(self._client[number])
        try:
            found: dict[str, Any] = json.loads(connection.call("/v3/maintenance/status", {}))
            return found
        finally:
            connection.close()

    def _has_leader(self) -> bool:
        return all(self._status(number).get("leader", "0") != "0" for number in range(self.node_count))

    def leader_number(self) -> int:
        """Raises LookupError between two leaders."""
        for number in range(self.node_count):
            status = self._status(number)
            if status["header"]["member_id"] == status.get("leader"):
                return number
        raise LookupError("etcd has no leader now")

    def leader_address(self) -> str:
        return self._client[self.leader_number()]
