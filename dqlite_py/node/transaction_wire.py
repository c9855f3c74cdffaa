"""Answers of the tx.* methods between nodes, and to programs (node.transaction_services). No I/O.

tx.begin {id, database, wait_s, idle_s, hold_s, base_index|nil} -> [session, sequence], the key of its COMMIT
tx.run {id, body, timeout_s} -> [results, is_open, decltypes|nil], results packed as a unit's
tx.commit {id, key|nil, timeout_s} -> log index of its entry, 0 when nothing was written. `key`: the caller's own, by
  which it can ask what became of it whatever becomes of the leader; else the one of tx.begin
tx.rollback {id}, tx.interrupt {id} -> nil
`id`: 16 bytes of the caller's choice. All act on the leader; another node answers NotLeader, which names it.
"""

from __future__ import annotations

from typing import Any

from dqlite_py.errors import MalformedMessage
from dqlite_py.model import WriteKey
from dqlite_py.node.transaction import GroupResult
from dqlite_py.units import SESSION_BYTES


def checked_key(value: Any) -> WriteKey:
    """A key as it travels; raises MalformedMessage, as the others."""
    if type(value) is list and len(value) == 2:
        session, sequence = value
        if (
            type(session) is bytes
            and len(session) == SESSION_BYTES
            and type(sequence) is int
            and 0 < sequence < 2**63
        ):
            return WriteKey(session, sequence)
    raise MalformedMessage("a write's key is a session of 16 bytes and a number", what="key")


def group_answer(value: Any) -> GroupResult:
    if type(value) is list and len(value) == 3:
        results, is_open, decltypes = value
        if type(results) is bytes and type(is_open) is bool:
            if decltypes is None:
                return GroupResult(results, is_open, None)
            if type(decltypes) is list and all(item is None or type(item) is str for item in decltypes):
                return GroupResult(results, is_open, tuple(decltypes))
    raise MalformedMessage("the leader's answer to tx.run has the wrong shape", what="tx.run")


def log_index_answer(value: Any) -> int:
    if type(value) is int and 0 <= value < 2**63:
        return value
    raise MalformedMessage("the leader's answer to tx.commit is not a log index", what="tx.commit")
