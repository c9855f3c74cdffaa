"""Watches free disk space: below the reserve, new writes are refused and reads go on. Loop thread.

The reserve exists so that what raft already accepted always fits. A follower below it takes no more entries (it lags
instead of failing). Service resumes by itself when space returns (with some slack, so that it does not flap).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from dqlite_py.errors import StorageFull
from dqlite_py.limits import MIB
from dqlite_py.logs import event
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.ports import Disk

log = logging.getLogger("dqlite_py.storage")

REASON = "storage"
CHECK_EVERY_S = 0.5


class StorageWatch:
    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        disk: Disk,
        folder: str,
        reserve_bytes: int,
        view: ClusterView,
        on_change: Callable[[bool], None],
        on_worker: Callable[..., Awaitable[Any]],
    ) -> None:
        self._loop = loop
        self._disk = disk
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._view = view
        self._on_change = on_change
        self._on_worker = on_worker
        self._task: asyncio.Task[None] | None = None
        self.low = False
        self.journal_full = False
        self.free_bytes = 0

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=2.0)

    async def _run(self) -> None:
        while True:
            await self.check()
            await asyncio.sleep(CHECK_EVERY_S)

    async def check(self) -> None:
        """Measure now and block or unblock writes."""
        try:
            self.free_bytes = int(await self._on_worker(self._disk.free_bytes, self._folder))
        except OSError as error:
            event(log, logging.ERROR, "free space cannot be read", folder=self._folder, reason=error)
            return
        self._judge()

    def set_journal_full(self, full: bool) -> None:
        """The journal waits for space (or has got it): a reserve was not enough, or somebody else took it."""
        self.journal_full = full
        self._judge()

    def _judge(self) -> None:
        if not self.low and (self.journal_full or self.free_bytes < self._reserve_bytes):
            self._set(True)
        elif (
            self.low
            and not self.journal_full
            and self.free_bytes > self._reserve_bytes + self._reserve_bytes // 4
        ):
            self._set(False)

    def _set(self, low: bool) -> None:
        self.low = low
        self._on_change(low)
        if low:
            event(
                log,
                logging.ERROR,
                "the disk is nearly full: writes are refused until space returns",
                folder=self._folder,
                free_mib=self.free_bytes // MIB,
                reserve_mib=self._reserve_bytes // MIB,
            )
            self._view.block(REASON, self._error, writes_only=True)
        else:
            event(
                log,
                logging.WARNING,
                "the disk has space again: writes resume",
                folder=self._folder,
                free_mib=self.free_bytes // MIB,
            )
            self._view.unblock(REASON)

    def _error(self) -> StorageFull:
        return StorageFull(
            f"the disk of {self._folder} has {self.free_bytes // MIB} MiB free, below the reserve of "
            f"{self._reserve_bytes // MIB} MiB: free space, then writes resume by themselves"
        )
