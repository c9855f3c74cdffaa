"""Open the files of a data folder: make them, recover, cut the torn end, and make certain what was read.

Called by Journal.open. Nothing is modified before recovery has accepted everything, and only then in an order
in which a crash leaves a folder that opens with the same contents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dqlite_py.errors import CorruptJournal
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.files import read_up_to, write_fully
from dqlite_py.raft.journal.format import GROUP_HEADER_BYTES, SEAL_BYTES, SegmentHeader, build_seal
from dqlite_py.raft.journal.hardstate import HardStateFile
from dqlite_py.raft.journal.hint import SyncedHint
from dqlite_py.raft.journal.recovery import SUFFIX, recover
from dqlite_py.raft.journal.scan import Scan
from dqlite_py.raft.journal.segment import Segment
from dqlite_py.raft.journal.space import Space


@dataclass(frozen=True, slots=True)
class Opened:
    """The files of a data folder, open, and what the journal holds."""

    hard: HardStateFile
    hint: SyncedHint
    segments: list[Segment]
    runs: list[tuple[int, int]]


def open_files(
    disk: Disk,
    path: str,
    space: Space,
    *,
    cluster_id: bytes,
    node_id: int,
    create: bool,
    salt: Callable[[], int],
) -> Opened:
    """Open everything; raises as Journal.open, OSError, and leaves nothing open then."""
    folder, hard_path = f"{path}/journal", f"{path}/hardstate"
    has_segments = disk.exists(folder) and any(name.endswith(SUFFIX) for name in disk.listdir(folder))
    if create and not has_segments and not disk.exists(hard_path):
        HardStateFile.create(disk, hard_path, cluster_id=cluster_id, node_id=node_id)
    hard = HardStateFile.open(disk, hard_path, cluster_id=cluster_id, node_id=node_id)
    try:
        if not has_segments:
            _check_unused(folder, hard, create)
            disk.mkdir(folder)
            disk.fsync_dir(path)
            disk.close(space.create(SegmentHeader(cluster_id, node_id, 1, 0, 1, 0, 0, 1, salt()), 0).fd)
        recovered = recover(disk, folder, cluster_id, node_id)
        _remove_dead(disk, folder, recovered.dead_names)
        segments = _open_segments(disk, recovered.scans)
        try:
            hint = SyncedHint(disk, folder, cluster_id, node_id)
        except OSError:
            _close(disk, segments)
            raise
    except BaseException:
        hard.close()
        raise
    return Opened(hard, hint, segments, join_runs(recovered.scans))


def journal_missing(folder: str) -> CorruptJournal:
    """The error for a folder that was in use and has no segments."""
    return CorruptJournal(
        f"journal missing in {folder}, but this node was in use; put its files back, or remove it from "
        f"the cluster "
        "and add it again with an empty folder",
        file=folder,
        offset=0,
        expected="segment files",
        found="none",
    )


def _remove_dead(disk: Disk, folder: str, names: list[str]) -> None:
    disk.fsync_dir(folder)  # the names that were read are durable BEFORE dead files go
    for name in names:
        disk.unlink(f"{folder}/{name}")
    if names:
        disk.fsync_dir(folder)


def _close(disk: Disk, segments: list[Segment]) -> None:
    for segment in segments:
        disk.close(segment.fd)


def _check_unused(folder: str, hard: HardStateFile, create: bool) -> None:
    """Only a crash while the folder was made explains a missing journal; then no vote was ever cast."""
    if not (create and hard.is_pristine):
        raise journal_missing(folder)


def _open_segments(disk: Disk, scans: list[Scan]) -> list[Segment]:
    segments: list[Segment] = []
    try:
        for scan in scans:
            segments.append(open_segment(disk, scan))
        if len(scans) > 1 and scans[-1].is_untouched:
            _seal_again(disk, segments[-2], scans[-1].header.sequence)
        _settle(disk, segments[-1], scans[-1])
    except BaseException:
        _close(disk, segments)
        raise
    return segments


def open_segment(disk: Disk, scan: Scan) -> Segment:
    """The segment of a scan, its file open; raises OSError."""
    fd = disk.open(scan.path)
    return Segment(
        scan.path,
        fd,
        scan.header,
        end=scan.end,
        allocated=scan.size,
        last_group=scan.last_group,
        offsets=scan.offsets,
        is_sealed=scan.sealed_for is not None,
    )


def _seal_again(disk: Disk, segment: Segment, next_sequence: int) -> None:
    """The crash came when the seal was perhaps not durable: it must be BEFORE the successor gets a group."""
    if segment.is_sealed:
        offset = segment.end - SEAL_BYTES
        seal: bytes | bytearray = read_up_to(disk, segment.fd, SEAL_BYTES, offset)
    else:
        offset = segment.end
        seal = build_seal(segment.last_group + 1, offset, segment.header.salt, next_sequence)
    write_fully(disk, segment.fd, seal, offset)
    disk.fdatasync(segment.fd)
    segment.is_sealed = True


def _settle(disk: Disk, segment: Segment, scan: Scan) -> None:
    """Cut what lies behind the last group and make that group certain.

    Without a mark the last group may never have been synced: the process was killed before, or its sync
    failed and the kernel dropped the dirty state. Writing it again makes the pages dirty, so that the sync
    means something.
    """
    if not scan.is_marked and scan.last_group_offset:
        offset = scan.last_group_offset
        while offset < segment.end:
            data = read_up_to(disk, segment.fd, min(1024 * 1024, segment.end - offset), offset)
            write_fully(disk, segment.fd, data, offset)
            offset += len(data)
    keep = segment.end + (GROUP_HEADER_BYTES if scan.is_marked else 0)
    disk.ftruncate(segment.fd, keep)
    disk.fsync(segment.fd)  # the cut is durable BEFORE anything is appended
    segment.allocated = keep


def join_runs(scans: list[Scan]) -> list[tuple[int, int]]:
    """(first index, term) of each run of equal terms in the whole log."""
    runs: list[tuple[int, int]] = []
    for scan in scans:
        for first, term in scan.runs:
            if not runs or runs[-1][1] != term:
                runs.append((first, term))
    return runs
