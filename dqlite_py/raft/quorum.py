"""Majorities. Pure functions over sets of voter ids; called by elections.py and replication.py."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set
from typing import TypeVar

from dqlite_py.model import NodeId

Value = TypeVar("Value", int, float)


def majority(voters: Collection[NodeId]) -> int:
    """How many of `voters` are a quorum."""
    return len(voters) // 2 + 1


def is_quorum(voters: Set[NodeId], agreed: Set[NodeId]) -> bool:
    """True when `agreed` holds a majority of `voters`; ids that are not voters do not count."""
    return bool(voters) and len(voters & agreed) >= majority(voters)


def reached_by_quorum(values: Iterable[Value]) -> Value:
    """The greatest value that a majority has reached; one value per voter (paper 5.3, commit rule)."""
    ordered = sorted(values, reverse=True)
    return ordered[len(ordered) // 2]
