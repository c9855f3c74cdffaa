"""One client's connection to one node, as the workloads see it: reconnects, and maps the wire's answers to records.

Used by one thread only. Knows the cluster by its nodes' clients alone. Reads of level "session" and repeated writes
also go to the other nodes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from jepsen.cluster.client import Failed, Key, NodeClient, Result, Unknown
from jepsen.workloads.base import LINEARIZABLE, SESSION, Answer, Rows, Statement

T = TypeVar("T")
REPEAT_SHARE: Final = 0.1  # of the writes that were answered are sent once more
REPEAT_FACTOR: Final = 3.0  # request timeouts, until a repeated write is given up
PAUSE_S: Final = 0.05


class DifferentAnswer(Exception):
    """A repetition was answered with something else than the write itself."""


class Reachable(Protocol):
    """A node, as far as a client needs it: it gives new connections."""

    def client(self, timeout_s: float) -> NodeClient: ...


class NodeSession:
    """Connects on first use, and again after anything that left the connection in doubt.

    `nodes`: where reads of level "session" and repeated writes go; without it, to `node` only.
    """

    def __init__(
        self,
        node: Reachable,
        timeout_s: float,
        nodes: Sequence[Reachable] = (),
        rng: random.Random | None = None,
    ) -> None:
        self.node = node
        self.timeout_s = timeout_s
        self._nodes = [node, *(other for other in nodes if other is not node)]
        self._rng = rng or random.Random(0)
        self._clients: dict[int, NodeClient] = {}
        self._token: str | None = None

    def execute(self, sql: str, params: Sequence[Any] = ()) -> Answer:
        return self._answer(self._connected().execute(sql, params))

    def unit(self, statements: Sequence[Statement]) -> list[Answer]:
        return [self._answer(item) for item in self._connected().unit(statements)]

    def once(self, statements: Sequence[Statement]) -> list[Answer]:
        deadline = time.monotonic() + REPEAT_FACTOR * self.timeout_s
        key = self._until(deadline, lambda client: client.new_key())
        answers = self._send(statements, key, deadline)
        if self._rng.random() < REPEAT_SHARE:
            try:
                again = self._send(statements, key, deadline)
            except (Failed, Unknown):
                return answers
            if again != answers:
                raise DifferentAnswer(f"{answers} at first, then {again}")
        return answers

    def _send(self, statements: Sequence[Statement], key: Key, deadline: float) -> list[Answer]:
        return self._until(
            deadline, lambda client: [self._answer(item) for item in client.unit(statements, key)]
        )

    def transaction(self, statements: Sequence[Statement], begin: str) -> list[Answer]:
        return [self._answer(item) for item in self._connected().transaction(statements, begin)]

    def query(
        self,
        sql: str,
        params: Sequence[Any] = (),
        level: str = LINEARIZABLE,
        max_staleness: float | None = None,
    ) -> Rows:
        if level != SESSION:
            return self._connected().query(sql, params, level, max_staleness=max_staleness).rows
        place = self._rng.randrange(len(self._nodes))
        result = self._connected(place).query(sql, params, level, self._token)
        self._token = result.token or self._token
        return result.rows

    def close(self) -> None:
        """Drop the connections; the next call makes new ones."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _until(self, deadline: float, ask: Callable[[NodeClient], T]) -> T:
        """Ask one node after the other. Unknown when any attempt may have happened."""
        place, is_unknown = 0, False
        last: Failed | Unknown
        while True:
            try:
                return ask(self._connected(place))
            except Unknown as unknown:
                last, is_unknown = unknown, True
            except Failed as failed:
                last = last if is_unknown else failed
                if failed.name == "Connection":
                    self._drop(place)
                time.sleep(PAUSE_S)
            if time.monotonic() >= deadline:
                raise last
            place = (place + 1) % len(self._nodes)

    def _connected(self, place: int = 0) -> NodeClient:
        client = self._clients.get(place)
        if client is None or client.is_closed:
            client = self._clients[place] = self._nodes[place].client(self.timeout_s)
        return client

    def _drop(self, place: int) -> None:
        client = self._clients.pop(place, None)
        if client is not None:
            client.close()

    def _answer(self, result: Result) -> Answer:
        self._token = result.token or self._token
        return Answer(result.rowcount, None if result.columns is None else result.rows)
