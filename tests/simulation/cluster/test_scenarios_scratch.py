"""Directed scenarios on whole simulated clusters: databases that are dropped while their nodes die."""

from __future__ import annotations

import pytest

from tests.simulation.cluster.checks_scratch import SCRATCH
from tests.simulation.cluster.machine import Machine
from tests.simulation.cluster.world import World

NAME = SCRATCH[0]


def does(world: World, machine: Machine, *kinds: str) -> None:
    client = world.scratch[0]
    for kind in kinds:
        asked = client.begin(machine, kind, NAME)
        assert world.run_until(lambda: client.is_idle, 10.0, 0.01), world.describe()
        assert asked is not None
        assert asked.outcome == "acknowledged", asked


def lists(machine: Machine) -> bool:
    """Its manifest has the database."""
    assert machine.runtime is not None
    return any(database.name == NAME for database in machine.runtime.opened.state.manifest.databases)


@pytest.mark.parametrize("anew", [False, True], ids=["gone", "made-anew"])
def test_a_dropped_database_is_not_made_again_by_a_replay(anew: bool) -> None:
    """Found by seed 5010: the OPEN in the middle did nothing, but made an empty database when the log was replayed."""
    with World.open(22, node_count=3, only=[]) as world:
        world.form()
        leader, follower = world.machines[0], world.machines[1]
        does(world, leader, "open", "write")
        world.run_for(0.5)
        world.operator.compact(follower)
        assert world.run_until(lambda: lists(follower), 10.0, 0.01), world.describe()
        does(world, leader, "open", "write", "drop", *(["open", "write"] if anew else []))
        world.run_for(0.5)
        follower.crash(lose_unsynced=True)
        world.restart_later(follower, 0.1)
        obeyed = world.coverage.counts
        assert world.run_until(lambda: obeyed["note of a drop obeyed"] >= 1, 10.0, 0.01), world.describe()
        world.recover()


def test_a_database_dropped_at_once_is_gone_for_readers() -> None:
    """Found by simulation: a node that met OPEN and DROP together kept readers of the file that was gone."""
    with World.open(22, node_count=3, only=[]) as world:
        world.form()
        follower = world.machines[2]
        world.operator.mending[follower.name] = 0  # it stays down meanwhile
        follower.crash(lose_unsynced=False)
        does(world, world.machines[0], "open", "write", "drop")
        del world.operator.mending[follower.name]
        world.start(follower)
        world.run_for(2.0)
        runtime = follower.runtime
        assert runtime is not None
        assert NAME not in runtime.applier().readers
        world.recover()
