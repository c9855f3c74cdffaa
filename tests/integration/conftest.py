"""libuv opens one pair of pipes per process and keeps it: open it before descriptors are counted."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("uvloop") is not None:
    import uvloop

    uvloop.new_event_loop().close()
