"""The databases of a whole cluster: equal hashes at equal indexes, on all nodes and in all lives; what damage excuses.

The simulation may damage a machine's files (`damage`). Until its databases have been opened, or replaced by a snapshot,
and every hash is the known one, that machine's states prove nothing; a wrong state may have reached the log as a claim,
and then every node may suspect itself when it meets that claim.
"""

from __future__ import annotations

from typing import Any

from dqlite_py.node.applier import Applier
from dqlite_py.node.database_worker import DatabaseWorker
from dqlite_py.node.runtime import NodeRuntime
from tests.simulation.cluster.checks_consensus import ConsensusFacts, Fail
from tests.simulation.cluster.checks_life import Life


class StateWatch:
    """`damaged`: machines whose files somebody changed."""

    def __init__(self, consensus: ConsensusFacts, fail: Fail) -> None:
        self._consensus = consensus
        self._fail = fail
        self.damaged: dict[str, None] = {}
        self._wrong: dict[
            tuple[str, str], None
        ] = {}  # (machine, database) with a state that is not the known one
        self._claims_may_be_wrong = False

    def damage(self, name: str) -> None:
        """The files of `name` are about to be changed."""
        self.damaged[name] = None

    def sound(self, name: str) -> None:
        """All of its data is what it should be, or gone."""
        self.damaged.pop(name, None)
        for key in [key for key in self._wrong if key[0] == name]:
            del self._wrong[key]

    # -- hooks ---------------------------------------------------------------------------------------------

    def watch(self, life: Life, runtime: NodeRuntime) -> None:
        new_applier = runtime._new_applier
        divergence: Any = runtime.divergence
        suspect = divergence.suspect
        self._watch_applier(life, runtime.applier())

        def checked_new_applier() -> Applier:
            applier = new_applier()
            self._watch_applier(life, applier)
            return applier

        def checked_suspect(database: str, claim: Any, ours: int) -> None:
            suspect(database, claim, ours)
            if not self._claims_may_be_wrong:
                self._fail(
                    f"equal states: {life.name} has {ours:016x} in {database} after entry {claim.index}, the log says "
                    f"{claim.value:016x}"
                )

        runtime._new_applier = checked_new_applier  # type: ignore[method-assign]
        divergence.suspect = checked_suspect

    def _watch_applier(self, life: Life, applier: Applier) -> None:
        start_worker, open_all = applier._start_worker, applier.open

        def checked_start_worker(name: str, *, create: bool) -> DatabaseWorker:
            worker = start_worker(name, create=create)
            self._watch_worker(life, worker)
            return worker

        async def checked_open() -> None:
            await open_all()
            if not any(name == life.name for name, _database in self._wrong):
                self.sound(life.name)

        applier._start_worker = checked_start_worker  # type: ignore[method-assign]
        applier.open = checked_open  # type: ignore[method-assign]

    def _watch_worker(self, life: Life, worker: DatabaseWorker) -> None:
        remember, consensus, name = worker._remember, self._consensus, life.name
        self._wrong.pop((name, worker.name), None)

        def checked_remember(index: int, value: int) -> None:
            remember(index, value)
            if name in self.damaged:
                self._note(name, worker.name, index, value)
                return
            consensus.state(name, worker.name, index, value)
            if worker.opened.done():
                consensus.applied_here(name, life.node, index)

        worker._remember = checked_remember  # type: ignore[method-assign]
        for index, value in list(worker._hashes.items()):  # its thread may have been faster
            checked_remember(index, value)

    def _note(self, name: str, database: str, index: int, value: int) -> None:
        known = self._consensus.hashes.get((database, index))
        if known is not None and known[0] != value:
            self._wrong[name, database] = None
            self._claims_may_be_wrong = True
