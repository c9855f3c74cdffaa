"""A receiving node as a process of its own, for tests that kill it: python -m tests.support.snapshot_receiver
PORT FOLDER [KILL_AT]. Fetches from PORT, activates, exits 0; with KILL_AT it kills itself (SIGKILL) at that I/O
call. Also the two ends of its RPC: length-prefixed msgpack over a socket, one answer after the other.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack

from dqlite_py.model import NodeId
from dqlite_py.node.snapshot_fetch import SnapshotFetcher
from dqlite_py.storage.state_folder import StateFolder
from tests.support.snapshots import CLUSTER, CountingDisk, Source


async def read_value(reader: asyncio.StreamReader) -> Any:
    size = int.from_bytes(await reader.readexactly(4), "little")
    return msgpack.unpackb(await reader.readexactly(size), raw=False)


def write_value(writer: asyncio.StreamWriter, value: Any) -> None:
    data = msgpack.packb(value, use_bin_type=True)
    writer.write(len(data).to_bytes(4, "little") + data)


async def serve(source: Source) -> asyncio.Server:
    """Serve `source` on a free port of 127.0.0.1."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                method, body = await read_value(reader)
                write_value(writer, await source.call(NodeId(3), method, body, 10.0))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the receiver was killed, as intended
        finally:
            writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", 0)


def _kill() -> BaseException:
    os.kill(os.getpid(), signal.SIGKILL)
    return AssertionError("killed")


async def receive(port: int, folder: str, kill_at: int) -> None:
    disk = CountingDisk(kill_at, _kill)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lock = asyncio.Lock()

    async def call(target: object, method: str, body: Any, timeout_s: float) -> Any:
        async with lock:
            write_value(writer, [method, body])
            return await read_value(reader)

    with ThreadPoolExecutor(2) as executor:
        state = StateFolder.open(folder, disk, CLUSTER)
        fetcher = SnapshotFetcher(call=call, state_folder=state, disk=disk, executor=executor)
        fetched = await fetcher.fetch(NodeId(3))
        state.activate(fetched.generation_path, fetched.manifest)
    writer.close()
    print(disk.calls)


if __name__ == "__main__":
    asyncio.run(receive(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0))
