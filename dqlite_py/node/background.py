"""Background tasks that belong to the node: kept, logged when they fail, cancelled at its end. Loop thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
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


def on_thread(
    loop: asyncio.AbstractEventLoop,
    submit: Callable[[Callable[[], Any], Callable[[BaseException | None], None]], None],
    function: Callable[[], Any],
) -> asyncio.Future[Any]:
    """Have a thread run `function`, by its `submit`; the future is done when it has, or fails as it did."""
    future: asyncio.Future[Any] = loop.create_future()

    def report(error: BaseException | None) -> None:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def done(error: BaseException | None) -> None:
        loop.call_soon_threadsafe(report, error)

    submit(function, done)
    return future
