"""The measurements behind the targets table: ours, dqlite and SQLite in turn, several rounds."""

from __future__ import annotations

from tests.benchmarks.session import Session

ROUNDS = "targets"
SCALING = "scaling"
READERS = 64
SPREAD = "readers on three nodes, rate by round"
BYTES = "insert:1024"
BYTES_FACTOR = 3


def targets(session: Session) -> None:
    """Peers take turns within a round, so that what disturbs the machine disturbs all."""
    for number in range(session.effort.rounds):
        session.say(f"targets: round {number + 1} of {session.effort.rounds}")
        if session.can("dqlite"):
            with session.tolerant("targets: dqlite"), session.cluster("dqlite") as host:
                for clients in (1, 16):
                    session.measure(host, ROUNDS, "kv1k", clients)
        with session.tolerant("targets: ours"), session.cluster("ours") as host:
            for workload, clients in (
                ("kv1k", 1),
                ("kv1k", 16),
                (BYTES, 16),
                ("insert", 1),
                ("insert", 64),
                ("batch1000", 1),
                ("batch1000", 4),
                ("read-stale", 1),
                ("read-linearizable", READERS),
            ):
                # What a journal writes ahead comes in pieces of some MiB: bytes need a long window.
                seconds = BYTES_FACTOR * session.effort.seconds if workload == BYTES else None
                session.measure(host, ROUNDS, workload, clients, seconds=seconds)
        with session.tolerant("targets: ours, not on one processor"), session.cluster("ours-spread") as host:
            for workload, clients in (("kv1k", 1), ("kv1k", 16), ("insert", 1), ("insert", 64)):
                session.measure(host, ROUNDS, workload, clients)
        with session.tolerant("targets: SQLite"), session.cluster("sqlite-apsw") as host:
            for workload in ("read-stale", "insert"):
                session.measure(host, ROUNDS, workload, 1, seconds=min(1.0, session.effort.seconds))


def scaling(session: Session) -> None:
    """Writers 1 to 1,024 on one cluster, the series again and again."""
    with session.tolerant(SCALING), session.cluster("ours") as host:
        for _ in range(session.effort.rounds):
            for writers in session.effort.writers:
                session.measure(host, SCALING, "insert", writers, x=writers, series="writers")


def readers(session: Session) -> None:
    """Linearizable and stale reads: on the leader alone, on a follower alone, spread over all three nodes."""
    group, effort = "readers", session.effort
    with (
        session.tolerant(group),
        session.cluster("ours-spread", nodes=1) as leader,
    ):
        address = leader.call("address")
        with (
            session.cluster("ours-spread", nodes=1, join=address) as second,
            session.cluster("ours-spread", nodes=1, join=address) as third,
        ):
            for number in range(effort.rounds):
                for level in ("read-linearizable", "read-stale"):
                    for host, series in ((leader, "leader"), (second, "follower")):
                        session.measure(
                            host, group, level, READERS, seconds=effort.short_s, series=series, nodes=3
                        )
                    session.say(f"{group}: {level}, {READERS} clients spread over three nodes")
                    hosts = (leader, second, third)
                    for host in hosts:
                        host.begin("measure", level, READERS // 3, effort.short_s)
                    found = [host.finish(effort.short_s + 60.0) for host in hosts]
                    session.curve(f"{SPREAD}|{level}", number + 1, sum(sample.rate for sample in found))
                    for place, sample in enumerate(found, 1):
                        session.keep(group, sample, series=f"{place} of 3", nodes=3)
