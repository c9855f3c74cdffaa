"""Opening and creating a data folder: identity, hard state, journal, state folder, in one consistent view.

ORDER of creation: an identity with a zero cluster id FIRST, then hard state, journal (with the first configuration,
when bootstrapping) and state folder, the identity with the cluster's id LAST. A zero cluster id means that this
folder never served, so what a crash left of it is made anew under the same node id. With a cluster id everything must
be there: a missing part was lost and the node does not start.
Runs before the loop serves; blocking.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from dqlite_py.errors import CorruptState
from dqlite_py.limits import SEGMENT_BYTES
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
from dqlite_py.node.succession import Predecessor, check_not_recovering, read_predecessors
from dqlite_py.ports import Disk
from dqlite_py.raft.journal import Identity, Journal, JournalBatch
from dqlite_py.raft.log import LogStart
from dqlite_py.raft.membership import encode_configuration
from dqlite_py.storage.sealedfile import remove_folder
from dqlite_py.storage.state_folder import StateFolder

NO_CLUSTER = bytes(16)
MEND = "Remove the member from the cluster, delete the folder and join again"


@dataclass(slots=True)
class OpenFolder:
    identity: Identity
    journal: Journal  # with the hard state
    state: StateFolder
    log: LogStart  # what the core needs of the journal
    predecessors: tuple[Predecessor, ...] = ()  # clusters that this one was recovered from


def new_node_id() -> NodeId:
    return NodeId(secrets.randbelow(2**63 - 2) + 1)


def new_cluster_id() -> bytes:
    return secrets.token_bytes(16)


def load_identity(disk: Disk, folder: str, now_us: int) -> Identity:
    """The folder's identity; a new one (zero cluster id) for an empty folder, durable on return."""
    check_not_recovering(disk, folder)
    disk.mkdir(folder)
    disk.fsync_dir(os.path.dirname(folder) or "/")  # the folder's own name survives a power loss, too
    identity = Identity.load(disk, folder)
    if identity is not None:
        return identity
    leftovers = [
        name for name in ("journal", "hardstate", "state") if disk.exists(os.path.join(folder, name))
    ]
    if leftovers:
        raise CorruptState(
            f"{folder} holds {', '.join(leftovers)} but no identity file: it was lost, put it back. {MEND}",
            file=os.path.join(folder, "identity"),
            expected="an identity, or an empty folder",
            found=", ".join(leftovers),
        )
    identity = Identity(NO_CLUSTER, new_node_id(), now_us)
    identity.save(disk, folder)
    return identity


def create_folder(
    disk: Disk,
    folder: str,
    identity: Identity,
    *,
    bootstrap: Address | None,
    fill: Callable[[Journal, StateFolder], None] | None = None,
) -> OpenFolder:
    """Make a new member's folder; `bootstrap`: as the first voter of a new cluster, at this address.

    fill: puts a first state into it, durably, before the folder counts as made.
    """
    _clear_unfinished(disk, folder)
    journal = _open_journal(disk, folder, identity, create=True)
    try:
        if bootstrap is not None:
            me = Configuration((Member(identity.node_id, bootstrap, Role.VOTER),))
            entry = Entry(LogIndex(1), Term(1), EntryKind.CONFIGURATION, encode_configuration(me))
            journal.write([JournalBatch(hard_state=HardState(Term(1), NodeId(0)), entries=[entry])])
        state = StateFolder.open(folder, disk, identity.cluster_id)
        if fill is not None:
            fill(journal, state)
    finally:
        journal.close()
    identity.save(disk, folder)
    return open_folder(disk, folder, identity)


def _open_journal(disk: Disk, folder: str, identity: Identity, *, create: bool) -> Journal:
    return Journal.open(
        disk,
        folder,
        cluster_id=identity.cluster_id,
        node_id=identity.node_id,
        create=create,
        segment_bytes=SEGMENT_BYTES,
    )


def _paths(folder: str) -> tuple[str, str]:
    return os.path.join(folder, "journal"), os.path.join(folder, "hardstate")


def _clear_unfinished(disk: Disk, folder: str) -> None:
    """Remove what an interrupted creation left (the identity says that it never served)."""
    journal_path, hard_path = _paths(folder)
    state_path = os.path.join(folder, "state")
    for path in (journal_path, state_path):
        for name in disk.listdir(path) if disk.exists(path) else ():
            if path == state_path and name.startswith("g"):
                remove_folder(disk, os.path.join(path, name))
            else:
                disk.unlink(os.path.join(path, name))
    if disk.exists(hard_path):
        disk.unlink(hard_path)
    disk.fsync_dir(folder)


def open_folder(disk: Disk, folder: str, identity: Identity) -> OpenFolder:
    """Open an existing member's folder. Raises CorruptJournal, CorruptState, WrongCluster, UnknownFormat."""
    state_path = os.path.join(folder, "state")
    if not disk.exists(state_path):
        raise CorruptState(
            f"{state_path} is missing, but this node has run before: its databases were lost. {MEND}",
            file=state_path,
            expected="a state folder",
            found="nothing",
        )
    journal = _open_journal(disk, folder, identity, create=False)
    try:
        state = StateFolder.open(folder, disk, identity.cluster_id)
        reconcile(journal, state)
        log = LogStart.read(journal, state.manifest.snapshot)
    except BaseException:
        journal.close()
        raise
    return OpenFolder(identity, journal, state, log, read_predecessors(disk, folder))


def reconcile(journal: Journal, state: StateFolder) -> None:
    """Finish an installation that a crash interrupted between the state folder and the journal.

    The state folder is switched BEFORE the journal is reset. A journal that does not contain the snapshot's (index,
    term) is older than it and everything in it is superseded; one that begins after it has a hole.
    """
    index, term = state.manifest.index, state.manifest.term
    if journal.base_index > index:
        raise CorruptState(
            f"the log begins after index {journal.base_index}, but the databases are complete only to {index}: "
            "entries between are lost. Remove the member from the cluster, delete the folder and join again",
            file=state.generation_path,
            expected=f"a snapshot at {journal.base_index} or later",
            found=str(index),
        )
    if index == 0:
        return
    # The batch that did not come to pass would have raised the term, too: a log never ends in a later term.
    raised = HardState(term, NodeId(0)) if journal.hard_state.term < term else None
    if journal.last_index < index or journal.term_at(index) != term:
        journal.write([JournalBatch(hard_state=raised, reset=(index, term))])
