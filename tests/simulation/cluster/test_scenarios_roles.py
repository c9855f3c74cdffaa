"""Directed scenarios on whole simulated clusters: roles that the leader keeps, and members that leave."""

from __future__ import annotations

from dqlite_py.model import NodeId, Role, RoleSettings
from dqlite_py.node.leaving import leave
from dqlite_py.node.runtime import NodeRuntime
from tests.simulation.cluster.test_scenarios_members import (
    assigned,
    follower_of,
    leader_of,
    removed,
    role_of,
    start_again,
    stop_for_good,
)
from tests.simulation.cluster.world import World

KEEPS = RoleSettings(True, 3, 1, 1_500)


def roles_set(world: World, settings: RoleSettings | None) -> None:
    told: list[BaseException | None] = []
    world.roles.set_roles(leader_of(world), settings, told.append)
    assert world.run_until(lambda: bool(told), 15.0, 0.01), world.describe()
    assert told == [None]


def test_a_dead_voter_is_replaced_and_comes_back_as_a_stand_by() -> None:
    with World.open(13, node_count=4, only=[]) as world:
        world.form()
        roles_set(world, KEEPS)
        assert world.run_until(world.roles.settled, 20.0), world.describe()
        configuration = world.checks.members.configuration
        assert len(configuration.voters) == 3
        leader = leader_of(world)
        victim = next(
            m
            for m in world.machines
            if m is not leader and NodeId(world.checks.node_id(m.name) or 0) in configuration.voters
        )
        node = stop_for_good(world, victim)
        began = world.scheduler.now
        assert world.run_until(lambda: role_of(world, node) is not Role.VOTER, 20.0, 0.05), world.describe()
        assert world.scheduler.now - began >= 1.5, "not before it is gone"
        assert len(world.checks.members.configuration.voters) == 3
        start_again(world, victim)
        assert world.run_until(lambda: role_of(world, node) is Role.STANDBY, 20.0), world.describe()
        world.recover()


def test_voters_spread_over_domains_and_the_light_ones_are_preferred() -> None:
    with World.open(14, node_count=5, only=[]) as world:
        world.form()
        nodes = [world.checks.node_id(m.name) or 0 for m in world.machines]
        for node, weight, domain in zip(nodes, (0, 0, 0, 9, 1), (1, 1, 1, 2, 2), strict=True):
            leader = leader_of(world)
            world.roles.describe(leader, node, weight, domain)
            world.run_for(0.5)
        roles_set(world, KEEPS)
        assert world.run_until(world.roles.settled, 30.0), world.describe()
        configuration = world.checks.members.configuration
        domains = [m.domain for m in configuration.members if m.role is Role.VOTER]
        assert sorted(domains) in ([1, 1, 2], [1, 2, 2])
        world.recover()


def test_roles_by_hand_stay_as_they_were_assigned() -> None:
    with World.open(11, node_count=3, only=[]) as world:
        world.form()
        by_hand_stay(world)


def by_hand_stay(world: World) -> None:
    follower = follower_of(world)
    node = world.checks.node_id(follower.name) or 0
    assert assigned(world, leader_of(world), node, Role.STANDBY) is None
    world.run_for(5.0)
    assert role_of(world, node) is Role.STANDBY
    assert world.checks.members.configuration.settings is not None
    world.recover()


def test_a_leader_that_leaves_hands_over_and_somebody_else_votes() -> None:
    with World.open(15, node_count=4, only=[]) as world:
        world.form()
        roles_set(world, KEEPS)
        assert world.run_until(world.roles.settled, 20.0), world.describe()
        leader = leader_of(world)
        node = world.checks.node_id(leader.name) or 0
        told: list[BaseException | None] = []
        world.roles.leave(leader, node, told.append)
        assert world.run_until(lambda: bool(told), 15.0, 0.01), world.describe()
        assert told == [None]
        assert leader_of(world) is not leader
        assert role_of(world, node) is not Role.VOTER
        assert len(world.checks.members.configuration.voters) == 3
        world.recover()


def test_a_removed_voter_is_replaced_first() -> None:
    with World.open(16, node_count=4, only=[]) as world:
        world.form()
        roles_set(world, KEEPS)
        assert world.run_until(world.roles.settled, 20.0), world.describe()
        leader = leader_of(world)
        voters = world.checks.members.configuration.voters
        victim = next(
            m
            for m in world.machines
            if m is not leader and NodeId(world.checks.node_id(m.name) or 0) in voters
        )
        assert removed(world, leader, world.checks.node_id(victim.name) or 0) is None
        assert len(world.checks.members.configuration.voters) == 3
        assert len(world.checks.members.configuration.members) == 3
        world.operator.replace(victim)
        world.recover()


def test_a_member_that_leaves_tells_the_next_leader_too() -> None:
    """That it is leaving is known to the leader alone, which dies."""
    with World.open(17, node_count=4, only=[]) as world:
        world.form()
        roles_set(world, KEEPS)
        assert world.run_until(world.roles.settled, 20.0), world.describe()
        leader = leader_of(world)
        voters = world.checks.members.configuration.voters
        victim = next(
            m
            for m in world.machines
            if m is not leader and NodeId(world.checks.node_id(m.name) or 0) in voters
        )
        node = world.checks.node_id(victim.name) or 0
        world.checks.roles.asked_away(node)
        left: list[bool] = []

        async def leaves(runtime: NodeRuntime) -> None:
            left.append(await leave(runtime, 30.0))

        world.operator.ask(victim, leaves, lambda _: None)
        assert leader.runtime is not None
        marked = leader.runtime.membership.leaving
        assert world.run_until(lambda: NodeId(node) in marked, 5.0, 0.001), world.describe()
        leader.crash(lose_unsynced=False)
        world.restart_later(leader, 3.0)
        assert world.run_until(lambda: bool(left), 40.0, 0.01), world.describe()
        assert left == [True]
        assert role_of(world, node) is not Role.VOTER
        assert len(world.checks.members.configuration.voters) == 3
        world.recover()
