"""Embedded nodes of the test process: quick clusters with settings of the test's choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dqlite_py
from tests.integration.cluster import wait_until


@contextmanager
def embedded_cluster(folder: Path, count: int = 3, **settings: Any) -> Iterator[list[dqlite_py.Node]]:
    """`count` voters on loopback ports of the system's choice; stopped at the end, whatever happened."""
    nodes: list[dqlite_py.Node] = []
    try:
        for number in range(count):
            join = [nodes[0].address] if nodes else []
            node = dqlite_py.Node(folder / f"n{number}", join=join, **settings)
            nodes.append(node.start())
            node.wait_ready()
        wait_until(lambda: all(voters(node) == count for node in nodes), "all nodes vote")
        yield nodes
    finally:
        for node in nodes:
            node.stop(hand_over=False)


def voters(node: dqlite_py.Node) -> int:
    return sum(member["role"] == "voter" for member in node.members())


def leader_of(nodes: list[dqlite_py.Node]) -> dqlite_py.Node:
    found: dqlite_py.Node = wait_until(
        lambda: next((node for node in nodes if node.status()["is_leader"]), None), "a leader"
    )
    return found


def state_hash(node: dqlite_py.Node, database: str = "app") -> tuple[int, str]:
    state = node.status()["databases"][database]
    return state["applied_index"], state["state_hash"]


def check_same_state(nodes: list[dqlite_py.Node], database: str = "app") -> None:
    """Wait until all have applied the same entries, then their hashes must be equal."""

    def is_same() -> bool:
        found = {node.databases().get(database) for node in nodes}
        return len(found) == 1 and None not in found

    wait_until(is_same, "all nodes applied the same entries")
    assert len({state_hash(node, database) for node in nodes}) == 1
