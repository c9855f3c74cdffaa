"""Writers to a cluster of node processes: each knows what became of every row it sent, and all nodes are held to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dqlite_py.cli.demo.processes import NodeProcess
from dqlite_py.errors import Error, Outcome
from dqlite_py.raft.rpc import RpcError, RpcNotSent
from tests.integration.cluster import Cluster, wait_until


class Writer(threading.Thread):
    """Inserts its numbers through the nodes in turn, from the `first` one on, until the end of its `with`; knows what
    was acknowledged, refused, unsure."""

    def __init__(
        self, cluster: Cluster, label: str, *, first: int = 0, pause_s: float = 0.0, timeout_s: float = 5.0
    ) -> None:
        super().__init__(name=f"writer-{label}")
        self.cluster, self.label = cluster, label
        self._first, self._pause_s, self._timeout_s = first, pause_s, timeout_s
        self.acknowledged: set[int] = set()
        self.unsure: set[int] = set()
        self.refused: set[int] = set()
        self.stopping = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            nodes = self.cluster.nodes
            self._write(nodes[(number + self._first) % len(nodes)], number)
            number += 1
            self.stopping.wait(self._pause_s)

    def _write(self, node: NodeProcess, number: int) -> None:
        try:
            self.cluster.client.write(
                node.address,
                "INSERT INTO rows VALUES (?, ?)",
                self.label,
                number,
                timeout_s=self._timeout_s,
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

    def wait_more(self, count: int) -> None:
        wait_more([self], count)

    def __enter__(self) -> Writer:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stopping.set()
        self.join(60)
        assert not self.is_alive()


@contextmanager
def writing(cluster: Cluster, count: int) -> Iterator[list[Writer]]:
    """So many writers at once, each beginning at another node."""
    writers = [Writer(cluster, str(number), first=number, timeout_s=3.0) for number in range(count)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join(60)
    assert not any(writer.is_alive() for writer in writers)


def wait_more(writers: list[Writer], count: int) -> None:
    """Until so many more writes, of all together, are acknowledged."""
    goal = _acknowledged(writers) + count
    wait_until(lambda: _acknowledged(writers) >= goal, f"{count} more writes are acknowledged")


def _acknowledged(writers: list[Writer]) -> int:
    return sum(len(writer.acknowledged) for writer in writers)


def create_rows(cluster: Cluster) -> None:
    cluster.client.write(cluster.leader().address, "CREATE TABLE rows(writer TEXT, number INTEGER)")


def check_rows(cluster: Cluster, *writers: Writer) -> None:
    """On every node: acknowledged rows once, refused rows never, unsure rows at most once; states equal."""
    cluster.check_equal()
    for node in cluster.running:
        found = cluster.client.read(node.address, "SELECT writer, number FROM rows", level="stale")
        assert len(found) == len(set(found)), f"doubled rows on {node.name}"
        for writer in writers:
            held = {number for label, number in found if label == writer.label}
            assert writer.acknowledged <= held, f"lost on {node.name}: {writer.acknowledged - held}"
            assert not writer.refused & held, f"refused but applied on {node.name}: {writer.refused & held}"
            assert held <= writer.acknowledged | writer.unsure
