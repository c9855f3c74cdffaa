"""Changes as a stream on embedded clusters: the same on every member, resumed on another one, over restarts."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.changes import Change
from dqlite_py.errors import ChangesCompacted, InterfaceError, OperationalError
from tests.integration.cluster import wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of


def execute(node: dqlite_py.Node, *statements: str) -> None:
    """Each an entry of its own."""
    connection = node.connect("app")
    for statement in statements:
        connection.execute(statement)
        connection.commit()
    connection.close()


def upto(stream: object, index: int) -> list[Change]:
    """Changes of a stream until the entry `index` is through."""
    found: list[Change] = []
    for change in stream:  # type: ignore[attr-defined]
        found.append(change)
        if change.is_last and change.log_index >= index:
            return found
    raise AssertionError("the stream ended")


def last_index(node: dqlite_py.Node) -> int:
    return node.databases()["app"]


def work(nodes: list[dqlite_py.Node]) -> None:
    execute(nodes[0], "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v)")
    for number in range(30):
        execute(nodes[number % len(nodes)], f"INSERT INTO t (v) VALUES ({number})")
    execute(nodes[0], "UPDATE t SET v = v + 1 WHERE id % 2", "DELETE FROM t")


def test_every_member_tells_the_same(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        streams = [node.changes("app", after=0, timeout=30) for node in nodes]
        work(nodes)
        check_same_state(nodes)
        index = last_index(nodes[0])
        told = [upto(stream, index) for stream in streams[:1]]
        assert [change.kind.value for change in told[0]].count("DELETE") == 30
        for node, stream in zip(nodes[1:], streams[1:], strict=True):
            oldest = stream.position
            expected = [change for change in told[0] if change.log_index > oldest]
            try:
                assert upto(stream, index) == expected
            except ChangesCompacted as error:  # it began to follow when others had changed something already
                oldest = error.details["oldest"]
                with node.changes("app", after=oldest, timeout=30) as later:
                    assert upto(later, index) == [c for c in told[0] if c.log_index > oldest]
        for stream in streams:
            stream.close()


def test_fail_over_to_another_member_by_index(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path, keep_changes=2**24) as nodes:
        execute(nodes[0])
        wait_until(lambda: all(_is_kept(node) for node in nodes), "all keep changes")
        leader = leader_of(nodes)
        others = [node for node in nodes if node is not leader]
        work(nodes)
        first = leader.changes("app", after=0, timeout=30)
        found = [next(first) for _ in range(12)]
        place = first.position
        leader.stop(hand_over=False)
        with pytest.raises(OperationalError):
            upto(first, 10**9)
        first.close()
        work(others)
        check_same_state(others)
        index = last_index(others[0])
        for node in others:
            with node.changes("app", after=place, timeout=30) as second:
                told = upto(second, index)
            assert told[: len(found)][0] == next(c for c in found if c.log_index > place)
            kinds = [change.kind.value for change in told]
            assert (kinds.count("INSERT"), kinds.count("DELETE")) == (60 - 10, 60)


def _is_kept(node: dqlite_py.Node) -> bool:
    if "app" not in node.databases():
        return False
    with node.changes("app", after=0, timeout=0.001) as stream:
        try:
            next(stream)
        except TimeoutError:
            return True
        except ChangesCompacted:
            return False
    return True


def test_over_a_restart(tmp_path: Path) -> None:
    with dqlite_py.Node(tmp_path / "n") as node:
        node.wait_ready()
        with node.changes("app", after=0, timeout=30) as stream:
            work([node])
            told = upto(stream, last_index(node))
    with dqlite_py.Node(tmp_path / "n") as node:
        node.wait_ready()
        work([node])
        with node.changes("app", after=0, timeout=30) as stream:
            again = upto(stream, last_index(node))
        assert again[: len(told)] == told
        assert len(again) > len(told)
        node.drop_database("app")
        work([node])
        with node.changes("app", after=0, timeout=30) as stream, pytest.raises(ChangesCompacted) as caught:
            next(stream)
        assert caught.value.details["oldest"] >= told[-1].log_index


def test_a_database_without_tables_is_new_after_a_restart_too(tmp_path: Path) -> None:
    """Wherever it is followed from then on, and whoever had asked for that before."""
    for restarts_followed in (False, True):
        with dqlite_py.Node(tmp_path / f"n{restarts_followed}") as node:
            node.wait_ready()
            node.connect("app").close()
            used = node.connect("used")
            used.execute("CREATE TABLE t (v)")
            used.execute("DROP TABLE t")
            used.close()
            if restarts_followed:
                node.changes("app", after=0).close()
                node.changes("used").close()
        shutil.rmtree(tmp_path / f"n{restarts_followed}" / "changes", ignore_errors=True)
        with dqlite_py.Node(tmp_path / f"n{restarts_followed}") as node:
            node.wait_ready()
            with node.changes("app", after=0, timeout=30) as stream:
                work([node])
                told = upto(stream, last_index(node))
            assert [change.kind.value for change in told].count("INSERT") == 30
            with node.changes("used", after=0, timeout=30) as stream, pytest.raises(ChangesCompacted):
                next(stream)


def test_a_task_follows_a_follower(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        leader = leader_of(nodes)
        follower = next(node for node in nodes if node is not leader)

        async def follow() -> list[Change]:
            found: list[Change] = []
            async with follower.changes_async("app", after=0, timeout=30) as stream:
                assert (await asyncio.to_thread(work, nodes)) is None
                index = await asyncio.to_thread(last_index, leader)
                async for change in stream:
                    found.append(change)
                    if change.is_last and change.log_index >= index:
                        break
            return found

        async def follow_from_the_start() -> list[Change]:
            await asyncio.to_thread(lambda: follower.changes("app", after=0).close())
            return await follow()

        found = asyncio.run(follow_from_the_start())
        assert [change.kind.value for change in found].count("INSERT") == 30


def test_bad_arguments(tmp_path: Path) -> None:
    with dqlite_py.Node(tmp_path / "n") as node:
        node.wait_ready()
        for after in (-1, 1.5, "3", True, 2**63):
            with pytest.raises(InterfaceError, match="log index"):
                node.changes("app", after=after)  # type: ignore[arg-type]
        with pytest.raises(InterfaceError):
            node.changes("a/b")
        assert node.databases() == {}
    with pytest.raises(InterfaceError, match="keep_changes"):
        dqlite_py.Node(tmp_path / "m", keep_changes=0)
