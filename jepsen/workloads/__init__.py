"""The workloads by name. `exactly-once` waits for client sessions in the product; its checker exists."""

from __future__ import annotations

from typing import Final

from jepsen.workloads.append import Append
from jepsen.workloads.bank import Bank
from jepsen.workloads.base import Workload
from jepsen.workloads.ids import SequenceIds, UniqueIds
from jepsen.workloads.long_fork import LongFork
from jepsen.workloads.register import Register
from jepsen.workloads.set import Set

WORKLOADS: Final[dict[str, type[Workload]]] = {
    kind.name: kind for kind in (Register, Append, Bank, Set, UniqueIds, SequenceIds, LongFork)
}

# Named in `list`, with what each waits for.
PLANNED: Final = {"exactly-once": "needs client sessions (retries that the cluster recognises)"}
