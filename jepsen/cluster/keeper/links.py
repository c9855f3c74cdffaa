"""Which traffic between nodes passes now, and how late. Loop thread of the keeper; moves no bytes itself."""

from __future__ import annotations

import asyncio


class Links:
    """Directed cuts between node names, and one delay for all. A name of None is nobody's: never cut."""

    def __init__(self) -> None:
        self._cuts: set[tuple[str, str]] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self.delay_s = 0.0

    @property
    def cuts(self) -> list[tuple[str, str]]:
        return sorted(self._cuts)

    def cut(self, source: str, destination: str) -> None:
        self._cuts.add((source, destination))

    def heal(self) -> None:
        self._cuts.clear()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def is_cut(self, source: str | None, destination: str | None) -> bool:
        return (source, destination) in self._cuts

    async def wait_open(self, source: str | None, destination: str | None) -> None:
        """Return once nothing cuts `source` from `destination`."""
        while self.is_cut(source, destination):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
