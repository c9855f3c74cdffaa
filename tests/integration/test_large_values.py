"""Values as large as programs may have them travel to every node and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from dqlite_py.errors import RequestTooLarge
from dqlite_py.limits import MIB, UNIT_BYTES_MAX
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of

SIZE = 100 * MIB


def test_a_blob_of_100_mib(tmp_path: Path) -> None:
    value = bytes(range(256)) * (SIZE // 256)
    with embedded_cluster(tmp_path) as nodes:
        leader = leader_of(nodes)
        follower = next(node for node in nodes if node is not leader)
        connection = follower.connect("app", timeout=60, isolation_level=None)
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        connection.execute("INSERT INTO t(v) VALUES (?)", (value,))
        assert connection.execute("SELECT v FROM t").fetchone() == (value,)
        alone = leader.connect("app", timeout=60, isolation_level=None)
        alone.execute("UPDATE t SET v = ? WHERE id = 1", (value[1:],))
        assert alone.execute("SELECT v FROM t").fetchone() == (value[1:],)
        with pytest.raises(RequestTooLarge, match="limit"):
            alone.execute("UPDATE t SET v = ?", (bytes(UNIT_BYTES_MAX),))
        connection.close()
        alone.close()
        check_same_state(nodes)
