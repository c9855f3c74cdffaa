"""A call at work: what its handler knows of it, and the credit of its stream. Loop thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from dqlite_py.errors import InterfaceError, OutcomeUnknown, RequestTooLarge
from dqlite_py.limits import STREAM_CREDITS_MAX
from dqlite_py.wire.dqlite.extension import BODY_BYTES_MAX, AnswerKind
from dqlite_py.wire.dqlite.extension_flow import Queued
from dqlite_py.wire.rpc import pack_value

if TYPE_CHECKING:
    from dqlite_py.server.extended.connection import ExtendedConnection


class RunningCall:
    """Implements node.programs.CallContext. `is_wanted`: somebody waits for its answer."""

    __slots__ = (
        "_credit",
        "_credited",
        "_ends_when_cancelled",
        "connection",
        "id",
        "is_wanted",
        "last",
        "task",
    )

    def __init__(self, connection: ExtendedConnection, call_id: int, ends_when_cancelled: bool) -> None:
        self.connection = connection
        self.id = call_id
        self.is_wanted = True
        self.last: Queued | None = None  # of its answers, as far as they are queued
        self.task: asyncio.Task[None]
        self._ends_when_cancelled = ends_when_cancelled
        self._credit = 0
        self._credited: asyncio.Event | None = None

    def not_wanted(self) -> None:
        """The caller has cancelled it, or is gone."""
        if self.is_wanted:
            self.is_wanted = False
            if self._ends_when_cancelled:
                self.task.cancel()

    def allow(self, pieces: int) -> None:
        """The caller takes so many more."""
        self._credit = min(STREAM_CREDITS_MAX, self._credit + pieces)
        if self._credited is not None:
            self._credited.set()

    async def more(self, value: Any) -> None:
        while not self._credit:
            self._credited = asyncio.Event()
            await self._credited.wait()
        self._credit -= 1
        await self.connection.answer(self, AnswerKind.MORE, pack_value(value))


def packed_result(result: Any) -> bytes:
    """The handler has done its work: the caller must not hear that nothing happened."""
    try:
        packed = pack_value(result)
    except (InterfaceError, RequestTooLarge) as error:
        raise OutcomeUnknown(f"it was done, but the answer cannot be sent: {error.message}") from None
    if len(packed) > BODY_BYTES_MAX:
        raise OutcomeUnknown(f"it was done, but its answer of {len(packed)} bytes cannot be sent")
    return packed
