"""The databases of a whole cluster: equal hashes at equal indexes, on all nodes and in all lives; what damage excuses.

The simulation may damage a machine's files (`damage`). Until its databases have been opened, or replaced by a snapshot,
and every hash is the known one, that machine's states prove nothing; a wrong state may have reached the log as a claim,
and then every node may suspect itself when it meets that claim.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from dqlite_py.errors import Error
from dqlite_py.model import Entry
from dqlite_py.node.applier import Applier
from dqlite_py.node.database_worker import DatabaseWorker
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.storage.manifest import Manifest
from dqlite_py.storage.meta import UNKNOWN_MAKER, MadeBy
from tests.simulation.cluster.checks_consensus import ConsensusFacts, Fail
from tests.simulation.cluster.checks_life import Life
from tests.simulation.cluster.clients import DATABASES


class StateWatch:
    """`damaged`: machines whose files somebody changed."""

    def __init__(self, consensus: ConsensusFacts, fail: Fail) -> None:
        self._consensus = consensus
        self._fail = fail
        self.damaged: dict[str, None] = {}
        self.on_results: Callable[[str, Entry, Any], None] = lambda _name, _entry, _results: None
        self._wrong: dict[
            tuple[str, str], None
        ] = {}  # (machine, database) with a state that is not the known one
        self._claims_may_be_wrong = False
        self._changed: dict[str, list[int]] = {}  # database -> entries that changed it, ascending

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

        self._watch_folder(life, runtime.opened.state)
        runtime._new_applier = checked_new_applier  # type: ignore[method-assign]
        divergence.suspect = checked_suspect

    def _watch_folder(self, life: Life, folder: Any) -> None:
        write_manifest, activate = folder.write_manifest, folder.activate

        def checked_write_manifest(manifest: Manifest) -> None:
            self.recorded(life, manifest)
            write_manifest(manifest)

        def checked_activate(generation_path: str, manifest: Manifest) -> None:
            self.recorded(life, manifest)
            activate(generation_path, manifest)

        folder.write_manifest, folder.activate = checked_write_manifest, checked_activate

    def recorded(self, life: Life, manifest: Manifest) -> None:
        """`life` is about to call its databases a state at the manifest's index: each holds all up to there. (Those
        that come and go may have been made anew since.)"""
        if life.name in self.damaged:
            return
        for database in manifest.databases:
            changed = self._changed.get(database.name, []) if database.name in DATABASES else []
            position = bisect_left(changed, database.applied_index + 1)
            if position < len(changed) and changed[position] <= manifest.index:
                self._fail(
                    f"snapshots: {life.name} records {database.name} of entry {database.applied_index} as its state at "
                    f"{manifest.index}, entry {changed[position]} is not in it"
                )

    def compacted(self, life: Life, base: int, durable: int) -> None:
        """The journal of `life` was compacted up to `base`; its manifest, on the disk, is of entry `durable`."""
        if base > durable:
            self._fail(
                f"compaction: {life.name} dropped entries up to {base}, its databases are recorded as durable at "
                f"{durable}"
            )

    def _watch_applier(self, life: Life, applier: Applier) -> None:
        start_worker, open_all, applied = applier._start_worker, applier.open, applier._on_entry_applied

        def checked_start_worker(
            name: str, *, create: bool, made_by: MadeBy = UNKNOWN_MAKER
        ) -> DatabaseWorker:
            worker = start_worker(name, create=create, made_by=made_by)
            self._watch_worker(life, worker)
            return worker

        async def checked_open() -> None:
            await open_all()
            if not any(name == life.name for name, _database in self._wrong):
                self.sound(life.name)

        def checked_applied(entry: Entry, results: Any, error: Error | None) -> None:
            if results is not None and life.name not in self.damaged:
                self.on_results(life.name, entry, results)
            applied(entry, results, error)

        applier._on_entry_applied = checked_applied
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
            changed = self._changed.setdefault(worker.name, [])
            if not changed or index > changed[-1]:
                changed.append(index)
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
