"""Several faults at the same time, out of those that a cluster survives together."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from jepsen.cluster.api import Cluster
from jepsen.errors import JepsenError
from jepsen.nemeses.base import FAILED, REFUSED, STOPPED, Base, Nemesis, NemesisError, Value, restore
from jepsen.nemeses.clocks import ClockDrift, ClockJump
from jepsen.nemeses.damage import CorruptDatabase, CorruptJournal, Wipe
from jepsen.nemeses.disks import DiskErrors, DiskFull, PowerLoss
from jepsen.nemeses.membership import MemberChange, Transfer
from jepsen.nemeses.networks import (
    PartitionHalves,
    PartitionLeader,
    PartitionOneWay,
    PartitionRing,
    SlowNetwork,
)
from jepsen.nemeses.processes import KillAll, KillSome, PauseLeader, PauseSome

Factory = Callable[[], Nemesis]

# At most one of these at a time: they cost a copy of the data, or change who is a member. They begin first and end
# last, because their mend needs a majority.
DURABLE: Final[tuple[Factory, ...]] = (
    MemberChange,
    Wipe,
    CorruptJournal,
    partial(CorruptDatabase, row_first=False),
)
# At most one of each group: two of one would undo each other.
GROUPS: Final[tuple[tuple[Factory, ...], ...]] = (
    (PartitionHalves, PartitionRing, PartitionOneWay, PartitionLeader),
    (KillSome, KillAll, PauseLeader, PauseSome, PowerLoss),
    (ClockJump, ClockDrift),
    (DiskFull, DiskErrors),
    (SlowNetwork,),
    (Transfer,),
)


class Mixed(Base):
    """Two to four of the other faults at the same time, at most one of them costing durable data."""

    name = "mixed"
    nodes_min = 3
    own_exits = frozenset((STOPPED, REFUSED, FAILED))

    def __init__(self) -> None:
        super().__init__()
        self._running: list[Nemesis] = []

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        value: dict[str, Any] = {}
        self._running, refused = [], []
        for make in self._choose(rng):
            nemesis = make()
            if nemesis.missing(cluster) is not None:
                continue
            self._running.append(nemesis)
            try:
                value[nemesis.name] = nemesis.start(cluster, rng)
            except (JepsenError, OSError) as error:
                value[nemesis.name] = {"failed": str(error)}
                refused.append(f"{nemesis.name}: {error}")
        if len(refused) == len(self._running):
            raise NemesisError(
                f"no fault could be started: {'; '.join(refused) or 'this cluster allows none'}"
            )
        return value

    def _choose(self, rng: random.Random) -> list[Factory]:
        durable = [rng.choice(DURABLE)] if rng.random() < 0.4 else []
        groups = rng.sample(GROUPS, rng.randint(2, 3))
        return [*durable, *(rng.choice(group) for group in groups)]

    def _stop(self, cluster: Cluster) -> Value:
        value: dict[str, Any] = {}
        errors = []
        for nemesis in reversed(self._running):
            try:
                value[nemesis.name] = nemesis.stop(cluster)
            except (JepsenError, OSError) as error:
                errors.append(f"{nemesis.name}: {error}")
        self.has_damaged_database |= any(
            getattr(nemesis, "has_damaged_database", False) for nemesis in self._running
        )
        found = [text for nemesis in self._running for text in nemesis.violations]
        self.violations += [text for text in found if text not in self.violations]
        if errors:
            raise NemesisError("; ".join(errors))
        return value

    def final(self, cluster: Cluster) -> Value:
        """As the others; a part that cannot be undone at first gets a whole network and another try."""
        try:
            return self.stop(cluster)
        except NemesisError:
            restore(cluster)
            return self.stop(cluster)
        finally:
            restore(cluster)
