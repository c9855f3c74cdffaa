"""A transport in a process with few file descriptors: prints its address, answers "echo", ends with its stdin.

Arguments: event loop (asyncio or uvloop), descriptor limit, whether to lift the listener's own bound (0 or 1).
"""

from __future__ import annotations

import asyncio
import resource
import sys
from typing import Any

from tests.support.wire import IMPATIENT, Station, stations


async def echo(context: Any, body: Any) -> Any:
    return body


async def serve(lift: bool) -> None:
    station = Station(2, timing=IMPATIENT)
    station.transport.register("echo", echo)
    async with stations(station):
        if lift:
            station.transport._listener.incoming_max = 10_000
        print(station.address, station.transport._listener.incoming_max, flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    loop, limit, lift = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if loop == "uvloop":
        import uvloop

        uvloop.run(serve(lift))
    else:
        asyncio.run(serve(lift))


if __name__ == "__main__":
    main()
