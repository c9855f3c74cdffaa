"""One client's connection to one node, as the workloads see it: reconnects, and maps the wire's answers to records.

Used by one thread only. Knows the cluster by its nodes' clients alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from jepsen.cluster.client import NodeClient, Result
from jepsen.workloads.base import LINEARIZABLE, Answer, Rows, Statement


class Reachable(Protocol):
    """A node, as far as a client needs it: it gives new connections."""

    def client(self, timeout_s: float) -> NodeClient: ...


class NodeSession:
    """Connects on first use, and again after anything that left the connection in doubt."""

    def __init__(self, node: Reachable, timeout_s: float) -> None:
        self.node = node
        self.timeout_s = timeout_s
        self._client: NodeClient | None = None

    def execute(self, sql: str, params: Sequence[Any] = ()) -> Answer:
        return _answer(self._connected().execute(sql, params))

    def unit(self, statements: Sequence[Statement]) -> list[Answer]:
        return [_answer(item) for item in self._connected().unit(statements)]

    def query(self, sql: str, params: Sequence[Any] = (), level: str = LINEARIZABLE) -> Rows:
        return self._connected().query(sql, params, level).rows

    def close(self) -> None:
        """Drop the connection; the next call makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> NodeClient:
        if self._client is None:
            self._client = self.node.client(self.timeout_s)
        return self._client


def _answer(result: Result) -> Answer:
    return Answer(result.rowcount, None if result.columns is None else result.rows)
