"""Whole-cluster scenarios without randomness of faults: elections, partitions, repair, fail-over, catch-up."""

from __future__ import annotations

from dqlite_py.model import LogIndex, NodeId, Role
from dqlite_py.raft.core import RaftCore, RaftSettings
from tests.simulation.raft_world import Faults, SimNode, World

CALM = Faults()


def settled(
    seed: int = 1, *, voters: int = 3, spares: int = 0, settings: RaftSettings | None = None
) -> World:
    """A calm cluster with a leader that has committed something."""
    world = World(seed, voters=voters, spares=spares, faults=CALM, settings=settings or RaftSettings())
    assert world.run_until(lambda: world.leader() is not None, 5000)
    assert world.run_until(lambda: world.committed_max >= 2, 1000)
    return world


def core(node: SimNode | None) -> RaftCore:
    assert node is not None
    assert node.core is not None
    return node.core


def leader(world: World) -> SimNode:
    node = world.leader()
    assert node is not None
    return node


def others(world: World, node: SimNode) -> list[SimNode]:
    return [n for n in world.nodes.values() if n is not node]


def write(world: World, node: SimNode, count: int = 1) -> None:
    for _ in range(count):
        assert world.propose(node)


def test_fail_over_takes_one_round() -> None:
    """RF-21: within the maximum election timeout and a few messages, however long the cluster has run."""
    times = []
    for seed in range(12):
        world = settled(seed)
        world.run_for(1000 + 700 * seed)
        old, before = leader(world), world.now
        old.crash()
        assert world.run_until(lambda w=world: w.leader() is not None, 3000)  # type: ignore[misc]
        times.append(world.now - before)
    settings = RaftSettings()
    times.sort()
    assert times[len(times) // 2] <= settings.election_max_ms
    assert times[-1] <= 2 * settings.election_max_ms


def test_an_isolated_node_raises_no_term_and_deposes_nobody() -> None:
    """RF-11: stock went from term 1 to 68 in 60 s and deposed the leader on return."""
    world = settled()
    old = leader(world)
    term = core(old).term
    lonely = others(world, old)[0]
    world.isolate(lonely.id)
    world.run_for(60_000)
    assert core(lonely).term == term
    world.heal()
    world.run_for(3000)
    assert leader(world) is old
    assert core(old).term == term
    assert core(lonely).leader_id == old.id


def test_an_isolated_leader_gives_up_and_serves_nothing() -> None:
    """RF-11, RF-12: at most one maximum election timeout with two who believe they lead."""
    world = settled()
    old = leader(world)
    world.isolate(old.id)
    world.run_for(RaftSettings().election_max_ms + 100)
    assert not core(old).is_leader
    assert world.run_until(lambda: world.leader() is not None, 3000)
    write(world, leader(world))
    world.run_for(500)
    world.read(old)
    assert not old.reads
    world.heal()
    world.check_recovers()


def test_a_one_way_link_does_not_stop_the_cluster() -> None:
    """The leader hears nobody, but everybody hears it: check-quorum makes it leave."""
    world = settled()
    old = leader(world)
    for node in others(world, old):
        world.cuts.add((node.id, old.id))
    assert world.run_until(lambda: world.leader() not in (None, old), 6000)
    world.check_recovers()


def test_a_long_divergent_tail_is_repaired_in_a_few_messages() -> None:
    """RF-18: 300 divergent entries took stock 36 s."""
    world = settled()
    old = leader(world)
    write(world, old)
    world.run_for(200)
    world.isolate(old.id)
    write(world, old, 300)
    world.run_for(2000)
    new = leader(world)
    write(world, new, 50)
    world.run_for(300)
    world.heal()
    assert world.run_until(lambda: old.applied == new.applied, 1000)
    world.check_recovers()


def test_a_restarted_follower_catches_up_beyond_the_leader_s_cache() -> None:
    world = settled(settings=RaftSettings(log_cache_bytes_max=2000, append_bytes_max=1000))
    old = leader(world)
    behind = others(world, old)[0]
    behind.crash()
    for _ in range(40):
        write(world, old, 20)
        world.run_for(50)
    assert core(old).log.cache_first > 400
    behind.start()
    assert world.run_until(lambda: behind.applied == old.applied, 3000)


def test_a_follower_far_behind_gets_a_snapshot_and_the_rest() -> None:
    world = settled()
    old = leader(world)
    behind = others(world, old)[0]
    behind.crash()
    for _ in range(10):
        write(world, old, 20)
        world.run_for(50)
    while core(old).first_index < 100:
        old.compact()
    behind.start()
    assert world.run_until(lambda: behind.applied >= old.applied, 5000)
    assert world.count["installed"] == 1
    world.check_recovers()


def test_a_member_joins_catches_up_votes_and_leaves() -> None:
    """RF-9: stand-by first, then a voter; the old majority is never at risk."""
    world = settled(spares=1)
    old = leader(world)
    write(world, old, 20)
    newcomer = NodeId(4)
    for role in (Role.STANDBY, Role.VOTER):
        configuration = core(old).configuration.with_member(world._member(newcomer, role))
        core(old).propose_configuration(configuration, world.now)
        old.perform()
        world.run_for(500)
        assert world.nodes[newcomer].applied == old.applied
        assert core(world.nodes[newcomer]).is_voter == (role is Role.VOTER)
    core(old).propose_configuration(core(old).configuration.without(newcomer), world.now)
    old.perform()
    world.run_for(3000)
    assert world.count["removed"] == 1, "told by the log it still received"
    assert leader(world) is old


def test_leadership_moves_without_an_election_timeout() -> None:
    """Thesis 3.10."""
    world = settled()
    old = leader(world)
    write(world, old, 5)
    target = core(old).transfer_leadership(None, world.now)
    old.perform()
    world.run_for(60)
    assert leader(world).id == target
    world.check_recovers()


def test_a_leader_that_removes_itself_hands_over_at_once() -> None:
    """Thesis 4.2.2."""
    world = settled()
    old = leader(world)
    core(old).propose_configuration(core(old).configuration.without(old.id), world.now)
    old.perform()
    world.run_for(100)
    assert leader(world) is not old
    assert world.count["removed"] == 1
    world.run_for(5000)
    assert not core(old).is_leader


def test_the_last_voter_of_two_survives_the_removal_of_the_other() -> None:
    world = settled(voters=2)
    old = leader(world)
    other = others(world, old)[0]
    core(old).propose_configuration(core(old).configuration.without(other.id), world.now)
    old.perform()
    world.run_for(300)
    other.crash()
    write(world, old)
    world.run_for(2000)
    assert leader(world) is old
    assert core(old).commit_index == core(old).last_index


def test_a_paused_leader_serves_no_stale_read() -> None:
    """RF-12: reads queued at a leader that slept through its own deposition."""
    world = settled()
    old = leader(world)
    world.read(old)
    old.paused_until = world.now + 3000
    world.run_for(2000)
    new = leader(world) if leader(world) is not old else None
    assert world.run_until(lambda: any(n.core and n.core.is_leader for n in others(world, old)), 2000)
    new = next(n for n in others(world, old) if n.core is not None and n.core.is_leader)
    write(world, new)
    world.run_for(3000)
    world.check_recovers()


def test_a_slow_disk_costs_no_leadership() -> None:
    """RF-15's cousin: heartbeats do not wait for fdatasync."""
    slow = Faults(disk_ms=(600, 900))
    world = settled()
    world.faults = slow
    old = leader(world)
    term = core(old).term
    write(world, old, 10)
    world.run_for(6000)
    assert leader(world) is old
    assert core(old).term == term
    assert core(old).commit_index == core(old).last_index


def test_lost_data_is_surfaced() -> None:
    """A member whose disk went back in time is reported and not counted."""
    world = settled()
    old = leader(world)
    write(world, old, 10)
    world.run_for(300)
    victim = others(world, old)[0]
    victim.crash()
    del victim.disk.entries[4:]
    victim.applied = min(victim.applied, 3)
    seen: list[NodeId] = []
    check = world.check_effects
    world.check_effects = lambda node, fx: (seen.extend(fx.lost_data), fx.lost_data.clear(), check(node, fx))  # type: ignore[method-assign, func-returns-value, assignment]
    victim.start()
    world.run_for(500)
    assert seen == [victim.id]
    write(world, old)
    world.run_for(300)
    assert core(old).peers[victim.id].state.value == "lost data"
    assert core(old).commit_index == core(old).last_index, "the other two carry on"
    assert core(victim).last_index < LogIndex(8)
