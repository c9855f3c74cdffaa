"""A process with a running node forks: the child is refused and ends by itself, the parent goes on unharmed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = """
    import asyncio, contextlib, gc, os, signal, socket, sys, time
    import dqlite_py
    from dqlite_py import aio
    from dqlite_py.errors import Error, NodeStopped, ProgrammingError
    from dqlite_py.gateway import LINEARIZABLE, TransactionLimits

    folder, how = sys.argv[1:]
    node = dqlite_py.Node(folder).start()
    node.wait_ready()
    address = node.address
    changes = node.changes("app", timeout=20)
    reading = node.connect("app")
    reading.execute("CREATE TABLE t(v)")
    reading.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(50000)])
    reading.commit()
    streaming = reading.execute("SELECT v FROM t")
    streaming.fetchone()
    writing = node.connect("app", isolation_level=None, idle_limit=50.0)
    writing.execute("BEGIN IMMEDIATE")
    writing.execute("INSERT INTO t VALUES (-1)")
    gateway = node.gateway

    async def open_async():
        connection = await aio.connect(node, "app")
        cursor = await connection.execute("SELECT v FROM t")
        await cursor.fetchone()
        return connection, cursor

    runner = asyncio.Runner()
    tasks, rows = runner.run(open_async())

    def refused(name, call, kind, words):
        began = time.monotonic()
        try:
            found = call()
        except Error as error:
            assert type(error) is kind and words in str(error), (name, repr(error))
            assert error.outcome is dqlite_py.Outcome.NOT_APPLIED
        else:
            raise AssertionError(f"{name}: {found!r}")
        assert time.monotonic() - began < 5, name

    def run(coroutine):
        with asyncio.Runner() as own:
            return own.run(coroutine)

    async def step(): return await tasks.execute("SELECT 1")
    async def fetch(): return await rows.fetchone()
    async def iterate(): return [row async for row in rows]
    async def commit(): return await tasks.commit()
    async def close(): return await tasks.close()
    async def connect(): return await aio.connect(node, "app")

    def holds(folder):
        found = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                name = os.readlink(f"/proc/self/fd/{fd}")
                if name.startswith("socket:"):
                    with contextlib.closing(socket.socket(fileno=os.dup(int(fd)))) as one:
                        if one.family == socket.AF_UNIX:
                            continue  # an event loop's own
            except OSError:
                continue  # the listing's own
            if name.startswith((folder, "socket:")):
                found.append(name)
        return found

    def child():
        for call in (
            lambda: reading.execute("SELECT 1"), lambda: streaming.fetchone(), lambda: next(streaming),
            streaming.fetchall, streaming.close, reading.commit, reading.rollback, reading.close, reading.cursor,
            reading.interrupt, lambda: reading.in_transaction, lambda: reading.executescript("SELECT 1"),
            lambda: writing.execute("COMMIT"), lambda: list(reading.iterdump()),
            lambda: run(step()), lambda: run(fetch()), lambda: run(iterate()), lambda: run(commit()),
            lambda: run(close()),
        ):
            refused("a connection", call, ProgrammingError, "before a fork")
        limits = TransactionLimits(1.0, 1.0)
        for call in (
            node.status, node.members, node.databases, node.compact, lambda: node.connect("app"),
            lambda: node.connect("app", read_level="stale"), lambda: run(connect()), lambda: node.gateway,
            lambda: node.drop_database("app"), lambda: node.changes("app"), lambda: next(changes),
            lambda: gateway.query("app", "SELECT 1", (), LINEARIZABLE, 3.0),
            lambda: gateway.query("app", "SELECT 1", (), LINEARIZABLE._replace(level=dqlite_py.ReadLevel.STALE), 3.0),
            lambda: gateway.begin("app", 3.0, limits), lambda: gateway.open_database("new", 3.0),
        ):
            refused("the node", call, NodeStopped, "before a fork")
        node.stop()
        changes.close()
        assert node.join_thread()
        assert not holds(folder), holds(folder)
        with dqlite_py.connect(f"{address}/app") as remote:
            assert remote.execute("SELECT count(*) FROM t").fetchone() == (50000,)
        remote.close()

    def forked(work):
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        signal.alarm(60)
        work()
        if how == "drop":
            global reading, streaming, writing, changes, tasks, rows
            del reading, streaming, writing, changes, tasks, rows
            gc.collect()
        if how == "_exit":
            os._exit(0)
        sys.exit(0)

    if how == "multiprocessing":
        import multiprocessing
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        code = process.exitcode
    else:
        code = os.waitstatus_to_exitcode(os.waitpid(forked(child), 0)[1])
    assert code == 0, code

    assert len(streaming.fetchall()) == 49999
    writing.execute("COMMIT")
    assert reading.execute("SELECT min(v), count(*) FROM t").fetchone() == (-1, 50001)
    reading.rollback()
    assert next(changes).table == "t"
    assert len(runner.run(fetch())) == 1
    runner.run(close())
    runner.close()
    changes.close()

    # One that lives on holds neither the folder nor the address.
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    node.stop()
    with dqlite_py.Node(folder, listen=address) as again:
        again.wait_ready()
        assert again.connect("app").execute("SELECT count(*) FROM t").fetchone() == (50001,)
    os.close(writer)
    os.close(reader)
    assert os.waitpid(pid, 0)[1] == 0
    print("unharmed")
"""


@pytest.mark.parametrize("how", ["exit", "drop", "_exit", "multiprocessing"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_fork(tmp_path: Path, how: str, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DQLITE_PY_LOOP", loop)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), str(tmp_path / "n"), how],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "unharmed\n", "")
