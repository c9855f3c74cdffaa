"""Damage at rest: a journal with a hole is refused by name, a damaged database is found and rebuilt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.errors import Error
from tests.integration.cluster import wait_until
from tests.support.rows_writer import create_rows
from tests.support.settings_cluster import COMPACTING, SettingsCluster, SettingsNode

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes"), pytest.mark.timeout(300)]

PAGE_BYTES = 4096
ROWS = 400


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SettingsCluster]:
    with SettingsCluster(tmp_path, **COMPACTING) as running:
        create_rows(running)
        address = running.leader().address
        running.client.write(address, "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
        running.client.write(
            address,
            "INSERT INTO t(v) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "SELECT hex(randomblob(200)) FROM n",
            ROWS,
        )
        for number in range(60):
            running.client.write(address, "INSERT INTO rows VALUES ('w', ?)", number)
        yield running


def stopped_follower(cluster: SettingsCluster) -> SettingsNode:
    """A follower that has everything, cleanly stopped: its database is one file."""
    cluster.settled()
    node = cluster.followers()[0]
    assert isinstance(node, SettingsNode)
    cluster.compact(node)
    node.terminate()
    assert node.exit_code() == 0
    return node


def flip(path: Path, offset: int, size: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(size)
        assert len(old) == size
        file.seek(offset)
        file.write(bytes(byte ^ 0xFF for byte in old))


def database_of(node: SettingsNode) -> Path:
    (path,) = node.folder.glob("state/g*/app.db")
    assert not path.with_name("app.db-wal").exists()
    return path


def write_on(cluster: SettingsCluster, count: int = 40) -> None:
    for _ in range(count):
        cluster.client.write(cluster.leader().address, "INSERT INTO t(v) VALUES ('more')")


def test_a_hole_in_the_journal_is_refused_with_file_and_offset(cluster: SettingsCluster) -> None:
    node = stopped_follower(cluster)
    (segment,) = sorted((node.folder / "journal").glob("*.seg"))
    data = segment.read_bytes()
    end = len(data.rstrip(b"\0"))
    flip(segment, end // 2)
    before = segment.read_bytes()
    for _ in range(2):  # and it is not "repaired" by trying again
        node.start()
        assert node.exit_code() == 3
        said = "\n".join(node.log_tail(6))
        assert str(segment) in said
        assert "offset" in said
        assert "cluster remove" in said
    assert segment.read_bytes() == before
    write_on(cluster, 5)
    flip(segment, end // 2)  # whole again, from a backup
    node.start()
    cluster.check_equal()


@pytest.mark.parametrize("page", [3, -1])
def test_a_damaged_page_is_found_and_the_node_rebuilt(cluster: SettingsCluster, page: int) -> None:
    node = stopped_follower(cluster)
    path = database_of(node)
    pages = path.stat().st_size // PAGE_BYTES
    flip(path, (page % pages) * PAGE_BYTES + 2000, 16)
    node.start()
    write_on(cluster)
    wait_until(lambda: cluster.status(node)["divergences"] > 0, f"it is noticed: {node.log_tail()}")
    wait_until(lambda: cluster.status(node)["healthy"], f"the node is rebuilt: {node.log_tail()}")
    write_on(cluster, 3)
    cluster.check_equal()
    assert "snapshot installed" in node.log_path.read_text()


@pytest.mark.parametrize("page", [0, 1, 2])
def test_a_tree_that_a_start_needs_is_damaged(cluster: SettingsCluster, page: int) -> None:
    """The schema, _dqlite_meta, _dqlite_sessions: the node does not start, and names the file and the mend."""
    node = stopped_follower(cluster)
    path = database_of(node)
    flip(path, page * PAGE_BYTES + (100 if page == 0 else 0), 8)
    node.start()
    wait_until(lambda: not node.is_running, f"it ends: {node.log_tail()}")
    assert node.exit_code() == 3, node.log_tail()
    said = "\n".join(node.log_tail(20))
    assert str(path) in said
    assert "malformed" in said
    assert "cluster remove" in said
    write_on(cluster, 3)


def test_a_damaged_tree_is_named_or_found_by_comparison_and_the_node_rebuilt(
    cluster: SettingsCluster,
) -> None:
    """The page headers themselves. SQLite finds them malformed when it applies an entry, and the node stops with file
    and mend; unless the comparison after the start was faster. The others go on."""
    node = stopped_follower(cluster)
    path = database_of(node)
    for number in range(3, path.stat().st_size // PAGE_BYTES):  # pages 2 and 3 hold the applied index
        flip(path, number * PAGE_BYTES, 8)
    node.start()
    for _attempt in range(20):
        write_on(cluster, 5)
        wait_until(
            lambda: not node.is_running or is_rebuilt(cluster, node), f"it is noticed: {node.log_tail()}"
        )
        if node.is_running:
            break
        assert node.exit_code() == 4, node.log_tail()
        said = "\n".join(node.log_tail(20))
        assert str(path) in said
        assert "malformed" in said
        assert "cluster remove" in said
        node.start()
    write_on(cluster, 3)
    cluster.check_equal()


def is_rebuilt(cluster: SettingsCluster, node: SettingsNode) -> bool:
    try:
        return "snapshot installed" in node.log_path.read_text() and bool(cluster.status(node)["healthy"])
    except Error:
        return False  # it stopped meanwhile


@pytest.mark.parametrize("damage", ["header", "empty", "missing"])
def test_a_database_that_cannot_be_opened_is_refused_by_name(cluster: SettingsCluster, damage: str) -> None:
    node = stopped_follower(cluster)
    path = database_of(node)
    if damage == "header":
        flip(path, 0, 16)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    for _ in range(2):
        node.start()
        assert node.exit_code() == 3, node.log_tail()
        said = "\n".join(node.log_tail(6))
        assert str(path.parent) in said
        assert "cluster remove" in said or "remove this member" in said
