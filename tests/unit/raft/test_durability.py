"""raft/durability.py: tokens, and messages that wait for the hard state they reveal."""

from __future__ import annotations

import pytest

from dqlite_py.errors import InterfaceError, RaftInvariantBroken
from dqlite_py.model import LogIndex, NodeId, Term
from dqlite_py.raft.core import RaftSettings
from dqlite_py.raft.durability import Durability
from dqlite_py.raft.effects import Effects
from dqlite_py.raft.messages import TimeoutNow
from dqlite_py.raft.quorum import is_quorum, majority, reached_by_quorum

HELLO = TimeoutNow(NodeId(1), Term(1))
PEER = NodeId(2)


def test_messages_wait_for_the_batch_with_the_hard_state() -> None:
    durability, effects = Durability(LogIndex(0)), Effects()
    durability.send(effects, PEER, HELLO)
    durability.hard_state_changed()
    durability.send(effects, PEER, HELLO)
    assert (len(effects.messages), len(effects.messages_when_durable)) == (1, 1)
    token = durability.close_batch(LogIndex(0))
    later = Effects()
    durability.send(later, PEER, HELLO)
    assert not later
    durability.persisted(token, later)
    assert later.messages == [(PEER, HELLO)]
    assert durability.hard_state_durable


def test_the_durable_index_follows_batches_and_truncations() -> None:
    durability = Durability(LogIndex(4))
    first, second = durability.close_batch(LogIndex(6)), durability.close_batch(LogIndex(9))
    durability.truncated(LogIndex(6))
    third = durability.close_batch(LogIndex(7))
    found = []
    for token in (first, second, third):
        durability.persisted(token, Effects())
        found.append(durability.durable_index)
    assert found == [5, 5, 7]


def test_one_report_may_cover_many_batches() -> None:
    durability = Durability(LogIndex(0))
    for last in (1, 2, 3):
        token = durability.close_batch(LogIndex(last))
    durability.persisted(token, Effects())
    assert durability.durable_index == 3


def test_a_replaced_log_is_durable_with_its_own_batch() -> None:
    durability = Durability(LogIndex(8))
    old = durability.close_batch(LogIndex(9))
    durability.reset()
    new = durability.close_batch(LogIndex(50))
    durability.persisted(old, Effects())
    assert durability.durable_index == 0
    durability.persisted(new, Effects())
    assert durability.durable_index == 50


@pytest.mark.parametrize("token", [0, 1, 3])
def test_tokens_out_of_order_are_refused(token: int) -> None:
    durability = Durability(LogIndex(0))
    durability.persisted(durability.close_batch(LogIndex(0)), Effects())
    durability.close_batch(LogIndex(0))
    with pytest.raises(RaftInvariantBroken):
        durability.persisted(token, Effects())


def test_majorities() -> None:
    assert [majority(range(n)) for n in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]  # type: ignore[arg-type]
    voters = frozenset(NodeId(i) for i in (1, 2, 3))
    assert is_quorum(voters, {NodeId(1), NodeId(3)})
    assert not is_quorum(voters, {NodeId(1), NodeId(8), NodeId(9)})
    assert not is_quorum(frozenset(), set())
    assert [reached_by_quorum(v) for v in ([7], [7, 3], [9, 3, 7], [1, 2, 3, 4])] == [7, 3, 7, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"election_min_ms": 0},
        {"election_min_ms": 900},
        {"heartbeat_ms": 300},
        {"append_entries_max": -1},
    ],
)
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(InterfaceError):
        RaftSettings(**wrong)
