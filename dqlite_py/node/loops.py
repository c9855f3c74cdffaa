"""Which event loop a node runs on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from dqlite_py.errors import InterfaceError

LOOP_VARIABLE: Final = "DQLITE_PY_LOOP"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed; DQLITE_PY_LOOP=asyncio|uvloop says which it must be."""
    wanted = os.environ.get(LOOP_VARIABLE, "")
    if wanted not in ("", "asyncio", "uvloop"):
        raise InterfaceError(f"{LOOP_VARIABLE} is {wanted!r}: it must be 'asyncio' or 'uvloop'")
    if wanted == "asyncio":
        return None
    try:
        import uvloop
    except ImportError as error:
        if wanted:
            raise InterfaceError(f"{LOOP_VARIABLE} is 'uvloop', which cannot be imported: {error}") from None
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
