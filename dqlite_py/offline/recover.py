"""After the majority is lost for good: a new cluster of one member, made of a surviving node's folder.

What the folder holds is taken over whole: its databases, and every entry of its log, committed or not, for nobody is
left who could tell. The new cluster has an id of its own, in every file; a log entry that makes this node the only
member closes what was taken over, in a term above all that the folder knows. Nodes of the old cluster can therefore
neither vote nor send entries here, whatever they hold; they find out and join anew (node.superseded).

ORDER, so that a crash at any point leaves a folder that does not start and that the same command completes: the note
RECOVERING first; the old journal, hard state and identity to a folder beside; the new ones from those; RECOVERED; the
note is removed last. The databases are not touched. Blocking; no node runs on the folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from dqlite_py.command import decode_header
from dqlite_py.errors import CorruptState, InterfaceError
from dqlite_py.limits import MIB, SEGMENT_BYTES
from dqlite_py.model import (
    Address,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    Member,
    NodeId,
    Role,
    Term,
)
from dqlite_py.node.startup import new_cluster_id
from dqlite_py.node.succession import (
    RECOVERING,
    REJOIN,
    Predecessor,
    Recovery,
    free_name,
    move,
    read_predecessors,
    read_recovery,
    read_rejoin,
    remove,
    write_predecessors,
    write_recovery,
)
from dqlite_py.offline.compare import newer_folders
from dqlite_py.offline.report import FolderReport
from dqlite_py.offline.verify import Progress, verify_folder
from dqlite_py.ports import Disk, ReadOnlyDisk, SystemDisk
from dqlite_py.raft.journal import Identity, Journal, JournalBatch, lock_folder
from dqlite_py.raft.journal.inspection import JournalView, view_journal
from dqlite_py.raft.membership import decode_configuration, encode_configuration
from dqlite_py.storage.manifest import Manifest
from dqlite_py.storage.sealedfile import remove_folder, write_temporary
from dqlite_py.storage.state_files import (
    CURRENT_NAME,
    MANIFEST_NAME,
    generation_path,
    read_current,
    read_manifest,
)

ASIDE_PREFIX: Final = "before-recovery"
_BATCH_BYTES: Final = 1 * MIB
_MOVED: Final = ("journal", "hardstate", "changes", "incoming", "outgoing")


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """What a recovery of a folder would do.

    certain_index: up to it every entry is known to be committed; uncertain_count: entries behind it, which count as
    committed from then on. newest_us: the log time of the newest command, microseconds since 1970, 0: none is known.
    newer: other folders' reports that reach further than this one.
    """

    folder: str
    report: FolderReport
    address: Address
    role: str  # in the old cluster; "none": it was no member any more
    last_term: int
    last_index: int
    certain_index: int
    uncertain_count: int
    newest_us: int
    others: tuple[dict[str, Any], ...]  # members of the old configuration that would be no members
    newer: tuple[str, ...]
    interrupted: Recovery | None = None

    def to_wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "folder": self.folder,
            "old_cluster_id": self.report.cluster_id,
            "node_id": self.report.node_id,
            "address": str(self.address),
            "role": self.role,
            "last_term": self.last_term,
            "last_index": self.last_index,
            "certain_index": self.certain_index,
            "uncertain_entries": self.uncertain_count,
            "newest_write_us": self.newest_us,
            "left_out": list(self.others),
            "newer_folders": list(self.newer),
        }


@dataclass(frozen=True, slots=True)
class Recovered:
    old_cluster_id: bytes
    cluster_id: bytes
    last_index: int
    aside: str


def plan_recovery(
    folder: str,
    *,
    address: Address | None = None,
    others: Sequence[dict[str, Any]] = (),
    force: bool = False,
    with_databases: bool = True,
    scratch: str | None = None,
    progress: Progress | None = None,
) -> RecoveryPlan:
    """Look at `folder` and change nothing. others: `verify --json` of other nodes' folders, to compare with.

    address: where the node will be (default: where it was). force: also for a spare, which was sent no data, and a
    folder that is about to join another recovered cluster.
    with_databases: False does not look into the databases. Raises InterfaceError (no such member, reports of another
    cluster, a recovery was interrupted under another address), CorruptState when the folder is damaged, and what
    `verify_folder` raises.
    """
    path = os.path.abspath(folder)
    disk = ReadOnlyDisk()
    interrupted = read_recovery(disk, path)
    if interrupted is not None:
        if address is not None and address != interrupted.address:
            raise InterfaceError(
                f"the interrupted recovery of {path} was begun with --address {interrupted.address}: complete it with "
                "that one; a node that starts elsewhere tells its cluster so"
            )
        return _resumed(path, interrupted)
    identity = Identity.load(disk, path)
    rejoin = read_rejoin(disk, path)
    if rejoin is not None and not force and (identity is None or rejoin.waits(identity.cluster_id)):
        raise InterfaceError(
            f"{path} is about to join cluster {rejoin.new.hex()}, which was recovered already: start the node, or "
            f"recover a node of that one (--force makes another cluster of this folder, or of {rejoin.aside} in it)"
        )
    report = verify_folder(
        path, scratch=scratch, quick=True, with_databases=with_databases, progress=progress
    )
    if not report.is_sound:
        lines = "; ".join(f"{f.part}: {f.message}" for f in report.findings if f.severity == "damage")
        raise CorruptState(
            f"{path} is damaged, another node's folder may not be: {lines}", file=path, expected="a sound folder",
            found=lines[:300],
        )  # fmt: skip
    assert identity is not None
    me = next((m for m in report.members if m["id"] == report.node_id), None)
    role = str(me["role"]) if me else "none"
    if role == "spare" and not force:
        raise InterfaceError(
            f"node {report.node_id} is a spare, which was sent no data: recover a voter or a stand-by"
        )
    if address is None:
        if me is None:
            raise InterfaceError(
                f"node {report.node_id} is no member of its cluster (any more): say its --address"
            )
        address = Address(str(me["address"]))
    snapshot = report.snapshot_index or 0
    last = _last(disk, path, identity, snapshot, report.snapshot_term or 0)
    certain = max([snapshot, *(d.applied_index or 0 for d in report.databases)])
    return RecoveryPlan(
        path,
        report,
        address,
        role,
        last[0],
        last[1],
        certain,
        max(0, last[1] - certain),
        last[2],
        tuple(m for m in report.members if m["id"] != report.node_id),
        newer_folders(others, report.cluster_id, last[:2]),
    )


def _resumed(path: str, interrupted: Recovery) -> RecoveryPlan:
    report = FolderReport(path, cluster_id=interrupted.old.hex())
    return RecoveryPlan(path, report, interrupted.address, "", 0, 0, 0, 0, 0, (), (), interrupted)


def _last(
    disk: Disk, path: str, identity: Identity, snapshot: int, snapshot_term: int
) -> tuple[int, int, int]:
    """(term, index) of the last entry that would be taken over, and the newest log time."""
    view = view_journal(disk, path, cluster_id=identity.cluster_id, node_id=identity.node_id)
    try:
        first = _first_kept(view, snapshot, snapshot_term)
        if first is None:
            return snapshot_term, snapshot, 0
        newest = 0
        for entry in view.entries(first):
            if entry.kind is EntryKind.COMMAND:
                newest = max(newest, decode_header(entry.payload).now_us)
        last = view.last_index
        return (int(view.term_at(last)) if last else 0), last, newest
    finally:
        view.close()


def _first_kept(view: JournalView, index: int, term: int) -> int | None:
    """The first entry behind the snapshot, None when the log is older than it (node.startup.reconcile)."""
    if index == 0:
        return 1
    if view.last_index < index or view.term_at(index) != term:
        return None
    return index + 1


# -- doing it


def recover(plan: RecoveryPlan, disk: Disk | None = None) -> Recovered:
    """Carry out a plan, or complete an interrupted one; raises DirectoryLocked, OSError, what reading raises.

    After an error run it again: the folder does not start until it is complete.
    """
    disk = disk or SystemDisk()
    lock = lock_folder(disk, plan.folder)
    try:
        recovery = read_recovery(disk, plan.folder)
        if recovery is None:
            identity = Identity.load(disk, plan.folder)
            if identity is None or identity.cluster_id.hex() != plan.report.cluster_id:
                raise InterfaceError(f"{plan.folder} has changed since it was looked at")
            aside = free_name(disk, plan.folder, ASIDE_PREFIX)
            recovery = Recovery(identity.cluster_id, new_cluster_id(), aside, plan.address)
            write_recovery(disk, plan.folder, recovery)
        return _carry_out(disk, plan.folder, recovery)
    finally:
        lock.close()


def _carry_out(disk: Disk, folder: str, recovery: Recovery) -> Recovered:
    aside = os.path.join(folder, recovery.aside)
    disk.mkdir(aside)
    disk.fsync_dir(folder)
    _set_aside(disk, folder, aside, recovery)
    owner = Identity.load(disk, aside)
    if owner is None or owner.cluster_id != recovery.old:
        raise CorruptState(
            f"{aside} does not hold the old identity",
            file=aside,
            expected="the old identity",
            found="another or none",
        )
    state = os.path.join(folder, "state")
    generation = generation_path(state, read_current(disk, os.path.join(state, CURRENT_NAME)))
    old = _old_manifest(disk, generation, aside, recovery.old)
    _clear_partial(disk, folder)
    last = _write_journal(disk, folder, aside, owner, old, recovery)
    new = replace(old, cluster_id=recovery.new)
    _replace(disk, os.path.join(generation, MANIFEST_NAME), new.to_bytes())
    Identity(recovery.new, owner.node_id, owner.created_us).save(disk, folder)
    remove(disk, folder, REJOIN)  # it was for the old cluster
    known = [p for p in read_predecessors(disk, folder) if p.cluster_id != recovery.old]
    write_predecessors(disk, folder, (*known, Predecessor(recovery.old, *last)))
    remove(disk, folder, RECOVERING)
    return Recovered(recovery.old, recovery.new, last[1] + 1, aside)


def _set_aside(disk: Disk, folder: str, aside: str, recovery: Recovery) -> None:
    """Each once: what is there already was moved before, and a file of its name in `folder` is a new one."""
    for name in _MOVED:
        if not disk.exists(os.path.join(aside, name)):
            move(disk, os.path.join(folder, name), os.path.join(aside, name))
    if not disk.exists(os.path.join(aside, "identity")):
        identity = Identity.load(disk, folder)
        if identity is None or identity.cluster_id != recovery.old:
            raise CorruptState(
                f"{folder} has lost its identity",
                file=folder,
                expected=recovery.old.hex(),
                found="another or none",
            )
        identity.save(disk, aside)


def _old_manifest(disk: Disk, generation: str, aside: str, old: bytes) -> Manifest:
    """The one set aside, put there first."""
    kept = os.path.join(aside, MANIFEST_NAME)
    if not disk.exists(kept):
        manifest = read_manifest(disk, os.path.join(generation, MANIFEST_NAME), old)
        _replace(disk, kept, manifest.to_bytes())
    return read_manifest(disk, kept, old)


def _clear_partial(disk: Disk, folder: str) -> None:
    """What an interrupted run has made of the new files."""
    journal, hard = os.path.join(folder, "journal"), os.path.join(folder, "hardstate")
    if disk.exists(journal):
        remove_folder(disk, journal)
    if disk.exists(hard):
        disk.unlink(hard)
    disk.fsync_dir(folder)


def _write_journal(
    disk: Disk, folder: str, aside: str, owner: Identity, manifest: Manifest, recovery: Recovery
) -> tuple[int, int]:
    """The new log: what the old one held behind the snapshot, and the configuration that closes it; (term, index) of
    the last entry that was taken over."""
    view = view_journal(disk, aside, cluster_id=recovery.old, node_id=owner.node_id)
    try:
        journal = Journal.open(
            disk,
            folder,
            cluster_id=recovery.new,
            node_id=owner.node_id,
            create=True,
            segment_bytes=SEGMENT_BYTES,
        )
        try:
            index, term = int(manifest.index), int(manifest.term)
            first = _first_kept(view, index, term)
            last = (term, index)
            if first is not None and view.last_index >= first:
                last = (int(view.term_at(view.last_index)), view.last_index)
            above = max(int(view.report.hard_state.term), last[0]) + 1
            start = JournalBatch(
                hard_state=HardState(Term(above), NodeId(0)), reset=(index, term) if index else None
            )
            journal.write([start])
            known = manifest.configuration
            if first is not None:
                known = _copy_entries(view, first, journal) or known
            alone = _alone(known, owner.node_id, recovery.address)
            closing = Entry(
                LogIndex(last[1] + 1), Term(above), EntryKind.CONFIGURATION, encode_configuration(alone)
            )
            journal.write([JournalBatch(entries=[closing])])
        finally:
            journal.close()
    finally:
        view.close()
    return last


def _copy_entries(view: JournalView, first: int, journal: Journal) -> Configuration | None:
    """Returns the newest configuration among them."""
    newest: Configuration | None = None
    while first <= view.last_index:
        found = view.read(first, view.last_index, _BATCH_BYTES)
        journal.write([JournalBatch(entries=found)])
        first += len(found)
        for entry in found:
            if entry.kind is EntryKind.CONFIGURATION:
                newest = decode_configuration(entry)
    return newest


def _alone(known: Configuration, node_id: NodeId, address: Address) -> Configuration:
    """This node as the only member; its weight and domain and the cluster's settings stay."""
    me = known.get(node_id) or Member(node_id, address, Role.VOTER)
    return Configuration((replace(me, address=address, role=Role.VOTER),), settings=known.settings)


def _replace(disk: Disk, path: str, data: bytes) -> None:
    disk.rename(write_temporary(disk, path, data), path)
    disk.fsync_dir(os.path.dirname(path))
