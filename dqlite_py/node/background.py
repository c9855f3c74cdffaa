"""Background tasks that belong to the node: kept, logged when they fail, cancelled at its end. Loop thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from dqlite_py.logs import event

log = logging.getLogger("dqlite_py.node")


class BackgroundTasks:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their start

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            event(log, logging.ERROR, "a background task failed", reason=repr(error))

    def cancel(self) -> None:
        for task in list(self._tasks):
            task.cancel()
