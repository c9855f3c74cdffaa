"""Directed scenarios on whole simulated clusters: rare situations made on purpose, each as it was once found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dqlite_py.errors import Error
from dqlite_py.gateway import ReadLevel
from tests.simulation.cluster.clients import DATABASES
from tests.simulation.cluster.machine import Machine
from tests.simulation.cluster.world import World

MARKER = "a value that nobody may ever see changed"
WRONG = "A value that nobody may ever see changed"


def on_node(world: World, machine: Machine, work: Callable[[Any], Any], limit_s: float = 20.0) -> Any:
    """Run `work(connection)` on a thread of the machine's process; its result, or its Error."""
    told: list[Any] = []
    life = machine.life
    assert life is not None
    assert life.node is not None
    node = life.node

    def thread() -> None:
        try:
            told.append(work(node.connect(DATABASES[0], isolation_level=None, timeout=5.0)))
        except Error as error:
            told.append(error)

    life.spawn(thread, "scenario")
    assert world.run_until(lambda: bool(told), limit_s, 0.01), world.describe()
    return told[0]


def test_a_page_changed_while_a_node_was_down_is_never_served() -> None:
    """No write comes after the restart, so no claim in the log would tell."""
    with World.open(1, node_count=3, only=[]) as world:
        world.form()
        leader, follower = world.machines[0], world.machines[1]

        def make(connection: Any) -> None:
            connection.execute("CREATE TABLE kept(id INTEGER PRIMARY KEY, value TEXT)")
            connection.execute("INSERT INTO kept(value) VALUES (?)", (MARKER,))

        assert on_node(world, leader, make) is None
        world.run_for(1.0)
        world.checks.damaged(follower.name)
        world.operator.mending[follower.name] = 0  # it stays down until we say so
        assert follower.life is not None
        assert follower.life.node is not None
        # Cleanly: everything goes from the WAL into the file.
        follower.life.run(follower.life.node._request_stop)
        assert world.run_until(lambda: not follower.is_up, 10.0)
        [path] = [p for p in follower.disk.paths_of("database") if Path(p).name == f"{DATABASES[0]}.db"]
        offset = Path(path).read_bytes().index(MARKER.encode())
        follower.disk.rot(path, offset, 5)
        del world.operator.mending[follower.name]
        world.start(follower)
        assert world.run_until(lambda: follower.serves, 10.0)

        def read(connection: Any) -> Any:
            connection.read_level = ReadLevel.LINEARIZABLE
            return connection.execute("SELECT value FROM kept").fetchall()

        seen = [on_node(world, follower, read) for _ in range(5)]
        world.run_for(5.0)
        assert not any(found == [(WRONG,)] for found in seen), seen
        assert on_node(world, follower, read) == [(MARKER,)]
        assert world.coverage.counts["divergence repaired"] == 1


def test_a_cluster_that_loses_all_power_serves_again_by_itself() -> None:
    with World.open(2, node_count=3, only=[]) as world:
        world.form()
        world.storm_of_writes(2.0)
        for machine in world.machines:
            machine.crash(lose_unsynced=True)
        world.run_for(1.0)
        for machine in world.machines:
            world.start(machine)
        world.recover()


def test_an_upgraded_node_that_nobody_understands_harms_nobody() -> None:
    with World.open(3, node_count=3, only=[]) as world:
        world.form()
        world.injection.change_release(world.machines[2], 2)
        world.storm_of_writes(5.0)
        assert sum(client.acknowledged_count for client in world.clients) > 20
        world.injection.change_release(world.machines[2], 1)
        world.recover()
