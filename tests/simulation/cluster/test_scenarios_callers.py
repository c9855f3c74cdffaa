"""Directed scenarios of callers who wait while their node is overtaken."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from dqlite_py.errors import Error, Outcome
from tests.simulation.cluster.canaries import Canary, circumstances
from tests.simulation.cluster.clients import DATABASES
from tests.simulation.cluster.world import World

SHORT_LOGS = Canary("", "the product as it is", nullcontext, (), short_log=True)


@pytest.mark.parametrize("exactly_once", [False, True])
def test_a_writer_whose_entry_a_snapshot_jumps_over(exactly_once: bool) -> None:
    """Long before its own time is over, the node knows that it never will know. A key then tells what became of it."""
    with circumstances(SHORT_LOGS), World.open(1, node_count=3, only=[]) as world:
        world.form()
        old = world.leader()
        assert old is not None
        life = old.life
        assert life is not None
        node = life.node
        assert node is not None
        heard: list[Any] = []

        def write() -> None:
            try:
                options: dict[str, Any] = {
                    "isolation_level": None,
                    "timeout": 60.0,
                    "exactly_once": exactly_once,
                }
                node.connect(DATABASES[0], **options).execute("CREATE TABLE late(x)")
                heard.append(None)
            except Error as error:
                heard.append(error.outcome)

        for other in world.machines:
            if other is not old:
                world.injection.cut_for(old, other, 20.0, both=True)
        life.spawn(write, "writer")
        world.storm_of_writes(12.0, operations_per_s=60.0)
        for other in world.machines:
            if other is not old:
                world.operator.compact(other)
        world.run_for(10.0)
        assert world.coverage.counts["outcome lost to a snapshot"], world.describe()
        assert heard == [None if exactly_once else Outcome.UNKNOWN]
        world.recover()
