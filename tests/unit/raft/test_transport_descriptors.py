"""Few file descriptors and many strangers: the listener survives, members get in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dqlite_py.model import Address
from dqlite_py.raft.rpc import RpcError
from dqlite_py.wire.address import split_address
from tests.support.wire import FAST, WAIT_S, Station, stations

ROOT = Path(__file__).parents[3]
LIMIT = 64


@asynccontextmanager
async def server(*, lift: bool) -> AsyncIterator[tuple[Address, int]]:
    """A process with LIMIT descriptors; its address and the bound that it chose."""
    kind = "asyncio" if isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop) else "uvloop"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.low_descriptors",
        kind,
        str(LIMIT),
        str(int(lift)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            address, bound = (await process.stdout.readline()).decode().split()
        yield Address(address), int(bound)
    finally:
        process.stdin.close()
        async with asyncio.timeout(WAIT_S):
            await process.wait()


async def flood(address: Address, count: int) -> list[asyncio.StreamWriter]:
    writers = []
    for _ in range(count):
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                _, writer = await asyncio.open_connection(*split_address(address))
            writers.append(writer)
    return writers


@pytest.mark.rf("RF-22")
async def test_idle_strangers_leave_room_for_members() -> None:
    a = Station(
        1, timing=replace(FAST, handshake_ms=1000 * WAIT_S)
    )  # the flood is taken first, however slowly
    async with server(lift=False) as (address, bound), stations(a):
        assert bound == LIMIT // 2
        writers = await flood(address, 2 * LIMIT)
        try:
            assert await a.transport.call(address, "echo", 1, WAIT_S) == 1
        finally:
            for writer in writers:
                writer.transport.abort()


@pytest.mark.rf("RF-22")
async def test_the_listener_survives_running_out_of_descriptors() -> None:
    a = Station(1)
    async with server(lift=True) as (address, _), stations(a):
        for _ in range(3):
            writers = await flood(address, 2 * LIMIT)
            for writer in writers:
                writer.transport.abort()
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    assert await a.transport.call(address, "echo", 1, 2.0) == 1
                    break
                except RpcError:
                    await asyncio.sleep(0.05)
