"""Are these servers of dqlite itself? Asked with the request that opens our extension. Loop thread.

A node of ours answers it. dqlite refuses it or, 1.11 for one, says nothing and nothing more on that connection: then it
is asked who leads on another one, and whoever answers that before the first request does not know the extension.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Final

from dqlite_py.client.stock.connection import StockConnection, Unreachable, dial
from dqlite_py.client.stock.failures import Doubtful
from dqlite_py.model import Address
from dqlite_py.wire.dqlite.frames import Frame
from dqlite_py.wire.dqlite.primitives import encode_blob, encode_uint64
from dqlite_py.wire.dqlite.responses import Failure, ResponseType, decode_response
from dqlite_py.wire.dqlite.violations import ProtocolViolation

_EXTEND: Final = 0xD0  # its answer, too
_REFUSALS: Final = 0xD0_0000  # codes from here on are of nodes that know the extension
_REQUEST: Final = Frame(_EXTEND, 0, encode_uint64(1) + encode_uint64(0) + encode_blob(b""))
_ANSWER_S: Final = 0.3
PROBE_S: Final = 2.0


async def are_stock(
    addresses: Iterable[Address], context: ssl.SSLContext | None, timeout_s: float = PROBE_S
) -> bool:
    """Whether the first server that lets itself be known is one of dqlite's; False when none does in time."""
    tasks = [asyncio.ensure_future(_is_stock(address, context, timeout_s)) for address in addresses]
    try:
        for answered in asyncio.as_completed(tasks):
            if (found := await answered) is not None:
                return found
        return False
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _is_stock(address: Address, context: ssl.SSLContext | None, timeout_s: float) -> bool | None:
    connection: StockConnection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = await dial(address, context)
            connection.send_frame(_REQUEST)
            answer = asyncio.ensure_future(connection.receive_frame())
            try:
                done, _ = await asyncio.wait([answer], timeout=_ANSWER_S)
                if not done and not await _says_who_leads(address, context):
                    return None
                return _judged(answer.result()) if answer.done() else True
            finally:
                answer.cancel()
                await asyncio.gather(answer, return_exceptions=True)
    except (TimeoutError, Unreachable, Doubtful):
        return None
    finally:
        if connection is not None:
            connection.abort("it is known")


async def _says_who_leads(address: Address, context: ssl.SSLContext | None) -> bool:
    connection = await dial(address, context)
    try:
        await connection.leader()
    finally:
        connection.abort("it is known")
    return True


def _judged(frame: Frame) -> bool | None:
    if frame.type == _EXTEND:
        return False
    if frame.type != ResponseType.FAILURE:
        return None
    try:
        failure = decode_response(frame)
    except ProtocolViolation:
        return None
    return isinstance(failure, Failure) and failure.code < _REFUSALS
