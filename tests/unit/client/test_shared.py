"""The link that connections share: one per process and cluster, gone with the last of them, never used after a fork."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from dqlite_py.client.calls import Calls
from dqlite_py.client.gateway import AsyncRemoteGateway, RemoteGateway
from dqlite_py.client.shared import SharedLink, shared_link
from dqlite_py.client.stock.gateway import StockGateway
from dqlite_py.config import TlsSettings
from dqlite_py.errors import Error, InterfaceError
from dqlite_py.gateway import Freshness, ReadLevel, TransactionLimits
from dqlite_py.model import Address
from tests.unit.client.cluster import BODY, Script, client_threads, gateway, nodes, rows, unit, wait_until

WAIT_S = 20.0
FRESHNESS, LIMITS = Freshness(ReadLevel.STALE), TransactionLimits(1.0, 1.0)
NOWHERE = [Address("127.0.0.1:1"), Address("127.0.0.1:2")]


def test_one_link_for_the_same_addresses() -> None:
    first, second = shared_link(NOWHERE, None), shared_link(NOWHERE[::-1], None)
    other = shared_link(NOWHERE[:1], None)
    assert first is second
    assert other is not first
    assert len(client_threads()) == 2
    del first, second, other
    wait_until(lambda: not client_threads())


def test_it_lives_as_long_as_what_uses_it() -> None:
    calls = Calls(shared_link(NOWHERE, None))
    assert calls.run(_answer) == 5
    gateways = [RemoteGateway(shared_link(NOWHERE, None)), AsyncRemoteGateway(shared_link(NOWHERE, None))]
    assert len(client_threads()) == 1
    del calls
    gateways.pop()
    assert len(client_threads()) == 1


def test_a_call_that_cannot_begin_leaves_nothing_that_was_never_awaited() -> None:
    ours, stock = SharedLink(NOWHERE, None), StockGateway(NOWHERE)
    ours.end()
    stock.close()
    for one in (RemoteGateway(ours), stock):
        calls: list[Callable[[], Any]] = [
            lambda one=one: one.query("db", "SELECT 1", (), FRESHNESS, 1.0),
            lambda one=one: one.begin("db", 1.0, LIMITS),
            lambda one=one: one.begin_read("db", FRESHNESS, 1.0, LIMITS),
            lambda one=one: one.execute_unit("db", BODY, 1.0),
        ]
        for call in calls:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                with pytest.raises(InterfaceError, match="closed"):
                    call()
            assert [str(told.message) for told in warned] == []


async def _answer(_link: Any) -> int:
    return 5


async def _forever(_link: Any) -> None:
    await asyncio.Event().wait()


def test_bad_tls_files_are_an_error_of_the_caller(tmp_path: Any) -> None:
    for name in ("cert", "key", "ca"):
        (tmp_path / name).write_text("not PEM")
    tls = TlsSettings(*(str(tmp_path / name) for name in ("cert", "key", "ca")))
    with pytest.raises(OSError):
        shared_link(NOWHERE, tls)
    assert not client_threads()


def test_ending_it_ends_the_calls_that_wait() -> None:
    calls = Calls(shared_link(NOWHERE, None))
    started = threading.Event()

    async def wait(link: Any) -> None:
        started.set()
        await _forever(link)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        waiting = threads.submit(calls.run, wait)
        assert started.wait(WAIT_S)
        calls.background.end()
        with pytest.raises(InterfaceError, match="closed"):
            waiting.result(WAIT_S)
    with pytest.raises(InterfaceError, match="closed"):
        calls.run(_answer)
    calls.soon(lambda: 1 / 0)  # nobody is there to do it
    calls.background.end()


async def test_ending_it_is_not_taken_for_a_cancellation() -> None:
    calls = Calls(shared_link(NOWHERE, None))
    waiting = asyncio.create_task(calls.wait(_forever))
    await asyncio.sleep(0)
    calls.background.end()
    with pytest.raises(InterfaceError, match="closed"):
        await waiting


async def test_cancelling_cancels_the_work() -> None:
    calls = Calls(shared_link(NOWHERE, None))
    started, ended = threading.Event(), threading.Event()

    async def wait(_link: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(calls.wait(wait))
    assert await asyncio.to_thread(started.wait, WAIT_S)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(ended.wait, WAIT_S)


# -- forks and the end of the process -----------------------------------------------------------------------


def in_child(work: Any) -> int:
    """Run it in a forked child; the child's exit code."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_opens_its_own_link() -> None:
    with nodes({"sql.execute": Script(unit())}) as peers:
        remote = gateway(*peers)
        remote.execute_unit("app", BODY, WAIT_S)

        def work() -> int:
            found = remote.execute_unit("app", BODY, WAIT_S)
            return 0 if found.log_index == 7 and len(client_threads()) == 1 else 1

        assert in_child(work) == 0
        remote.execute_unit("app", BODY, WAIT_S)
        sessions = [body["key"][0] for _, body in peers[0].asked]
        assert sessions[0] == sessions[2] != sessions[1]


def test_what_was_begun_before_a_fork_is_the_parents() -> None:
    calls = Calls(shared_link(NOWHERE, None))

    def work() -> int:
        calls.soon(lambda: os._exit(1))
        try:
            calls.run(_answer)
        except InterfaceError as error:
            return 0 if "before a fork" in str(error) else 2
        return 3

    assert in_child(work) == 0
    assert calls.run(_answer) == 5


# asyncio's debug mode, a part of `-X dev`, also tells of callbacks that were slow: on a busy machine any one is.
PROGRAM = """
    import logging, os, sys
    logging.getLogger("asyncio").addFilter(lambda record: record.msg != "Executing %s took %.3f seconds")
    from dqlite_py.client.gateway import RemoteGateway
    from dqlite_py.client.shared import SharedLink, shared_link
    from dqlite_py.gateway import LINEARIZABLE
    remote = RemoteGateway(shared_link([sys.argv[1]], None))
    more = remote.query("app", "SELECT 1", (), LINEARIZABLE, 20.0).more
    print(more.fetch(), flush=True)
    if "fork" in sys.argv[2]:
        if pid := os.fork():
            os.waitpid(pid, 0)
    if "raise" in sys.argv[2]:
        raise SystemExit(3)
"""


@pytest.mark.parametrize("how", ["plain", "raise", "fork"])
def test_the_process_ends_without_a_word(how: str) -> None:
    first, piece = rows([1], has_more=True), [[[2]], False]
    methods = {"sql.query": Script(first), "sql.fetch": Script(piece), "sql.close": Script(None)}
    with nodes(methods) as peers:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", textwrap.dedent(PROGRAM), peers[0].address, how],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == (3 if how == "raise" else 0), done.stderr
    assert done.stdout == "[(2,)]\n"
    assert done.stderr == ""


def test_errors_of_calls_come_through() -> None:
    async def fail(_link: Any) -> None:
        raise Error("so")

    with pytest.raises(Error, match="so"):
        Calls(shared_link(NOWHERE, None)).run(fail)
