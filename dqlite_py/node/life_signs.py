"""A sign of life for whoever supervises the process: it has gone through the loop AND the journal thread.

Either may be stuck while the process and its other threads go on: a callback that never returns, an fdatasync that
never ends. A node on a full disk lives: its journal thread goes on with tasks.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from dqlite_py.errors import NodeStopped
from dqlite_py.node.runtime import NodeRuntime


def life_sign(runtime: NodeRuntime) -> Future[dict[str, Any]]:
    """Its future status; fails when the node has failed, never ends while the node is stuck. Any thread, no waiting."""
    coroutine = _live(runtime)
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, runtime.loop)
    except RuntimeError:  # the loop is closed
        coroutine.close()
        raise NodeStopped("the node is not running") from None


async def _live(runtime: NodeRuntime) -> dict[str, Any]:
    await runtime.on_journal_thread(lambda: None)
    if runtime.failed is not None:
        raise NodeStopped(f"this node has failed: {runtime.failed}")
    return runtime.status()
