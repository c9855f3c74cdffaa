"""Configurations: bytes, history, which changes are safe, and what leaders and removed members do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from dqlite_py.errors import MalformedMessage, MembershipRefused, NotLeader, UnknownFormat
from dqlite_py.model import (
    Address,
    Configuration,
    Entry,
    EntryKind,
    LogIndex,
    Member,
    NodeId,
    Role,
    RoleSettings,
    Term,
)
from dqlite_py.raft.effects import RaftState
from dqlite_py.raft.membership import (
    ConfigurationHistory,
    check_change,
    decode_configuration,
    encode_configuration,
)
from dqlite_py.raft.messages import AppendRequest, TimeoutNow, VoteReply, VoteRequest
from tests.unit.raft.solo import Solo, append, command, configuration_entry, member, members, vote


def stored(payload: bytes) -> Entry:
    return Entry(LogIndex(7), Term(1), EntryKind.CONFIGURATION, payload)


def test_bytes_and_back() -> None:
    configuration = members(1, 3, standbys=(2,), spares=(9,))
    assert decode_configuration(stored(encode_configuration(configuration))) == configuration.at(LogIndex(7))


def test_the_oldest_form_that_can_say_it_is_written() -> None:
    plain = members(1, standbys=(2,))
    old = msgpack.packb([1, [[m.id, m.address, int(m.role)] for m in plain.members]])
    assert encode_configuration(plain) == old, "byte for byte what earlier releases wrote"
    assert decode_configuration(stored(old)) == plain.at(LogIndex(7))


@pytest.mark.parametrize("settings", [None, RoleSettings(False, 5, 0, 1_000)])
@pytest.mark.parametrize(("weight", "domain"), [(0, 0), (1, 0), (0, 2**64 - 1), (7, 8)])
def test_weights_domains_and_settings_and_back(
    settings: RoleSettings | None, weight: int, domain: int
) -> None:
    heavy = tuple(replace(m, weight=weight, domain=domain) for m in members(1, 2).members[:1])
    configuration = Configuration((*heavy, *members(1, 2).members[1:]), settings=settings)
    assert decode_configuration(stored(encode_configuration(configuration))) == configuration.at(LogIndex(7))
    assert Configuration.from_wire(configuration.to_wire()) == configuration


@pytest.mark.parametrize(
    "wire",
    [
        [2, [], None, None],
        [2, None, None],
        [2, [[1, "a:1", 0, 5]], None],
        [2, [[1, "a:1", 0, 5, -1]], None],
        [2, [[1, "a:1", 0, 5, 2**64]], None],
        [2, [[1, "a:1", 0, True, 0]], None],
        [2, [[1, "a:1", 0]], [True, 3, 3]],
        [2, [[1, "a:1", 0]], [1, 3, 3, 5000]],
        [2, [[1, "a:1", 0]], [True, 4, 3, 5000]],
        [2, [[1, "a:1", 0]], [True, 3, -1, 5000]],
        [2, [[1, "a:1", 0]], [True, 3, 3, 999]],
        [2, [[1, "a:1", 0]], [True, 3, 3, 5000.0]],
        [3, [[1, "a:1", 0]], None],
        [[1, "a:1", 0, 5, 5]],
    ],
)
def test_what_is_not_a_configuration_is_refused(wire: list[Any]) -> None:
    with pytest.raises(MalformedMessage):
        Configuration.from_wire(wire)


def test_settings_change_alone() -> None:
    before = members(1, 2)
    settings = RoleSettings(True, 3, 1, 5_000)
    assert check_change(before, replace(before, settings=settings), 9) is None
    with pytest.raises(MembershipRefused, match="together"):
        check_change(before, replace(members(1, 2, 3), settings=settings), 9)


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x91\x01", b"\x92\x01\xa0", b"\x92\x01\x91\x90"])
def test_damaged_bytes_are_named(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_configuration(stored(payload))


def test_an_unknown_version_is_refused_by_name() -> None:
    with pytest.raises(UnknownFormat, match="3"):
        decode_configuration(stored(b"\x92\x03\x90"))


def test_history_goes_forward_back_and_up() -> None:
    base, later = members(1).at(LogIndex(2)), members(1, 2).at(LogIndex(5))
    history = ConfigurationHistory(base, [later])
    assert history.latest is later
    assert [history.at(LogIndex(i)) for i in (1, 4, 5, 9)] == [base, base, later, later]
    history.appended(members(1, 2, 3).at(LogIndex(8)))
    assert history.truncated(LogIndex(8))
    assert not history.truncated(LogIndex(6))
    assert history.latest is later
    assert history.truncated(LogIndex(1))
    assert history.latest is base, "the base is committed and stays"
    history.rebased(later, LogIndex(6), keep_later=False)
    assert history.latest is later


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (members(1, 2, 3), "not change"),
        (members(1, 2, 4), "one member"),
        (members(1), "one member"),
        (members(1, 2, 3, 4, 5), "one member"),
        (members(2, 3, standbys=(1, 4)), "one member"),
        (Configuration(), "one member"),
    ],
)
def test_unsafe_changes_are_refused(new: Configuration, why: str) -> None:
    with pytest.raises(MembershipRefused, match=why):
        check_change(members(1, 2, 3), new, 64)


def test_the_last_voter_stays() -> None:
    for new in (Configuration(), members(standbys=(1,))):
        with pytest.raises(MembershipRefused, match="last voter"):
            check_change(members(1), new, 64)


def test_the_number_of_members_is_bounded() -> None:
    with pytest.raises(MembershipRefused, match="at most 3"):
        check_change(members(1, 2, 3), members(1, 2, 3, standbys=(4,)), 3)


def test_addresses_are_not_shared() -> None:
    twin = member(4, Role.STANDBY)
    twin = type(twin)(twin.id, member(1).address, twin.role)
    with pytest.raises(MembershipRefused, match="address"):
        check_change(members(1, 2, 3), members(1, 2, 3).with_member(twin), 64)


def moved(configuration: Configuration, **addresses: str) -> Configuration:
    for name, address in addresses.items():
        known = configuration.get(NodeId(int(name[1:])))
        assert known is not None
        configuration = configuration.with_member(Member(known.id, Address(address), known.role))
    return configuration


def test_several_may_change_their_addresses_together() -> None:
    """Two machines that were swapped: one after the other, they would have the same address meanwhile."""
    before = members(1, 2, 3)
    first, second = member(1).address, member(2).address
    swapped = moved(before, m1=second, m2=first)
    changed = check_change(before, swapped, 64)
    assert changed is not None
    assert changed.role is Role.VOTER
    with pytest.raises(MembershipRefused, match="address"):
        check_change(before, moved(before, m1=second, m3=second), 64)
    with pytest.raises(MembershipRefused, match="one member"):
        check_change(before, moved(members(1, 2, standbys=(3,)), m1=second, m2=first), 64)


# -- on the leader ---------------------------------------------------------------------------------------


def leader(configuration: Configuration | None = None) -> Solo:
    solo = Solo(configuration).elect().ack(2, 2).ack(3, 2).settle()
    return solo.forget()


def change(solo: Solo, new: Configuration) -> int:
    index = solo.core.propose_configuration(new, solo.now)[1]
    solo.settle()
    return index


def test_only_the_leader_changes_members() -> None:
    with pytest.raises(NotLeader):
        Solo().core.propose_configuration(members(1, 2), 0)


def test_a_change_is_in_force_when_appended() -> None:
    """Thesis 4.1."""
    solo = leader()
    index = change(solo, solo.core.configuration.with_member(member(4, Role.STANDBY)))
    assert solo.core.configuration.index == index == 3
    assert solo.core.committed_configuration.index == 1
    assert 4 in solo.core.peers
    assert [e.configuration.index for e in solo.effects if e.configuration] == [3]
    solo.ack(2, 3).settle()
    assert solo.core.committed_configuration.index == 3
    assert any(e.state_changed for e in solo.effects[-3:])


def test_a_voter_must_have_the_log_first() -> None:
    """RF-9, thesis 4.2.1: the newcomer catches up without a vote."""
    solo = leader()
    with pytest.raises(MembershipRefused, match="stand-by"):
        change(solo, solo.core.configuration.with_member(member(4)))
    change(solo, solo.core.configuration.with_member(member(4, Role.STANDBY)))
    solo.ack(2, 3).settle()
    with pytest.raises(MembershipRefused, match="stand-by"):
        change(solo, solo.core.configuration.with_member(member(4)))
    solo.ack(4, 3).settle()
    change(solo, solo.core.configuration.with_member(member(4)))
    solo.ack(2, 4).settle()
    assert solo.core.commit_index == 3, "the new majority is three of four"
    solo.ack(4, 4).settle()
    assert solo.core.commit_index == 4


def test_a_far_behind_stand_by_is_not_promoted() -> None:
    solo = leader(members(1, 2, standbys=(4,)))
    solo.ack(4, 1).settle()
    for _ in range(1100):
        solo.core.propose(b"x", solo.now)
    solo.settle().ack(2, solo.core.last_index).settle()
    with pytest.raises(MembershipRefused, match="catch up"):
        change(solo, solo.core.configuration.with_member(member(4)))


def test_a_change_that_would_stall_is_refused() -> None:
    """Removing a voter that lives while others do not leaves no quorum."""
    solo = Solo(members(1, 2, 3, 4, 5)).elect(2, 3).ack(2, 2).ack(3, 2).settle()
    for _ in range(9):
        solo.wait(100).ack(2, 2).ack(3, 2)
    with pytest.raises(MembershipRefused, match="stall"):
        change(solo, solo.core.configuration.without(NodeId(2)))
    change(solo, solo.core.configuration.without(NodeId(4)))


def test_a_removed_member_learns_it_and_is_then_forgotten() -> None:
    solo = leader()
    change(solo, solo.core.configuration.without(NodeId(3)))
    solo.ack(2, 3).settle()
    assert solo.core.commit_index == 3
    assert solo.heard(AppendRequest, 3)[-1].prev_index == 2
    solo.forget()
    solo.ack(3, 3).settle().wait(100)
    assert solo.heard(AppendRequest, 3)[-1].commit_index == 3
    for _ in range(25):
        solo.wait(100).ack(2, 3).ack(3, 3)
    assert 3 not in solo.core.peers
    solo.step(solo.reply(3, reject=True, term=99)).settle()
    assert solo.core.is_leader, "and has nothing to say any more"


def test_a_follower_is_told_that_it_was_removed() -> None:
    solo = Solo()
    solo.step(append(2, 1, (1, 1), configuration_entry(2, 1, members(2, 3)), commit=1)).settle()
    assert not any(e.removed for e in solo.effects), "not before it is committed"
    solo.step(append(2, 1, (2, 1), commit=2)).settle()
    assert [e.removed for e in solo.effects].count(True) == 1
    solo.wait(3000)
    assert solo.core.state is RaftState.FOLLOWER


def test_a_joining_node_is_not_removed_by_history() -> None:
    """Replaying configurations of before it joined."""
    solo = Solo(entries=[])
    solo.step(append(2, 1, (0, 0), configuration_entry(1, 1, members(2)), command(2, 1), commit=2)).settle()
    solo.step(append(2, 1, (2, 1), configuration_entry(3, 1, members(1, 2)), commit=3)).settle()
    assert not any(e.removed for e in solo.effects)


def test_a_leader_that_removes_itself_leads_until_that_is_committed() -> None:
    """Thesis 4.2.2; it does not count itself meanwhile."""
    solo = leader()
    index = change(solo, solo.core.configuration.without(NodeId(1)))
    solo.ack(2, index).settle()
    assert solo.core.is_leader
    assert solo.core.commit_index == 2, "one of the two voters left, and not us"
    solo.ack(3, index).settle()
    assert solo.core.commit_index == index
    assert solo.core.state is RaftState.FOLLOWER
    assert any(e.removed for e in solo.effects)
    assert len(solo.heard(TimeoutNow)) == 1, "an heir takes over at once"
    assert {m.commit_index for _, m in solo.sent[-3:] if isinstance(m, AppendRequest)} == {index}


def test_a_leader_that_becomes_a_stand_by_steps_down() -> None:
    solo = leader()
    index = change(solo, solo.core.configuration.with_member(member(1, Role.STANDBY)))
    solo.ack(2, index).ack(3, index).settle()
    assert solo.core.state is RaftState.FOLLOWER
    assert not any(e.removed for e in solo.effects)


@pytest.mark.parametrize(
    "later",
    [members(2), members(2, standbys=(1,)), members(2, spares=(1,))],
    ids=["removed", "stand-by", "spare"],
)
def test_who_gave_its_vote_up_still_campaigns_while_that_may_not_be_committed(later: Configuration) -> None:
    """Thesis 4.2.2. The leader, node 2, forgot the change: it had sent it before its disk was done, and lost power. It
    still counts our vote, which goes to no shorter log."""
    entries = [configuration_entry(1, 1, members(1, 2)), configuration_entry(2, 1, later)]
    solo = Solo(entries=entries, applied=1).later()
    solo.step(vote(2, 2, (1, 1))).settle()
    assert [reply.granted for reply in solo.heard(VoteReply)] == [False]
    solo.wait(3000)
    assert [r.pre for r in solo.heard(VoteRequest, 2)], "it campaigns by its newest configuration"
    solo.elect(2)
    assert solo.core.is_leader
    solo.ack(2, solo.core.last_index).settle()
    assert solo.core.commit_index == solo.core.last_index == 3
    assert solo.core.state is RaftState.FOLLOWER, "the change is committed, it leads no more"
    assert len(solo.heard(TimeoutNow, 2)) == 1
    solo.forget().wait(3000)
    assert not solo.heard(VoteRequest)


def test_a_grant_of_its_own_does_not_elect_who_gave_its_vote_up() -> None:
    entries = [configuration_entry(1, 1, members(1, 2)), configuration_entry(2, 1, members(2))]
    solo = Solo(entries=entries, applied=1).later()
    solo.wait(3000)
    assert solo.core.state is RaftState.PRE_CANDIDATE
    assert solo.core.term == 1
