"""One seed from beginning to end, and what it left: the same seed gives the same run, in any process."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TextIO

from tests.simulation.cluster.recorder import recording
from tests.simulation.cluster.world import World

DURATION_S = 20.0


@dataclass
class Outcome:
    """`digest`: equal for equal runs. Times: simulated_s of the cluster, real_s of this machine."""

    seed: int
    node_count: int
    plan: str
    violation: str | None = None
    log: list[str] = field(default_factory=list)
    digest: str = ""
    simulated_s: float = 0.0
    real_s: float = 0.0
    events: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    elections: int = 0

    def message(self) -> str:
        """What a failing test prints: seed, plan, violation, the last log lines, the command that replays it."""
        lines = [
            f"seed {self.seed}: {self.violation}",
            f"{self.node_count} nodes, faults: {self.plan}",
            f"after {self.simulated_s:.3f} simulated seconds, {self.events} events",
            *self.log[-60:],
            f"replay: .venv/bin/python -m tests.simulation.cluster {self.seed} --log",
        ]
        return "\n".join(lines)


def run_seed(
    seed: int,
    *,
    duration_s: float = DURATION_S,
    node_count: int | None = None,
    only: list[str] | None = None,
    extra_seams: list[tuple[str, str, Any]] | None = None,
    live: TextIO | None = None,
) -> Outcome:
    """Run a seed. Violations are in the outcome; only errors of the simulation itself are raised."""
    began = time.perf_counter()
    with (
        recording(live) as recorder,
        World.open(seed, node_count=node_count, only=only, extra_seams=extra_seams) as world,
    ):
        outcome = Outcome(seed, len(world.machines), world.plan.describe())
        try:
            world.storm(duration_s)
        except AssertionError as error:
            outcome.violation = f"{type(error).__name__}: {error}"
        outcome.log = recorder.lines()
        outcome.simulated_s = world.scheduler.now
        outcome.events = world.scheduler.event_count
        outcome.faults.update(world.injection.counts)
        outcome.marks.update(world.coverage.counts)
        outcome.elections = len(world.checks.consensus.leaders)
        digest = hashlib.blake2b(digest_size=8)
        for client in world.clients:
            for operation in client.history:
                outcome.operations[f"{operation.kind} {operation.outcome}"] += 1
                digest.update(
                    repr(
                        (
                            operation.client,
                            operation.number,
                            operation.began,
                            operation.ended,
                            operation.outcome,
                            operation.result,
                        )
                    ).encode()
                )
        for reading in world.reading:
            for read in reading.history:
                outcome.operations[f"{read.level.value} read {read.outcome}"] += 1
                digest.update(repr((read.reader, read.number, read.outcome, read.count)).encode())
        for transacting in world.transacting:
            for transacted in transacting.history:
                outcome.operations[f"transaction {transacted.outcome}"] += 1
                digest.update(repr((transacted.op, transacted.outcome, transacted.seen)).encode())
        digest.update(repr((world.scheduler.now, world.scheduler.event_count, outcome.violation)).encode())
        outcome.digest = digest.hexdigest()
    outcome.real_s = time.perf_counter() - began
    return outcome
