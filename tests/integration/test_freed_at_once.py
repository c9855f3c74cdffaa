"""A write's bytes are freed when it is answered, without a collection of cycles: they may be MiBs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dqlite_py
from dqlite_py.node.pending_write import PendingWrite
from dqlite_py.node.proposals import Queued
from tests.integration.cluster import wait_until
from tests.integration.embedded import embedded_cluster, leader_of
from tests.support.dqliteclient import DqliteClient

WRITES = 20
IN_HAND = 4  # variables of threads that wait may name the newest


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def held() -> int:
    return sum(type(found) in (PendingWrite, Queued) for found in gc.get_objects())


def test_nothing_of_a_write_is_kept(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path, 2) as nodes:
        leader = leader_of(nodes)
        follower = next(node for node in nodes if node is not leader)
        here = leader.connect("app", isolation_level=None)
        away = follower.connect("app", isolation_level=None)
        here.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)")
        here.execute("INSERT INTO t VALUES (1, 'taken')")
        remote = dqlite_py.connect(f"dqlitepy://{leader.address}/app", isolation_level=None)
        ways: dict[str, Callable[[str], object]] = {
            "leader": lambda text: here.execute("INSERT INTO t(v) VALUES (?)", (text,)),
            "follower": lambda text: away.execute("INSERT INTO t(v) VALUES (?)", (text,)),
            "program": lambda text: remote.execute("INSERT INTO t(v) VALUES (?)", (text,)),
        }
        with remote, DqliteClient(leader.address, database="app") as client:
            ways["dqlite"] = lambda text: client.done("INSERT INTO t(v) VALUES (?)", text)
            ways["RETURNING"] = lambda text: client.values("INSERT INTO t(v) VALUES (?) RETURNING v", text)
            for name, write in ways.items():
                with no_collection():
                    for number in range(WRITES):
                        write(f"{name} {number}")
                    wait_until(lambda: held() <= IN_HAND, f"{name}: writes that were answered are freed")


def test_nor_of_one_that_fails(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path, 1) as nodes:
        connection = nodes[0].connect("app", isolation_level=None)
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO t VALUES (1)")
        with DqliteClient(nodes[0].address, database="app") as client, no_collection():
            for _ in range(WRITES):
                client.failure("INSERT INTO t VALUES (?)", 1)
            wait_until(
                lambda: sum(len(w.body) for w in gc.get_objects() if type(w) is PendingWrite) == 0,
                "a failed write holds no bytes of its unit",
            )
