"""RaftCore.step with any message: it keeps its invariants, or stops the node by RaftInvariantBroken."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dqlite_py.errors import Error, RaftInvariantBroken
from dqlite_py.model import Entry, EntryKind, LogIndex, NodeId, Term
from dqlite_py.raft.messages import (
    AppendReply,
    AppendRequest,
    Message,
    SnapshotOffer,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from tests.unit.raft.solo import Solo, members

peers = st.integers(1, 6).map(NodeId)
small = st.integers(0, 8)
wild = st.one_of(small, st.integers(-2, 2**63))
terms = st.integers(0, 6).map(Term)
indexes = wild.map(LogIndex)
kinds = st.sampled_from([EntryKind.NOOP, EntryKind.COMMAND])
entries = st.builds(Entry, small.map(LogIndex), terms, kinds, st.binary(max_size=3))


@st.composite
def runs(draw: Any) -> tuple[LogIndex, Term, tuple[Entry, ...]]:
    """A well-formed stretch of some log: (prev index, prev term, entries)."""
    prev, term = draw(small), draw(st.integers(1, 3))
    prev_term = term if prev else 0
    found = []
    for offset in range(draw(st.integers(0, 4))):
        term += draw(st.integers(0, 1))
        found.append(Entry(LogIndex(prev + 1 + offset), Term(term), EntryKind.COMMAND, b"%d" % term))
    return LogIndex(prev), Term(prev_term), tuple(found)


@st.composite
def sound_appends(draw: Any) -> AppendRequest:
    prev, prev_term, found = draw(runs())
    least = found[-1].term if found else max(prev_term, 1)
    term = Term(least + draw(st.integers(0, 2)))
    return AppendRequest(draw(peers), term, prev, prev_term, found, LogIndex(draw(small)), draw(small))


flags = st.booleans()
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(VoteRequest, peers, terms, flags, indexes, terms, flags),
    st.builds(VoteReply, peers, terms, flags, terms, flags),
    st.builds(
        AppendRequest, peers, terms, indexes, terms, st.lists(entries, max_size=3).map(tuple), indexes, wild
    ),
    sound_appends(),
    st.builds(AppendReply, peers, terms, flags, indexes, indexes, indexes, terms, wild, flags),
    st.builds(SnapshotOffer, peers, terms, indexes, terms, st.just(members(1, 2, 3)), wild),
    st.builds(TimeoutNow, peers, terms),
)
inputs = st.one_of(
    messages,
    st.floats(1, 900).map(lambda ms: ("tick", ms)),
    st.sampled_from([("propose",), ("campaign",), ("read",), ("transfer",), ("write",), ("quarantine",)]),
)


def drive(solo: Solo, action: Any) -> None:
    core = solo.core
    match action:
        case ("tick", ms):
            solo.tick(ms)
        case ("propose",):
            core.propose(b"x", solo.now)
        case ("campaign",):
            core.campaign(solo.now)
        case ("read",):
            core.read_index(1, solo.now)
        case ("transfer",):
            core.transfer_leadership(None, solo.now)
        case ("quarantine",):
            core.request_snapshot()
        case ("write",):
            if solo.unwritten:
                solo.write()
        case _:
            core.step(action, solo.now)


@settings(max_examples=300, deadline=None)
@given(st.lists(inputs, max_size=40), st.integers(0, 3))
def test_any_message_keeps_the_invariants(script: list[Any], extra: int) -> None:
    solo = Solo(members(1, 2, 3), *([1, 2, 2][:extra]))
    core = solo.core
    term, commit, handed = core.term, core.commit_index, 0
    votes: dict[Term, NodeId] = {}
    for action in script:
        try:
            drive(solo, action)
        except RaftInvariantBroken:
            return  # the node stops: a peer lied about what is committed
        except Error:
            assert not isinstance(action, (VoteRequest, VoteReply, AppendRequest, AppendReply))
        effects = solo.take()
        assert core.term >= term
        assert core.commit_index >= commit
        assert core.commit_index <= core.last_index
        assert core.log.last_term <= core.term
        term, commit = core.term, core.commit_index
        for entry in effects.committed:
            assert entry.index == handed + 1
            assert entry.index <= min(core.commit_index, core.durable_index)
            handed = entry.index
        if effects.hard_state is not None and effects.hard_state.voted_for:
            voted = effects.hard_state
            assert votes.setdefault(voted.term, voted.voted_for) == voted.voted_for
        for _, message in effects.messages:
            if isinstance(message, VoteReply) and message.granted and not message.pre:
                assert votes[message.for_term] is not None
        rest = [e.index for e in effects.entries]
        assert rest == list(range(core.last_index - len(rest) + 1, core.last_index + 1))
