"""dqlite-client: connections, pool, transactions, the cluster's own requests; the leader is killed."""

import asyncio
import contextlib
import time

from common import DATABASE, IS_STOCK, PATIENCE_S, SERVERS, equal, pause
from dqliteclient import (
    AmbiguousCommitError,
    ClusterClient,
    DqliteConnectionError,
    DqliteError,
    MemoryNodeStore,
    OperationalError,
    create_pool,
)

LOST = (DqliteConnectionError, OperationalError, DqliteError, OSError, TimeoutError)


async def main() -> None:
    cluster = ClusterClient(MemoryNodeStore(SERVERS), timeout=10.0)
    pool = await create_pool(cluster=cluster, database=DATABASE, max_size=8)
    await values(pool)
    await transactions(pool)
    await administration(cluster)
    await killed(pool)
    await pool.close()
    print("done")


async def values(pool) -> None:
    await pool.execute("CREATE TABLE v(i INTEGER, f REAL, t TEXT, b BLOB, o BOOLEAN, d DATETIME)")
    rows = [
        [-(2**63), 1.5, "grüße", b"\x00\xff", True, "2026-02-03 04:05:06"],
        [None] * 6,
        [2**62, -0.0, "", b"", False, None],
    ]
    for row in rows:
        await pool.execute("INSERT INTO v VALUES(?, ?, ?, ?, ?, ?)", row)
    found = await pool.fetchall("SELECT * FROM v ORDER BY rowid")
    equal(found[0][:5], rows[0][:5], "values")
    equal(found[1][:4], [None] * 4, "NULLs")
    if not IS_STOCK:
        equal(found[1][4:], [None, None], "NULL in BOOLEAN and DATETIME columns")
        await pool.execute("INSERT INTO v(o) VALUES('free text')")  # ends the process of stock dqlite
        equal(await pool.fetchval("SELECT o FROM v WHERE rowid = 4"), "free text")
    marks = ", ".join("?" * (200 if IS_STOCK else 1000))  # 1.11.1 refuses the format of more than 255
    equal(await pool.fetchval(f"SELECT 199 IN ({marks})", list(range(marks.count("?")))), 1, "parameters")
    series = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 20000) SELECT n FROM s"
    equal(len(await pool.fetchall(series)), 20000, "rows of many frames")
    equal(await pool.fetch("SELECT 1 AS one, 'x' AS two"), [{"one": 1, "two": "x"}], "names")


async def transactions(pool) -> None:
    await pool.execute("CREATE TABLE k(n INTEGER PRIMARY KEY)")
    async with pool.acquire() as connection:
        with contextlib.suppress(ZeroDivisionError):
            async with connection.transaction():
                await connection.execute("INSERT INTO k VALUES(1)")
                equal(await connection.fetchval("SELECT count(*) FROM k"), 1, "its own row")
                raise ZeroDivisionError
        equal(await connection.fetchval("SELECT count(*) FROM k"), 0, "after ROLLBACK")
        async with connection.transaction():
            await connection.execute("INSERT INTO k VALUES(1)")
            await connection.execute("SAVEPOINT a")
            await connection.execute("INSERT INTO k VALUES(2)")
            await connection.execute("ROLLBACK TO a")
        equal(await connection.fetchall("SELECT n FROM k"), [[1]], "after a savepoint")
        try:
            await connection.execute("INSERT INTO k VALUES(1)")
        except OperationalError as error:
            equal(error.code, 1555, str(error))
        else:
            raise AssertionError("a duplicate was accepted")
        if not IS_STOCK:  # upstream aborts
            equal(await connection.fetchall("INSERT INTO k VALUES(9) RETURNING n * 2"), [[18]], "RETURNING")


async def administration(cluster) -> None:
    nodes = await cluster.cluster_info()
    equal({node.address for node in nodes}, set(SERVERS), "members")
    leader = await cluster.leader_info()
    assert (leader.node_id, leader.address) in {(node.node_id, node.address) for node in nodes}
    await cluster.set_weight(33, address=SERVERS[0])
    equal((await cluster.describe(address=SERVERS[0])).weight, 33, "weight")
    files = await cluster.dump(DATABASE)
    equal(set(files), {DATABASE, f"{DATABASE}-wal"}, "files of a dump")


async def killed(pool) -> None:
    await pool.execute("CREATE TABLE a(n INTEGER PRIMARY KEY)")
    acknowledged: set[int] = set()
    async with pool.acquire() as connection:
        try:
            async with connection.transaction():
                await connection.execute("INSERT INTO a VALUES(-1)")
                pause()
        except AmbiguousCommitError:
            raise AssertionError(
                "a COMMIT that was never answered by a leader is a lost connection"
            ) from None
        except LOST:
            pass
        else:
            raise AssertionError("a transaction outlived its leader")
    await asyncio.gather(*(writer(pool, 1000 * number, acknowledged) for number in range(4)))
    present = {row[0] for row in await pool.fetchall("SELECT n FROM a")}
    assert acknowledged <= present, acknowledged - present
    assert -1 not in present, "a row of the transaction that failed is there"
    equal(len(acknowledged), 80, "acknowledged")


async def writer(pool, first: int, acknowledged: set[int]) -> None:
    for n in range(first, first + 20):
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                await pool.execute("INSERT OR REPLACE INTO a VALUES(?)", [n])
            except LOST:
                await asyncio.sleep(0.02)
            else:
                acknowledged.add(n)
                break


asyncio.run(main())
