"""dqlite-dbapi: PEP 249, and its asyncio half; the leader is killed. It knows one address at a time: a survivor's."""

import asyncio
import datetime
import time

import dqlitedbapi
import dqlitedbapi.aio
from common import DATABASE, IS_STOCK, PATIENCE_S, SERVERS, equal, pause, raises


def connect():
    for deadline in (time.monotonic() + PATIENCE_S,):
        while True:
            for address in SERVERS:
                connection = dqlitedbapi.connect(address, database=DATABASE, timeout=5.0)
                try:
                    connection.connect()
                except dqlitedbapi.Error:
                    connection.close()
                else:
                    return connection
            assert time.monotonic() < deadline, "nobody to connect to"
            time.sleep(0.05)


def main() -> None:
    connection = connect()
    types(connection)
    transactions(connection)
    connection.close()
    asyncio.run(concurrent())
    killed()
    print("done")


def types(connection) -> None:
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE v(i INTEGER, f REAL, t TEXT, b BLOB, o BOOLEAN, d DATETIME, e DATE)")
    when = datetime.datetime(2026, 2, 3, 4, 5, 6, 789000)
    cursor.execute("INSERT INTO v VALUES(?, ?, ?, ?, ?, ?, ?)", (7, 2.5, "ß", b"\x01", True, when, None))
    equal((cursor.rowcount, cursor.lastrowid), (1, 1), "rowcount and lastrowid")
    cursor.execute("INSERT INTO v DEFAULT VALUES")
    cursor.execute("SELECT * FROM v ORDER BY rowid")
    equal([column[0] for column in cursor.description], list("iftbode"), "names")
    rows = cursor.fetchall()
    equal(rows[0][:5], (7, 2.5, "ß", b"\x01", True), "values")
    equal(rows[0][5].replace(tzinfo=None), when, "a datetime")
    equal(rows[1][:4], (None,) * 4, "NULLs")
    if not IS_STOCK:
        equal(rows[1], (None,) * 7, "NULL in typed columns")
    cursor.executemany("INSERT INTO v(i) VALUES(?)", [(n,) for n in range(20)])
    equal(cursor.rowcount, 20, "rowcount of executemany")
    equal(cursor.execute("SELECT count(*) FROM v").fetchone(), (22,))
    equal([row[1] for row in cursor.execute("PRAGMA table_info(v)")], list("iftbode"), "PRAGMA")
    equal(cursor.execute("VALUES(1), (2)").fetchall(), [(1,), (2,)], "VALUES")
    raises(dqlitedbapi.Error, lambda: cursor.execute("SELECT missing FROM v"), "no such column")
    if not IS_STOCK:
        equal(
            cursor.execute("UPDATE v SET f = 1 WHERE t = 'ß' RETURNING f").fetchall(), [(1.0,)], "RETURNING"
        )
        cursor.execute("SELECT zeroblob(200000), printf('%.*c', 5000, 'x') AS wide")
        equal(len(cursor.fetchone()[0]), 200000, "a large value")


def transactions(connection) -> None:
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE k(n INTEGER PRIMARY KEY, p INTEGER REFERENCES k)")
    cursor.execute("BEGIN")
    cursor.execute("INSERT INTO k VALUES(1, NULL)")
    connection.rollback()
    equal(cursor.execute("SELECT count(*) FROM k").fetchone(), (0,), "after rollback")
    with connection.transaction():
        cursor.execute("INSERT INTO k VALUES(1, NULL)")
        raises(dqlitedbapi.IntegrityError, lambda: cursor.execute("INSERT INTO k VALUES(1, NULL)"), "UNIQUE")
        raises(
            dqlitedbapi.IntegrityError, lambda: cursor.execute("INSERT INTO k VALUES(2, 7)"), "FOREIGN KEY"
        )
    equal(cursor.execute("SELECT n FROM k").fetchall(), [(1,)], "after commit")
    reader = dqlitedbapi.connect(connection.address, database=DATABASE, session_mode="read_only")
    raises(dqlitedbapi.OperationalError, lambda: reader.execute("INSERT INTO k VALUES(5, NULL)"), "readonly")
    equal(reader.execute("SELECT count(*) FROM k").fetchone(), (1,), "a read in read-only mode")
    reader.close()


async def concurrent() -> None:
    """Many transactions that read and then write: BEGIN IMMEDIATE queues, none starves, none is lost."""
    address = SERVERS[0]
    setup = await dqlitedbapi.aio.aconnect(address, database=DATABASE)
    await setup.cursor().execute("CREATE TABLE c(n INTEGER)")
    await setup.cursor().execute("INSERT INTO c VALUES(0)")

    async def count(times: int) -> None:
        connection = await dqlitedbapi.aio.aconnect(address, database=DATABASE, busy_timeout=20.0)
        cursor = connection.cursor()
        for _ in range(times):
            await cursor.execute("BEGIN")
            await cursor.execute("SELECT n FROM c")
            (n,) = await cursor.fetchone()
            await cursor.execute("UPDATE c SET n = ?", (n + 1,))
            await connection.commit()
        await connection.close()

    await asyncio.gather(*(count(10) for _ in range(8)))
    cursor = setup.cursor()
    await cursor.execute("SELECT n FROM c")
    equal((await cursor.fetchone())[0], 80, "increments")
    await setup.close()


def killed() -> None:
    connection = connect()
    connection.execute("CREATE TABLE a(n INTEGER PRIMARY KEY)")
    connection.execute("INSERT INTO a VALUES(0)")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO a VALUES(-1)")
    pause()
    error = raises(dqlitedbapi.OperationalError, connection.commit)
    assert not isinstance(error, dqlitedbapi.IntegrityError)
    connection.close()
    connection = connect()
    equal(connection.execute("SELECT n FROM a").fetchall(), [(0,)], "rows after the leader died")
    deadline = time.monotonic() + PATIENCE_S
    for n in range(1, 21):
        while True:
            try:
                connection.execute("INSERT OR REPLACE INTO a VALUES(?)", (n,))
                break
            except dqlitedbapi.Error:
                assert time.monotonic() < deadline
                connection.close()
                connection = connect()
    equal(connection.execute("SELECT count(*) FROM a").fetchone(), (21,), "rows written afterwards")
    connection.close()


main()
