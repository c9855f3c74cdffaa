"""Programs that follow changes: who waits to begin holds up nobody who reads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from dqlite_py.changes import Change, ChangeKind
from dqlite_py.node.change_services import OPENING_THREADS, ChangeServices
from dqlite_py.node.programs import ProgramMethods
from tests.unit.client.cluster import wait_until

WAIT_S = 60.0
CHANGE = Change(8, "t", ChangeKind.INSERT, {"k": 1}, None, {"k": 1}, True)


class OneEntry:
    """A cursor with one change, which comes when the test says so."""

    def __init__(self) -> None:
        self.after = 7
        self._wake: Callable[[], None] | None = None
        self._found: list[Change] | None = None

    def read(self) -> list[Change] | None:
        found, self._found = self._found, None
        if found is not None:
            self.after = 8
        return found

    def when_changed(self, wake: Callable[[], None]) -> bool:
        self._wake = wake
        return True

    def forget(self, _wake: Callable[[], None]) -> None:
        self._wake = None

    def close(self) -> None:
        """Nothing is held."""

    @property
    def is_waited_for(self) -> bool:
        return self._wake is not None

    def come(self) -> None:
        self._found = [CHANGE]
        assert self._wake is not None
        self._wake()


class Followers:
    """Of database "held" nobody can follow the changes before `goes_on`."""

    def __init__(self) -> None:
        self.cursor = OneEntry()
        self.goes_on = threading.Event()
        self.waiting = 0

    def follow(self, database: str, _after: int | None, _timeout_s: float) -> Any:
        if database == "held":
            self.waiting += 1
            self.goes_on.wait(WAIT_S)
        return self.cursor


class Context:
    def __init__(self) -> None:
        self.pieces: asyncio.Queue[Any] = asyncio.Queue()

    async def more(self, value: Any) -> None:
        await self.pieces.put(value)


async def test_who_waits_to_begin_holds_up_nobody_who_follows() -> None:
    followers, programs = Followers(), ProgramMethods()
    services = ChangeServices(followers)  # type: ignore[arg-type]
    services.register(programs)
    method = programs.get("changes.follow")
    assert method is not None
    quick = Context()
    tasks = [asyncio.ensure_future(method.handler(quick, {"database": "app", "timeout_s": 5.0}))]
    try:
        async with asyncio.timeout(WAIT_S):
            assert await quick.pieces.get() == [7, []]
            await asyncio.to_thread(wait_until, lambda: followers.cursor.is_waited_for)
            held = {"database": "held", "timeout_s": 3600.0}
            tasks += [asyncio.ensure_future(method.handler(Context(), held)) for _ in range(OPENING_THREADS)]
            await asyncio.to_thread(wait_until, lambda: followers.waiting == OPENING_THREADS)
            followers.cursor.come()
            position, [change] = await quick.pieces.get()
            assert (position, change[0]) == (8, 8)
    finally:
        followers.goes_on.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        services.close()
