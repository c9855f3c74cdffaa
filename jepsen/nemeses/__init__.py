"""Faults by name. What they do to a cluster is in the modules; what they need, `missing` says.

`NEMESES[name]()` makes one for one run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from jepsen.nemeses.base import Nemesis, NemesisError, restore
from jepsen.nemeses.clocks import ClockDrift, ClockJump
from jepsen.nemeses.damage import CorruptDatabase, CorruptJournal, Wipe
from jepsen.nemeses.disks import DiskErrors, DiskFull, PowerLoss
from jepsen.nemeses.membership import MemberChange, Transfer
from jepsen.nemeses.mixed import Mixed
from jepsen.nemeses.networks import (
    PartitionHalves,
    PartitionLeader,
    PartitionOne,
    PartitionOneWay,
    PartitionRing,
    SlowNetwork,
)
from jepsen.nemeses.processes import KillAll, KillOne, KillSome, PauseLeader, PauseOne, PauseSome
from jepsen.nemeses.roles import Roles

_KINDS: Final = (
    KillOne,
    KillSome,
    KillAll,
    PauseOne,
    PauseSome,
    PauseLeader,
    PartitionOne,
    PartitionHalves,
    PartitionRing,
    PartitionOneWay,
    PartitionLeader,
    SlowNetwork,
    ClockJump,
    ClockDrift,
    MemberChange,
    Transfer,
    Roles,
    DiskFull,
    DiskErrors,
    PowerLoss,
    CorruptJournal,
    CorruptDatabase,
    Wipe,
    Mixed,
)

NEMESES: Final[dict[str, Callable[[], Nemesis]]] = {kind.name: kind for kind in _KINDS}

__all__ = ["NEMESES", "Nemesis", "NemesisError", "restore"]
