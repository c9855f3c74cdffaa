"""Directed scenarios on whole simulated clusters: members that move, go and are asked for what cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.errors import Error, MembershipRefused
from dqlite_py.model import Address, NodeId, Role
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.node.tickets import Deadline
from tests.simulation.cluster.machine import Machine
from tests.simulation.cluster.members import NOBODY
from tests.simulation.cluster.scale import KIB, MIB, Scale
from tests.simulation.cluster.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """Three nodes, formed, without faults."""
    with World.open(11, node_count=3, only=[]) as made:
        made.form()
        yield made


def asked(
    world: World, machine: Machine, work: Callable[[NodeRuntime], Any], limit_s: float = 15.0
) -> Error | None:
    """What a node says to a coroutine of its own; None: it was done."""
    told: list[BaseException | None] = []
    world.operator.ask(machine, work, told.append)
    assert world.run_until(lambda: bool(told), limit_s, 0.01), world.describe()
    error = told[0]
    assert error is None or isinstance(error, Error)
    return error


def removed(world: World, machine: Machine, node: int) -> BaseException | None:
    told: list[BaseException | None] = []
    world.operator.remove(machine, node, told.append)
    assert world.run_until(lambda: bool(told), 15.0, 0.01), world.describe()
    return told[0]


def leader_of(world: World) -> Machine:
    assert world.run_until(lambda: world.leader() is not None, 10.0), world.describe()
    leader = world.leader()
    assert leader is not None
    return leader


def stop_for_good(world: World, machine: Machine) -> int:
    """Its node id. It stays down until `start_again`."""
    node = world.checks.node_id(machine.name)
    assert node is not None
    world.operator.mending[machine.name] = node
    machine.crash(lose_unsynced=False)
    return node


def start_again(world: World, machine: Machine) -> None:
    del world.operator.mending[machine.name]
    world.start(machine)


def follower_of(world: World) -> Machine:
    leader = leader_of(world)
    return next(m for m in world.machines if m is not leader)


def test_leadership_cannot_go_to_a_node_that_is_down(world: World) -> None:
    node = stop_for_good(world, follower := follower_of(world))
    leader = leader_of(world)
    chosen: list[Any] = []

    async def transfer(runtime: NodeRuntime) -> None:
        chosen.append(await runtime.transfer(NodeId(node), 2.0))

    error = asked(world, leader, transfer)
    assert isinstance(error, Error) or chosen == [None]
    assert world.leader() is leader
    start_again(world, follower)
    world.recover()


def test_a_node_that_is_down_is_removed_and_learns_of_it_when_it_returns(world: World) -> None:
    node = stop_for_good(world, follower := follower_of(world))
    assert removed(world, leader_of(world), node) is None
    assert world.checks.members.configuration.get(NodeId(node)) is None
    start_again(world, follower)
    runtime = None

    def knows() -> bool:
        nonlocal runtime
        runtime = follower.runtime
        return follower.serves and runtime is not None and runtime.removed.is_set()

    assert world.run_until(knows, 15.0), world.describe()
    world.operator.replace(follower)
    world.recover()


def test_a_leader_that_is_asked_to_remove_itself_hands_over_and_goes(world: World) -> None:
    leader = leader_of(world)
    node = world.checks.node_id(leader.name)
    assert node is not None
    assert removed(world, leader, node) is None
    assert leader_of(world) is not leader
    assert len(world.checks.members.configuration.members) == 2
    world.operator.replace(leader)
    world.recover()


def test_a_member_that_nobody_knows_cannot_be_removed(world: World) -> None:
    error = removed(world, leader_of(world), NOBODY)
    assert isinstance(error, MembershipRefused)
    assert world.checks.members.configuration.index == leader_of(world).runtime.core.configuration.index  # type: ignore[union-attr]
    world.recover()


def test_a_known_member_may_join_again_and_mends_a_wrong_address(world: World) -> None:
    leader, follower = leader_of(world), follower_of(world)
    node = NodeId(world.checks.node_id(follower.name) or 0)

    async def join(runtime: NodeRuntime, address: str) -> None:
        await runtime.membership.join(node, Address(address), Deadline(5.0))

    changes = world.checks.members.changes
    assert asked(world, leader, lambda r: join(r, follower.address)) is None
    assert world.checks.members.changes == changes
    world.checks.members.lives_at(node, "10.7.7.7:7")
    assert asked(world, leader, lambda r: join(r, "10.7.7.7:7")) is None

    def mended() -> bool:
        member = world.checks.members.configuration.get(node)
        return member is not None and member.address == follower.address

    assert world.run_until(mended, 10.0), world.describe()
    world.recover()


def test_a_cluster_whose_machines_all_have_new_addresses_finds_itself(world: World) -> None:
    rng = world.rng
    for machine in world.machines:
        world.injection.move(machine, rng, rng.uniform(0.1, 2.0))
    began = world.scheduler.now
    world.recover()
    assert world.scheduler.now - began < 20.0


def test_nodes_that_have_each_others_addresses_are_served(world: World) -> None:
    """Neither can be given its new address while the other holds it; who they are is known by their handshakes."""
    leader = leader_of(world)
    one, other = (m for m in world.machines if m is not leader)
    for machine in (one, other):
        stop_for_good(world, machine)
    places = [(m.ip, int(m.address.rpartition(":")[2]), m.host) for m in (one, other)]
    one.move(*places[1])
    other.move(*places[0])
    for machine in (one, other):
        start_again(world, machine)
    assert world.run_until(lambda: world.all_sound() and all(m.serves for m in world.machines), 20.0), (
        world.describe()
    )


LARGE = Scale(
    segment_bytes=12 * KIB,
    compact_bytes=36 * KIB,
    tail_bytes=0,
    chunk_bytes=16 * KIB,
    fragment_bytes=4 * KIB,
    large_bytes=3 * MIB,
)


def follower_gets_a_part(world: World, follower: Machine) -> bool:
    """Some of a snapshot is on its disk, or all of it is there."""
    incoming = Path(follower.data_folder, "incoming")
    sizes = [f.stat().st_size for f in incoming.glob("*/*") if f.suffix == ".db"]
    return sum(sizes) > MIB or world.coverage.counts["snapshot installed"] > 0


@pytest.mark.parametrize("who", ["sender", "receiver"])
def test_a_large_snapshot_arrives_though_machines_die_meanwhile(
    monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Some hundred chunks, each in several frames; the receiver goes on where it was."""
    monkeypatch.setattr(Scale, "draw", lambda _rng: LARGE)
    with World.open(12, node_count=3, only=[]) as world:
        world.form()
        follower = follower_of(world)
        stop_for_good(world, follower)
        world.storm_of_writes(4.0)
        for machine in world.machines:
            world.operator.compact(machine)
        world.run_for(0.5)
        start_again(world, follower)
        deaths = 0
        while deaths < 4 and not world.coverage.counts["snapshot installed"]:
            assert world.run_until(lambda: follower_gets_a_part(world, follower), 10.0, 0.005), (
                world.describe()
            )
            machine = follower if who == "receiver" else leader_of(world)
            machine.crash(lose_unsynced=True)
            deaths += 1
            world.restart_later(machine, 0.2)
            world.run_for(0.3)
        assert deaths >= 1
        world.recover()
        assert world.coverage.counts["snapshot installed"] >= 1
        assert who == "sender" or world.coverage.counts["snapshot resumed"] >= 1


def assigned(world: World, machine: Machine, node: int, role: Role) -> BaseException | None:
    told: list[BaseException | None] = []
    world.roles.assign(machine, node, role, told.append)
    assert world.run_until(lambda: bool(told), 15.0, 0.01), world.describe()
    return told[0]


def role_of(world: World, node: int) -> Role | None:
    member = world.checks.members.configuration.get(NodeId(node))
    return member.role if member is not None else None


def test_a_spare_knows_the_leader_passes_writes_on_and_refuses_fresh_reads(world: World) -> None:
    follower = follower_of(world)
    node = world.checks.node_id(follower.name) or 0
    assert assigned(world, follower, node, Role.SPARE) is None
    world.run_for(5.0)
    runtime, leader = follower.runtime, leader_of(world)
    assert runtime is not None
    assert runtime.view.is_spare
    assert runtime.core.leader_id == world.checks.node_id(leader.name)
    before = runtime.core.last_index
    client = world.clients[0]
    client.begin(follower, "write", timeout_s=3.0)
    assert world.run_until(lambda: client.is_idle, 5.0, 0.01)
    assert client.history[-1].outcome == "acknowledged", client.history[-1]
    began = world.scheduler.now
    client.begin(follower, "read", timeout_s=3.0)
    assert world.run_until(lambda: client.is_idle, 5.0, 0.01)
    assert client.history[-1].outcome == "failed"
    assert "spare" in client.history[-1].error
    assert world.scheduler.now - began < 0.5, "at once, not when its time is over"
    assert runtime.core.last_index == before
    assert assigned(world, leader, node, Role.VOTER) is None
    world.recover()


def test_a_member_demoted_while_it_is_down_learns_its_role_and_keeps_quiet(world: World) -> None:
    node = stop_for_good(world, follower := follower_of(world))
    leader = leader_of(world)
    assert assigned(world, leader, node, Role.SPARE) is None
    world.run_for(4.0)
    start_again(world, follower)

    def knows() -> bool:
        return follower.serves and follower.runtime is not None and follower.runtime.view.is_spare

    assert world.run_until(knows, 8.0), world.describe()
    assert leader_of(world) is leader
    assert follower.runtime is not None
    assert follower.runtime.core.configuration.get(NodeId(node)).role is Role.VOTER  # type: ignore[union-attr]
    assert assigned(world, leader, node, Role.VOTER) is None
    world.recover()


def test_a_leader_that_is_to_lose_its_vote_hands_over(world: World) -> None:
    leader = leader_of(world)
    node = world.checks.node_id(leader.name) or 0
    assert assigned(world, leader, node, Role.SPARE) is None
    assert leader_of(world) is not leader
    assert role_of(world, node) is Role.SPARE
    assert assigned(world, leader, node, Role.VOTER) is None
    world.recover()


def test_a_demotion_that_would_lose_the_quorum_is_refused_with_the_reason(world: World) -> None:
    down = stop_for_good(world, follower := follower_of(world))
    leader = leader_of(world)
    third = next(m for m in world.machines if m not in (leader, follower))
    node = world.checks.node_id(third.name) or 0
    error = assigned(world, leader, node, Role.STANDBY)
    assert isinstance(error, MembershipRefused)
    assert str(down) in str(error), "who has to come back"
    start_again(world, follower)
    world.recover()


def test_a_member_that_cannot_catch_up_is_not_given_a_vote(world: World) -> None:
    follower = follower_of(world)
    node = world.checks.node_id(follower.name) or 0
    leader = leader_of(world)
    assert assigned(world, leader, node, Role.SPARE) is None
    stop_for_good(world, follower)
    error = assigned(world, leader, node, Role.VOTER)
    assert isinstance(error, MembershipRefused)
    assert "catch" in str(error) or "caught" in str(error)
    assert role_of(world, node) is Role.STANDBY
    start_again(world, follower)
    world.recover()
