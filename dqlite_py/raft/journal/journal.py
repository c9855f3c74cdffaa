"""The durable Raft log: what `write` returned from is there after any crash, in order, or the node does not
start.

`write`, `compact`, `prepare`, `mark`, `close` run on the journal thread only; `read` and the properties on
any. It does not know what entries mean, and does not compare itself with the state machine: the host must
check that `base_index` is not above the index from which it replays (a deleted first segment looks like a
compacted one). See format.py for the bytes, recovery.py for what is cut and what is refused.

Errors. An OSError of a write or sync is final (JournalFailed from then on, also after the disk recovers): the
kernel may have dropped the pages, so only a restart, which reads and rewrites the end, gives certainty.
StorageFull is raised BEFORE anything but the hard state was written and changes nothing else: call again with
the same batches followed by newer ones, or drop them and stop. The batches must not be skipped: later ones
would leave a gap, which is refused with RaftInvariantBroken. JournalThread does the calling again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Final

from dqlite_py.errors import JournalFailed, RaftInvariantBroken, StorageFull
from dqlite_py.limits import MIB, SEGMENT_BYTES
from dqlite_py.model import Entry, HardState, LogIndex, NodeId, Term
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.batch import JournalBatch, Plan, fold
from dqlite_py.raft.journal.files import write_fully
from dqlite_py.raft.journal.format import (
    GROUP_BYTES_MAX,
    GROUP_HEADER_BYTES,
    SegmentHeader,
    build_mark,
    build_seal,
    group_bytes,
)
from dqlite_py.raft.journal.group import Group
from dqlite_py.raft.journal.hardstate import HardStateFile
from dqlite_py.raft.journal.hint import SyncedHint
from dqlite_py.raft.journal.repair import open_files
from dqlite_py.raft.journal.segment import Segment
from dqlite_py.raft.journal.space import Space
from dqlite_py.raft.journal.table import SegmentTable

STEP_BYTES: Final = 4 * MIB


def random_salt() -> int:
    return secrets.randbits(32)


class Journal:
    """Use `open`."""

    def __init__(
        self, disk: Disk, folder: str, hard: HardStateFile, hint: SyncedHint, space: Space, table: SegmentTable,
        salt: Callable[[], int],
    ) -> None:  # fmt: skip
        self._disk = disk
        self._folder = folder
        self._hard = hard
        self._hint = hint
        self._space = space
        self._table = table
        self._salt = salt
        self._failure: BaseException | None = None
        self._is_marked = False
        self._closed = False
        self.group_count = 0
        self.sync_count = 0
        self.written_bytes = 0

    @classmethod
    def open(
        cls, disk: Disk, path: str, *, cluster_id: bytes, node_id: NodeId, create: bool,
        segment_bytes: int = SEGMENT_BYTES, step_bytes: int = STEP_BYTES,
        salt: Callable[[], int] = random_salt,
    ) -> Journal:  # fmt: skip
        """Open the journal and hard state of data folder `path` (DIR/journal/*.seg, DIR/hardstate).

        create: make what a folder that was never in use lacks; a folder in use with a part missing is refused
        either way. segment_bytes: size at which a new segment starts; step_bytes: preallocation at a time.
        Raises CorruptJournal, CorruptState, UnknownFormat, WrongCluster (nothing modified), JournalFailed,
        StorageFull (only while the folder is made).
        """
        space = Space(disk, f"{path}/journal", segment_bytes, step_bytes)
        try:
            opened = open_files(
                disk, path, space, cluster_id=cluster_id, node_id=node_id, create=create, salt=salt
            )
        except BaseException as error:
            space.close()
            if not isinstance(error, OSError):
                raise
            raise JournalFailed(f"cannot open the journal in {path}: {error}", folder=path) from error
        table = SegmentTable(disk, opened.segments, opened.runs)
        journal = cls(disk, f"{path}/journal", opened.hard, opened.hint, space, table, salt)
        try:
            journal.prepare()
            journal.mark()
        except JournalFailed:
            journal.close()
            raise
        return journal

    # -- state; any thread

    @property
    def hard_state(self) -> HardState:
        """The durable term and vote."""
        return self._hard.value

    @property
    def base_index(self) -> LogIndex:
        """Index of the entry before the first (compacted or covered by a snapshot)."""
        return LogIndex(self._table.base_index)

    @property
    def base_term(self) -> Term:
        return self.term_at(self.base_index)

    @property
    def first_index(self) -> LogIndex:
        """Index of the first entry, if there is one: base_index + 1."""
        return LogIndex(self._table.base_index + 1)

    @property
    def last_index(self) -> LogIndex:
        """Index of the last durable entry, base_index when there is none."""
        return LogIndex(self._table.last_index)

    @property
    def failure(self) -> BaseException | None:
        """Why the journal refuses everything, None while it works."""
        return self._failure

    @property
    def size_bytes(self) -> int:
        """Disk space taken by segments."""
        return sum(segment.allocated for segment in self._table.segments)

    def room_bytes(self) -> int:
        """Bytes of groups that can be written without asking the file system for space."""
        return self._table.current.room_bytes + self._space.spare_bytes

    def free_bytes(self) -> int:
        """Free space of the file system (limits.DISK_RESERVE_BYTES says when to refuse proposals)."""
        return self._disk.free_bytes(self._folder)

    def term_runs(self) -> list[tuple[LogIndex, Term]]:
        """Where each term starts in the log: (first index, term), ascending; empty for an empty log."""
        return [(LogIndex(first), Term(term)) for first, term in self._table.term_runs()]

    def term_at(self, index: int) -> Term:
        """Term of an entry or of the base; raises NotInJournal."""
        return Term(self._table.term_at(index))

    def index_before_tail(self, tail_bytes: int) -> LogIndex:
        """The largest index behind which the log still holds `tail_bytes`; base_index when it holds less."""
        return LogIndex(self._table.index_before_tail(tail_bytes))

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Read entries from `first` to at most `last`, at least one, then only up to `bytes_max` payload
        bytes.

        Also fewer when the log is changed meanwhile or ends before `last`. Each entry's CRC is checked.
        Raises NotInJournal for `first`, CorruptJournal, JournalFailed (disk error or closed).
        """
        return self._table.read(first, last, bytes_max)

    # -- journal thread

    def write(self, batches: Sequence[JournalBatch]) -> None:
        """Make all batches durable with one write and one sync; they are when this returns.

        Order on disk: hard state, reset, truncation, entries; a crash leaves a prefix of these steps.
        Raises StorageFull (see the module), JournalFailed (final), RaftInvariantBroken (nothing written).
        """
        self._check_usable()
        plan = fold(batches, self._table.base_index, self._table.last_index, self._table.term_at)
        size = group_bytes(plan.entries, plan.truncate_from is not None)
        if size > GROUP_BYTES_MAX:
            raise RaftInvariantBroken(f"journal: a batch of {size} bytes")
        try:
            if plan.hard_state is not None and plan.hard_state != self._hard.value:
                self._hard.write(plan.hard_state)  # durable BEFORE what the term or vote led to
                self.sync_count += 2
            self._write_log(plan, size)
        except OSError as error:
            raise self._fail(error) from error

    def reset(self, index: int, term: int) -> None:
        """Drop the whole log and continue after entry `index` of `term`; as a batch with `reset`."""
        self.write([JournalBatch(reset=(index, term))])

    def compact(self, upto: LogIndex) -> None:
        """Drop the oldest segments while all their entries are <= `upto`; the last segment stays.

        A crash leaves a suffix of the segments. Raises JournalFailed (final).
        """
        self._check_usable()
        try:
            while len(segments := self._table.segments) > 1 and segments[1].first_index - 1 <= upto:
                self._disk.unlink(segments[0].path)
                self._disk.fsync_dir(self._folder)  # gone BEFORE the next goes: never a hole in the middle
                self._table.drop_oldest()
        except OSError as error:
            raise self._fail(error) from error

    def prepare(self) -> bool:
        """Preallocate ahead of the next writes; False when the disk is full. Raises JournalFailed (final)."""
        self._check_usable()
        try:
            self._space.prepare(self._table.current)
        except StorageFull:
            return False
        except OSError as error:
            raise self._fail(error) from error
        return True

    def mark(self) -> None:
        """Leave the proof that all groups so far were synced; cheap, without a sync. Raises JournalFailed."""
        self._check_usable()
        if self._is_marked:
            return
        segment = self._table.current
        try:
            if segment.end + GROUP_HEADER_BYTES <= segment.allocated:
                mark = build_mark(segment.last_group + 1, segment.end, segment.header.salt)
                write_fully(self._disk, segment.fd, mark, segment.end)
            self._hint.write(segment.last_group)
        except OSError as error:
            raise self._fail(error) from error
        self._is_marked = True

    def close(self) -> None:
        """Mark the end durably (unless failed) and close the files. Reads may be under way."""
        if self._closed:
            return
        try:
            if self._failure is None:
                self.mark()
                self._sync(self._table.current)
                self._hint.sync()
                self._disk.fsync_dir(self._folder)
        except OSError as error:
            raise self._fail(error) from error
        finally:
            self._closed = True
            self._table.close()
            self._hint.close()
            self._hard.close()
            self._space.close()

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise JournalFailed(
                f"the journal failed before: {self._failure}; restart the node"
            ) from self._failure
        if self._closed:
            raise JournalFailed("the journal is closed")

    def _fail(self, error: OSError) -> JournalFailed:
        self._failure = error
        return JournalFailed(
            f"journal in {self._folder}: {error}; nothing more is acknowledged: mend the disk and restart "
            f"the node",
            folder=self._folder,
        )

    def _sync(self, segment: Segment) -> None:
        self._disk.fdatasync(segment.fd)
        self.sync_count += 1

    def _write_log(self, plan: Plan, size: int) -> None:
        truncate_from = plan.truncate_from
        if plan.reset is not None:
            self._start_segment(plan.reset[0] + 1, plan.reset[1], 0, size)
        elif truncate_from is None and not plan.entries:
            return
        else:
            current = self._table.current
            stays = truncate_from is None or truncate_from >= current.first_index
            if not (stays and self._space.make_room(current, size)):
                self._roll(current.last_index + 1 if truncate_from is None else truncate_from, size)
                truncate_from = None  # the new segment's first index says it
        if truncate_from is not None or plan.entries:
            self._append(truncate_from, plan.entries)

    def _append(self, truncate_from: int | None, entries: list[Entry]) -> None:
        segment = self._table.current
        sequence, offset = segment.last_group + 1, segment.end
        group = Group(sequence, offset, segment.header.salt, truncate_from, entries)
        self._is_marked = False  # the group overwrites the mark
        self._disk.write_group(segment.fd, group)
        offsets, size = group.lay_out()
        self._table.append(truncate_from, entries, offsets, size)  # visible AFTER it is durable
        self.sync_count += 1
        self.group_count += 1
        self.written_bytes += size

    def _roll(self, first: int, size: int) -> None:
        """Continue in a new segment that starts with `first`; entries from there on are dropped."""
        keep = sum(segment.first_index < first for segment in self._table.segments)
        self._start_segment(first, self._table.term_at(first - 1), keep, size)

    def _start_segment(self, first: int, previous_term: int, keep: int, size: int) -> None:
        """Make a new last segment behind the `keep` oldest ones; the others are dead.

        A crash before the rename inside `create` leaves the old log, after it the new one: what is dead then
        is dead by the new header, whether or not it was unlinked.
        """
        newest = self._table.current
        dead = self._table.segments[keep:]
        predecessor = self._table.segments[keep - 1] if keep else None
        header = SegmentHeader(
            cluster_id=newest.header.cluster_id,
            node_id=newest.header.node_id,
            first_index=first,
            previous_term=previous_term,
            sequence=newest.header.sequence + 1,
            previous_sequence=predecessor.header.sequence if predecessor else 0,
            previous_group=predecessor.last_group if predecessor else 0,
            first_group=newest.last_group + 2,  # the seal takes one
            salt=self._salt(),
        )
        segment = self._space.create(header, size)
        self.sync_count += 2
        try:
            self._retire(predecessor, dead, segment)
        except OSError:
            self._disk.close(segment.fd)
            raise
        self._table.replace_tail(keep, segment)
        self._is_marked = False

    def _retire(self, predecessor: Segment | None, dead: list[Segment], segment: Segment) -> None:
        """Remove dead files and seal the segment that came before; `segment` is durable.

        The unlinks need no sync of their own: compaction can drop the segment that declares them dead only
        when a newer one was made, and making one syncs the folder.
        """
        for old in dead:
            if old.path != segment.path:
                self._disk.unlink(old.path)
        if predecessor is not None and not predecessor.is_sealed:
            self._seal(predecessor, segment.header.sequence)

    def _seal(self, segment: Segment, next_sequence: int) -> None:
        seal = build_seal(segment.last_group + 1, segment.end, segment.header.salt, next_sequence)
        write_fully(self._disk, segment.fd, seal, segment.end)
        self._sync(segment)  # durable BEFORE the next segment gets a group
        segment.is_sealed = True
