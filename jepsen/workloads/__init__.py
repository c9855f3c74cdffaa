"""The workloads by name."""

from __future__ import annotations

from typing import Final

from jepsen.workloads.append import Append, AppendTransactions
from jepsen.workloads.bank import Bank
from jepsen.workloads.base import Workload
from jepsen.workloads.exactly_once import ExactlyOnce
from jepsen.workloads.ids import SequenceIds, UniqueIds
from jepsen.workloads.levels import Levels
from jepsen.workloads.long_fork import LongFork
from jepsen.workloads.register import Register
from jepsen.workloads.set import Set

WORKLOADS: Final[dict[str, type[Workload]]] = {
    kind.name: kind
    for kind in (
        Register,
        Append,
        AppendTransactions,
        Bank,
        Set,
        ExactlyOnce,
        UniqueIds,
        SequenceIds,
        LongFork,
        Levels,
    )
}
