"""Whether a data folder is whole, found out without changing a byte of it: what `dqlite-py verify` does.

Every part is looked at, also when another is damaged, so that all damage is named at once. The journal is judged by the
functions that judge it at a start. A database's state hash can be compared where MANIFEST or an entry of the log
names the leader's at exactly its applied index; else it is given, for comparison with other nodes' folders.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from dqlite_py.command import CommandKind, decode_header
from dqlite_py.errors import CorruptState, Error, InterfaceError, UnknownFormat
from dqlite_py.model import Configuration, Entry, EntryKind
from dqlite_py.node.succession import RECOVERING, REJOIN, read_rejoin
from dqlite_py.offline.changes import look_at_changes
from dqlite_py.offline.folder import held_still
from dqlite_py.offline.report import DatabaseFacts, FolderReport
from dqlite_py.ports import ReadOnlyDisk
from dqlite_py.raft.journal.identity import Identity
from dqlite_py.raft.journal.inspection import JournalView, view_journal
from dqlite_py.raft.membership import decode_configuration
from dqlite_py.storage.examine import DatabaseReport, examine_database, files_size
from dqlite_py.storage.manifest import Manifest
from dqlite_py.storage.state_files import (
    CURRENT_NAME,
    MANIFEST_NAME,
    database_file,
    database_names,
    generation_path,
    read_current,
    read_manifest,
)

Progress = Callable[[str, int, int], None]
"""(what is looked at, bytes done, bytes in all)"""

NO_CLUSTER = bytes(16)


@dataclass(slots=True)
class _Log:
    """What the entries say, as far as a database can be held against it."""

    base_index: int
    last_index: int
    claims: dict[tuple[str, int], int]  # (database, index) to the leader's state hash
    configuration_index: int = 0  # of its newest configuration


def verify_folder(
    folder: str,
    *,
    scratch: str | None = None,
    quick: bool = False,
    with_databases: bool = True,
    progress: Progress | None = None,
) -> FolderReport:
    """Look at all of `folder`. scratch: where copies of its databases are made (default: beside it).

    with_databases: False leaves out what is in them (they must be there all the same).

    Raises what keeps from looking at all: InterfaceError (no such folder, or never in use), DirectoryLocked,
    UnknownFormat, StorageFull (no room for a copy), OSError.
    """
    with held_still(folder) as path:
        report = FolderReport(path)
        disk = ReadOnlyDisk()
        identity = _identity(disk, path, report)
        if identity is None:
            return report
        log = _journal(disk, path, identity, report)
        found = _state(disk, path, identity, report)
        if found is not None:
            generation, manifest = found
            if log is not None:
                _links(report, log, manifest, generation)
            names = _names(disk, generation, manifest, report)
            with tempfile.TemporaryDirectory(
                prefix="dqlite-py-verify-", dir=_scratch(path, scratch)
            ) as place:
                looked_at = names if with_databases else []
                _databases(report, generation, manifest, log, looked_at, place, quick, progress)
            look_at_changes(disk, path, names, report)
        known = 0 if log is None else log.configuration_index
        if found is not None and found[1].configuration.index > known:  # the log may end before the snapshot
            _take_members(report, found[1].configuration)
        return report


def _scratch(path: str, scratch: str | None) -> str | None:
    if scratch is not None:
        if not os.path.isdir(scratch):
            raise InterfaceError(f"there is no folder {scratch}")
        return scratch
    beside = os.path.dirname(path)
    return beside if os.access(beside, os.W_OK | os.X_OK) else None


def _identity(disk: ReadOnlyDisk, path: str, report: FolderReport) -> Identity | None:
    file = os.path.join(path, "identity")
    try:
        identity = Identity.load(disk, path)
    except CorruptState as error:
        report.damage("identity", error.message, file)
        return None
    if identity is None:
        if any(disk.exists(os.path.join(path, name)) for name in ("journal", "hardstate", "state")):
            report.damage("identity", f"{file} is missing: it was lost", file)
            return None
        raise InterfaceError(f"{path} is no data folder of a node: it has no identity")
    if identity.cluster_id == NO_CLUSTER:
        raise InterfaceError(f"{path} has never been in use: its creation was interrupted, nothing is in it")
    if disk.exists(os.path.join(path, RECOVERING)):
        report.damage(
            "identity", "a recovery of this folder was interrupted: run dqlite-py cluster recover again"
        )
    try:
        rejoin = read_rejoin(disk, path)
    except CorruptState as error:
        report.damage("identity", error.message, os.path.join(path, REJOIN))
    else:
        if rejoin is not None and rejoin.waits(identity.cluster_id):
            report.note(
                "identity", "at its next start the node sets these files aside and joins a recovered cluster"
            )
    report.cluster_id, report.node_id = identity.cluster_id.hex(), int(identity.node_id)
    return identity


def _journal(disk: ReadOnlyDisk, path: str, identity: Identity, report: FolderReport) -> _Log | None:
    try:
        view = view_journal(disk, path, cluster_id=identity.cluster_id, node_id=identity.node_id)
    except UnknownFormat:
        raise
    except Error as error:
        file = str(getattr(error, "details", {}).get("file", ""))
        report.damage("hardstate" if "hardstate" in file else "journal", error.message, file)
        return None
    try:
        found = view.report
        report.term, report.voted_for = int(found.hard_state.term), int(found.hard_state.voted_for)
        report.first_index, report.last_index = int(found.base_index) + 1, int(found.last_index)
        report.last_term = int(found.last_term)
        if found.torn_at is not None:
            name, offset = found.torn_at
            report.note("journal", f"a write that was never acknowledged is torn at offset {offset}", name)
        if found.leftover_count:
            report.note("journal", f"{found.leftover_count} files that the next start removes")
        if found.last_term > found.hard_state.term:
            report.damage(
                "hardstate",
                f"the log ends in term {found.last_term}, which the hard state (term {found.hard_state.term}) does "
                "not know: it was replaced by an older one",
                os.path.join(path, "hardstate"),
            )
        return _entries(view, report, os.path.join(path, "journal"))
    finally:
        view.close()


def _entries(view: JournalView, report: FolderReport, file: str) -> _Log:
    log = _Log(view.base_index, view.last_index, {})
    for entry in view.entries(view.base_index + 1):
        try:
            _entry(entry, log, report)
        except UnknownFormat:
            raise
        except Error as error:
            report.damage("journal", f"entry {entry.index} of term {entry.term}: {error.message}", file)
    return log


def _entry(entry: Entry, log: _Log, report: FolderReport) -> None:
    if entry.kind is EntryKind.CONFIGURATION:
        _take_members(report, decode_configuration(entry))
        log.configuration_index = int(entry.index)
    elif entry.kind is EntryKind.COMMAND:
        header = decode_header(entry.payload)
        if header.kind is CommandKind.UNITS and header.state_hash is not None:
            log.claims[header.database, header.state_hash.index] = header.state_hash.value


def _take_members(report: FolderReport, configuration: Configuration) -> None:
    report.members = [
        {"id": int(m.id), "address": str(m.address), "role": m.role.name.lower()}
        for m in configuration.members
    ]


def _state(
    disk: ReadOnlyDisk, path: str, identity: Identity, report: FolderReport
) -> tuple[str, Manifest] | None:
    state = os.path.join(path, "state")
    current = os.path.join(state, CURRENT_NAME)
    if not disk.exists(current):
        report.damage(
            "state", f"{current} is missing: the databases, or the record of which are theirs, are lost"
        )
        return None
    try:
        number = read_current(disk, current)
    except CorruptState as error:
        report.damage("state", error.message, current)
        return None
    report.generation = number
    generation = generation_path(state, number)
    if not disk.exists(generation):
        report.damage("state", f"{generation} is missing, which {current} names", generation)
        return None
    try:
        manifest = read_manifest(disk, os.path.join(generation, MANIFEST_NAME), identity.cluster_id)
    except UnknownFormat:
        raise
    except Error as error:
        report.damage("snapshot", error.message, os.path.join(generation, MANIFEST_NAME))
        # The databases are there to be looked at all the same.
        return generation, Manifest.empty(identity.cluster_id)
    report.snapshot_index, report.snapshot_term = int(manifest.index), int(manifest.term)
    return generation, manifest


def _links(report: FolderReport, log: _Log, manifest: Manifest, generation: str) -> None:
    """The rule of node.startup.reconcile."""
    if log.base_index > manifest.index and report.snapshot_index is not None:
        report.damage(
            "snapshot",
            f"the log begins after index {log.base_index}, but the databases are complete only to {manifest.index}: "
            "entries between are lost",
            os.path.join(generation, MANIFEST_NAME),
        )
    elif log.last_index < manifest.index:
        report.note(
            "journal", f"the log ends before the snapshot at {manifest.index}: the next start resets it"
        )


def _names(disk: ReadOnlyDisk, generation: str, manifest: Manifest, report: FolderReport) -> list[str]:
    try:
        names = database_names(disk, generation)
    except CorruptState as error:
        report.damage("state", error.message, str(error.details.get("file", "")))
        names = [
            d.name for d in manifest.databases if disk.exists(os.path.join(generation, database_file(d.name)))
        ]
    for database in manifest.databases:
        if database.name not in names:
            report.damage(
                f"database {database.name}",
                f"it is listed at log index {database.applied_index}, but its file is missing",
                os.path.join(generation, database_file(database.name)),
            )
    return names


def _databases(
    report: FolderReport, generation: str, manifest: Manifest, log: _Log | None, names: list[str],
    scratch: str, quick: bool, progress: Progress | None,
) -> None:  # fmt: skip
    paths = {name: os.path.join(generation, database_file(name)) for name in names}
    total = sum(sum(files_size(path)) for path in paths.values())
    done = 0
    for name, path in paths.items():

        def advanced(count: int, name: str = name) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(name, done, total)

        if progress is not None:
            progress(name, done, total)
        if manifest.get(name) is None and sum(files_size(path)) == 0:
            report.note(f"database {name}", "its creation was interrupted; the log makes it anew", path)
            continue
        found = examine_database(path, name, scratch, quick=quick, advanced=advanced)
        _judge(report, found, path, manifest, log)


def _judge(
    report: FolderReport, found: DatabaseReport, path: str, manifest: Manifest, log: _Log | None
) -> None:
    part = f"database {found.name}"
    for problem in found.problems:
        report.damage(part, problem, path)
    for note in found.notes:
        report.note(part, note, path)
    listed, index = manifest.get(found.name), found.applied_index
    if index is not None and listed is not None and index < listed.applied_index:
        report.damage(
            part,
            f"it stands at log index {index}, but was durable at {listed.applied_index}: the file was replaced or has "
            "lost committed writes",
            path,
        )
    if index is not None and log is not None and index > max(log.last_index, manifest.index):
        report.damage(part, f"it stands at log index {index}, but the log ends at {log.last_index}", path)
    matches: bool | None = None
    if index is not None and found.state_hash is not None:
        expected = None if log is None else log.claims.get((found.name, int(index)))
        if expected is None and listed is not None and listed.applied_index == index:
            expected = listed.state_hash
        if expected is not None:
            matches = expected == found.state_hash
            if not matches:
                report.damage(
                    part,
                    f"its state hash at log index {index} is {found.state_hash:016x} instead of {expected:016x}: "
                    "its contents were changed outside the log",
                    path,
                )
    report.databases.append(
        DatabaseFacts(
            found.name,
            None if index is None else int(index),
            found.size_bytes + found.wal_bytes,
            found.page_count,
            None if found.state_hash is None else f"{found.state_hash:016x}",
            matches,
        )
    )
