"""How this process's malloc gives memory back. For processes that are a node; an embedding program's malloc is its own.

glibc raises two of its bounds to the size of what was freed, up to 32 and 64 MiB: requests of some MiB then come from
its pools, and those keep what is freed. A node that took 1 GiB in units of 4 MiB held 300 MiB instead of 160 MiB. A
bound that was set once stays (man 3 mallopt).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

from dqlite_py.limits import MIB

MMAP_THRESHOLD_BYTES: Final = 1 * MIB  # at least this large: a mapping of its own, given back when freed
TRIM_THRESHOLD_BYTES: Final = 4 * MIB  # free at the end of a pool: given back above this

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_SET_BY_HAND: Final = ("MALLOC_", "GLIBC_TUNABLES")


def give_memory_back(environment: Mapping[str, str]) -> bool:
    """Set both bounds; False where the environment says how malloc is to be, or malloc has no such bounds."""
    if any(name.startswith(_SET_BY_HAND) for name in environment):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    bounds = ((_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES), (_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES))
    return all(mallopt(name, value) == 1 for name, value in bounds)
