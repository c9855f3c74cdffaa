"""The demo's view of a node over its RPC methods. Loop thread.

Only the calls the demo needs; not a general client of the cluster.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

from dqlite_py.cli.demo.ledger import RowKey
from dqlite_py.cli.demo.verdict import NodeContent
from dqlite_py.command import encode_unit
from dqlite_py.errors import OperationalError
from dqlite_py.model import Address

DATABASE = "demo"
CREATE = """CREATE TABLE IF NOT EXISTS rows(
    writer TEXT NOT NULL,
    number INTEGER NOT NULL,
    payload TEXT NOT NULL,
    written_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f')),
    dice INTEGER NOT NULL DEFAULT (abs(random() % 6) + 1))"""
INSERT = "INSERT INTO rows(writer, number, payload) VALUES (?, ?, ?)"
SELECT = "SELECT writer, number, payload, written_at, dice FROM rows ORDER BY rowid"
PAYLOAD = "acknowledged means durable on a majority; " * 2

WRITE_TIMEOUT_S = 5.0
STATUS_TIMEOUT_S = 1.0
READ_TIMEOUT_S = 20.0


class Caller(Protocol):
    """What is needed of raft.transport.PeerTransport."""

    async def call(self, target: Address, method: str, body: Any, timeout_s: float) -> Any: ...


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node's own view, for the screen."""

    node_id: int
    state: str
    role: str
    term: int
    leader_id: int
    last_index: int
    commit_index: int
    applied_index: int
    voters: int


def _number(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    return value if type(value) is int else 0


def parse_status(body: Any) -> NodeStatus:
    """From the `status` method's map; what an older or newer node leaves out shows as 0."""
    if not isinstance(body, dict):
        body = {}
    node_id = _number(body, "node_id")
    members = [m for m in body.get("members", []) if isinstance(m, dict)]
    role = next((str(m.get("role")) for m in members if m.get("id") == node_id), "-")
    return NodeStatus(
        node_id=node_id,
        state=str(body.get("state", "-")),
        role=role,
        term=_number(body, "term"),
        leader_id=_number(body, "leader_id"),
        last_index=_number(body, "last_index"),
        commit_index=_number(body, "commit_index"),
        applied_index=_number(body, "applied_index"),
        voters=sum(m.get("role") == "voter" for m in members),
    )


class DemoClient:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def create_table(self, address: Address) -> None:
        body = {"database": DATABASE, "timeout_s": WRITE_TIMEOUT_S}
        await self._caller.call(address, "sql.open", body, WRITE_TIMEOUT_S + 1)
        await self._write(address, encode_unit([(CREATE, [])]))

    async def insert(self, address: Address, row: RowKey) -> None:
        await self._write(address, encode_unit([(INSERT, [row.writer, row.number, PAYLOAD])]))

    async def _write(self, address: Address, unit: bytes) -> None:
        body = {"database": DATABASE, "unit": unit, "timeout_s": WRITE_TIMEOUT_S}
        # The node answers at its own deadline, and knows more than we do.
        await self._caller.call(address, "sql.write", body, WRITE_TIMEOUT_S + 1)

    async def status(self, address: Address) -> NodeStatus:
        return parse_status(await self._caller.call(address, "status", {}, STATUS_TIMEOUT_S))

    async def content(self, address: Address) -> NodeContent:
        """The node's own rows (a stale read: nobody else is asked) and the state hash that belongs to them."""
        body = {
            "database": DATABASE,
            "sql": SELECT,
            "params": [],
            "level": "stale",
            "timeout_s": READ_TIMEOUT_S,
        }
        deadline_s = time.monotonic() + READ_TIMEOUT_S
        before = await self._state(address)
        while True:
            _columns, rows = await self._caller.call(address, "sql.read", body, READ_TIMEOUT_S + 1)
            after = await self._state(address)
            if after == before:
                return NodeContent(*after, rows)
            if time.monotonic() > deadline_s:
                raise OperationalError(f"the node at {address} does not come to rest: {before}, then {after}")
            before = after

    async def _state(self, address: Address) -> tuple[int, str]:
        """The applied index and the database's state hash."""
        state = await self._caller.call(address, "state.hash", {}, READ_TIMEOUT_S)
        _index, state_hash = state["databases"].get(DATABASE, [0, "-"])
        return state["applied_index"], state_hash
