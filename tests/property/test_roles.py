"""Automatic roles: from any state the changes, one by one, end where they should, and never cost the quorum."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from dqlite_py.model import NodeId, Role
from dqlite_py.raft.roles import (
    Action,
    Change,
    MemberState,
    Presence,
    Wanted,
    has_quorum,
    next_change,
    wanted_voters,
)

Cluster = dict[NodeId, MemberState]
STEPS_MAX = 200  # far above what eight members can need


members = st.builds(
    MemberState,
    id=st.just(NodeId(0)),
    role=st.sampled_from(Role),
    presence=st.sampled_from([Presence.UP] * 5 + list(Presence)),
    is_fit=st.sampled_from([True] * 7 + [False]),
    is_caught_up=st.booleans(),
    is_leaving=st.sampled_from([True] + [False] * 7),
    weight=st.integers(0, 3),
    domain=st.integers(0, 3),
)
wanted_numbers = st.builds(Wanted, voters=st.sampled_from([1, 3, 5]), standbys=st.integers(0, 4))


@st.composite
def clusters(draw: st.DrawFn, member: st.SearchStrategy[MemberState] = members) -> tuple[Cluster, NodeId]:
    """Members and their leader: a voter that is there, leading a majority of reachable voters."""
    found = [
        replace(m, id=NodeId(i)) for i, m in enumerate(draw(st.lists(member, min_size=1, max_size=8)), 1)
    ]
    at = draw(st.integers(0, len(found) - 1))
    found[at] = replace(found[at], role=Role.VOTER, presence=Presence.UP)
    for i, m in enumerate(found):
        if not has_quorum(found) and m.role is Role.VOTER and not m.presence.is_reachable:
            found[i] = replace(m, presence=Presence.UP)
    return {m.id: m for m in found}, found[at].id


def well(member: MemberState) -> MemberState:
    return replace(member, presence=Presence.UP, is_fit=True, is_leaving=False)


def apply(cluster: Cluster, leader: NodeId, change: Change) -> tuple[Cluster, NodeId]:
    """Carry the change out; who was a spare has no log yet."""
    if change.action is Action.TRANSFER:
        return cluster, change.member
    member = cluster[change.member]
    assert change.role is not None
    caught_up = member.is_caught_up and member.role is not Role.SPARE
    return {**cluster, member.id: replace(member, role=change.role, is_caught_up=caught_up)}, leader


def catch_up(cluster: Cluster) -> Cluster:
    """Everybody who is there and gets the log has received it."""
    return {
        m.id: replace(m, is_caught_up=True) if m.role is not Role.SPARE and m.presence.is_reachable else m
        for m in cluster.values()
    }


def check_step(cluster: Cluster, leader: NodeId, change: Change) -> None:
    """What holds for each change by itself."""
    after, led_by = apply(cluster, leader, change)
    assert has_quorum(after.values()) or not has_quorum(cluster.values())
    assert after[led_by].role is Role.VOTER, "the leader was demoted"
    assert change.reason
    was, now = cluster[change.member], after[change.member]
    if change.action is Action.TRANSFER:
        assert was.role is Role.VOTER
        assert was.id != leader
        assert was.is_eligible
        assert was.is_caught_up
        return
    assert was.role is not now.role
    if now.role < was.role:
        assert was.is_eligible
        assert was.role - now.role == 1, "a spare must be a stand-by before it votes"
    if now.role is Role.VOTER:
        assert was.is_caught_up


def settle(cluster: Cluster, leader: NodeId, wanted: Wanted) -> tuple[Cluster, NodeId, list[Change]]:
    """Apply change after change, catching up where nothing else is to be done; the end, and the way there."""
    done: list[Change] = []
    while len(done) < STEPS_MAX:
        change = next_change(list(cluster.values()), leader, wanted)
        if change.action is not Action.NOTHING:
            check_step(cluster, leader, change)
            cluster, leader = apply(cluster, leader, change)
            done.append(change)
            continue
        caught = catch_up(cluster)
        if caught == cluster:
            return cluster, leader, done
        cluster = caught
    raise AssertionError("no end: " + "; ".join(f"{c.action.value} {c.member} {c.role}" for c in done[-8:]))


def ids(cluster: Iterable[MemberState], role: Role) -> set[NodeId]:
    return {m.id for m in cluster if m.role is role}


def squares(counts: Iterable[int]) -> int:
    return sum(count * count for count in counts)


def crowding(chosen: Iterable[MemberState]) -> int:
    return squares(Counter(m.domain for m in chosen).values())


@given(clusters(), wanted_numbers)
@settings(max_examples=600, deadline=None)
def test_any_state_ends_without_a_step_that_costs_the_quorum(
    start: tuple[Cluster, NodeId], wanted: Wanted
) -> None:
    cluster, leader, done = settle(*start, wanted)
    event(f"{min(len(done), 10)} changes")
    voters = [m for m in cluster.values() if m.role is Role.VOTER]
    lasting = [m for m in voters if m.is_lasting]
    aim = wanted_voters(cluster.values(), wanted)
    unused = [m for m in cluster.values() if m.role is not Role.VOTER and m.is_eligible]
    assert len(lasting) >= aim or not unused, "a member could vote, and a voter is missing"
    standbys = [m for m in cluster.values() if m.role is Role.STANDBY]
    spares = [m for m in cluster.values() if m.role is Role.SPARE and m.is_eligible]
    assert sum(m.is_lasting for m in standbys) >= wanted.standbys or not spares
    assert len(standbys) <= wanted.standbys
    leading = cluster[leader]
    if leading.is_leaving or not leading.is_fit:
        assert not any(m.is_eligible and m.is_caught_up for m in voters)


@given(clusters(members.map(well)), wanted_numbers)
@settings(max_examples=600, deadline=None)
def test_with_all_members_well_the_numbers_are_exact_and_the_spread_is_the_best(
    start: tuple[Cluster, NodeId], wanted: Wanted
) -> None:
    cluster, _leader, _done = settle(*start, wanted)
    everybody = list(cluster.values())
    voters = [m for m in everybody if m.role is Role.VOTER]
    standbys = [m for m in everybody if m.role is Role.STANDBY]
    assert len(voters) == wanted_voters(everybody, wanted)
    assert len(standbys) == min(wanted.standbys, len(everybody) - len(voters))
    if wanted.voters <= len(everybody):
        assert len(voters) == wanted.voters
    # By trying all choices: no set of voters is spread better, and with these voters no set of stand-bys.
    assert crowding(voters) == min(crowding(c) for c in itertools.combinations(everybody, len(voters)))
    voters_in = Counter(m.domain for m in voters)
    rest = [m for m in everybody if m.role is not Role.VOTER]

    def cost(chosen: Iterable[MemberState]) -> tuple[int, int]:
        chosen = list(chosen)
        return crowding(chosen), sum(voters_in[m.domain] for m in chosen)

    assert cost(standbys) == min(cost(c) for c in itertools.combinations(rest, len(standbys)))


@given(clusters(), wanted_numbers)
@settings(max_examples=400, deadline=None)
def test_no_state_is_met_twice(start: tuple[Cluster, NodeId], wanted: Wanted) -> None:
    cluster, leader = start
    seen = set()
    for _ in range(STEPS_MAX):
        state = (leader, tuple((m.id, m.role) for m in cluster.values()))
        assert state not in seen, "roles go in a circle"
        seen.add(state)
        change = next_change(list(cluster.values()), leader, wanted)
        while change.action is Action.NOTHING and catch_up(cluster) != cluster:
            cluster = catch_up(cluster)
            change = next_change(list(cluster.values()), leader, wanted)
        if change.action is Action.NOTHING:
            return
        cluster, leader = apply(cluster, leader, change)


@given(clusters(), wanted_numbers, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_the_order_of_the_members_does_not_matter(
    start: tuple[Cluster, NodeId], wanted: Wanted, rng: random.Random
) -> None:
    cluster, leader = start
    shuffled = list(cluster.values())
    rng.shuffle(shuffled)
    assert next_change(shuffled, leader, wanted) == next_change(list(cluster.values()), leader, wanted)


@given(clusters(members.map(well)), wanted_numbers, st.data())
@settings(max_examples=300, deadline=None)
def test_a_blink_moves_no_role(start: tuple[Cluster, NodeId], wanted: Wanted, data: st.DataObject) -> None:
    """In a settled cluster, somebody is away for a moment or just back."""
    cluster, leader, _done = settle(*start, wanted)
    for who in data.draw(st.sets(st.sampled_from(sorted(cluster)))) - {leader}:
        presence = data.draw(st.sampled_from([Presence.AWAY, Presence.BACK]))
        cluster = {**cluster, who: replace(cluster[who], presence=presence)}
    assert next_change(list(cluster.values()), leader, wanted).action is Action.NOTHING


@given(clusters(members.map(well)), wanted_numbers, st.data())
@settings(max_examples=400, deadline=None)
def test_a_dead_voter_is_replaced_and_stays_replaced_when_it_returns(
    start: tuple[Cluster, NodeId], wanted: Wanted, data: st.DataObject
) -> None:
    cluster, leader, _done = settle(*start, wanted)
    others = sorted(ids(cluster.values(), Role.VOTER) - {leader})
    unused = [m for m in cluster.values() if m.role is not Role.VOTER]
    if not others or not unused:
        return
    dead = data.draw(st.sampled_from(others))
    broken = {**cluster, dead: replace(cluster[dead], presence=Presence.GONE)}
    if not has_quorum(broken.values()):
        return
    mended, leader, _done = settle(broken, leader, wanted)
    voters = [m for m in mended.values() if m.role is Role.VOTER]
    assert dead not in {m.id for m in voters}
    assert len(voters) == wanted_voters(mended.values(), wanted)
    returned = {**mended, dead: well(mended[dead])}
    after, _leader, _done = settle(returned, leader, wanted)
    kept = ids(after.values(), Role.VOTER)
    if crowding(voters) == crowding(after[i] for i in kept):
        assert kept >= {m.id for m in voters}, "a swap that betters nothing"


@given(clusters(), wanted_numbers, st.data())
@settings(max_examples=300, deadline=None)
def test_members_that_come_and_go_between_the_steps_never_cost_the_quorum(
    start: tuple[Cluster, NodeId], wanted: Wanted, data: st.DataObject
) -> None:
    cluster, leader = start
    for _ in range(12):
        change = next_change(list(cluster.values()), leader, wanted)
        if change.action is not Action.NOTHING:
            check_step(cluster, leader, change)
            cluster, leader = apply(cluster, leader, change)
        who = data.draw(st.sampled_from(sorted(cluster)))
        if who != leader:
            moved = {
                **cluster,
                who: replace(
                    cluster[who],
                    presence=data.draw(st.sampled_from(Presence)),
                    is_caught_up=data.draw(st.booleans()),
                ),
            }
            cluster = moved if has_quorum(moved.values()) else cluster


@given(st.lists(members, min_size=1, max_size=6), wanted_numbers)
def test_without_a_quorum_nothing_is_tried(found: list[MemberState], wanted: Wanted) -> None:
    lost = [
        replace(m, id=NodeId(i), presence=Presence.GONE if m.role is Role.VOTER else m.presence)
        for i, m in enumerate(found, 3)
    ]
    leader = MemberState(NodeId(1), Role.VOTER)
    voters = [leader, MemberState(NodeId(2), Role.VOTER, Presence.AWAY)]
    change = next_change([*voters, *lost], leader.id, wanted)
    assert (change.action, change.member, change.role) == (Action.NOTHING, 0, None)
