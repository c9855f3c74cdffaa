"""kill -9 of each role during writes: nothing acknowledged is lost or doubled, all nodes end equal."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.errors import Error, Outcome
from dqlite_py.raft.rpc import RpcError, RpcNotSent
from tests.integration.cluster import Cluster, wait_until

KILLS = 20
WRITERS = 3


class Writer(threading.Thread):
    """Inserts its own numbers through one node at a time; remembers what was acknowledged and what is unsure."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(name=f"writer-{name}")
        self.cluster, self.label = cluster, name
        self.acknowledged: set[int] = set()
        self.unsure: set[int] = set()
        self.refused: set[int] = set()
        self.stopping = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            node = self.cluster.nodes[(number + int(self.label)) % len(self.cluster.nodes)]
            try:
                self.cluster.client.write(
                    node.address, "INSERT INTO rows VALUES (?, ?)", self.label, number, timeout_s=3.0
                )
            except Error as error:
                (self.unsure if error.outcome is Outcome.UNKNOWN else self.refused).add(number)
            except RpcNotSent:
                self.refused.add(number)
                self.stopping.wait(0.01)
            except RpcError:
                self.unsure.add(number)
            else:
                self.acknowledged.add(number)
            number += 1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        running.client.write(running.nodes[0].address, "CREATE TABLE rows(writer TEXT, number INTEGER)")
        yield running


def check_rows(cluster: Cluster, writers: list[Writer]) -> None:
    """On every node: acknowledged rows once, refused rows never, unsure rows at most once."""
    cluster.check_equal()
    for node in cluster.running:
        found = cluster.client.read(node.address, "SELECT writer, number FROM rows", level="stale")
        assert len(found) == len(set(found)), f"doubled rows on {node.name}"
        for writer in writers:
            held = {number for label, number in found if label == writer.label}
            assert writer.acknowledged <= held, f"lost on {node.name}: {writer.acknowledged - held}"
            assert not writer.refused & held, f"refused but applied on {node.name}: {writer.refused & held}"
            assert held <= writer.acknowledged | writer.unsure


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_twenty_kills_in_a_row(cluster: Cluster) -> None:
    writers = [Writer(cluster, str(i)) for i in range(WRITERS)]
    for writer in writers:
        writer.start()
    rng = random.Random(7)
    try:
        for kill in range(KILLS):
            before = sum(len(w.acknowledged) for w in writers)
            wait_until(lambda b=before: sum(len(w.acknowledged) for w in writers) > b + 20, "writes go on")
            victim = cluster.leader() if kill % 2 == 0 else rng.choice(cluster.followers())
            victim.kill()
            after = sum(len(w.acknowledged) for w in writers)
            wait_until(lambda a=after: sum(len(w.acknowledged) for w in writers) > a, "service resumes")
            victim.start()
            wait_until(lambda v=victim: cluster.status(v)["leader_id"], f"{victim.name} is back")
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join(30)
    assert not any(writer.is_alive() for writer in writers)
    check_rows(cluster, writers)
    assert all(len(writer.acknowledged) > KILLS for writer in writers)


@pytest.mark.slow
def test_all_killed_at_once(cluster: Cluster) -> None:
    writers = [Writer(cluster, str(i)) for i in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        wait_until(lambda: sum(len(w.acknowledged) for w in writers) > 100, "writes go on")
        for node in cluster.nodes:
            node.kill()
        for node in cluster.nodes:
            node.start()
        after = sum(len(w.acknowledged) for w in writers)
        wait_until(lambda: sum(len(w.acknowledged) for w in writers) > after + 50, "service resumes")
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join(30)
    check_rows(cluster, writers)
