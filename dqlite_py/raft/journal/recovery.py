"""Decide from the segment files what the journal holds, before anything is modified.

Order of work: headers of all files, which segments are live, contents of the live ones, then the verdict.
Repair is the caller's (Journal.open), after this returned without an error.

What is cut and what is refused. A group's header is written only after the group before it was synced. So
bytes at the very end that are no valid group can be a write that power loss tore: they were never
acknowledged and are cut. With a valid group header behind them (in this segment, or a later segment) they
were durable once: damage. The same holds for a group that the hint (hint.py) says was synced.
Limit: damage at the very end, when neither a mark nor the hint covers it, cannot be told from a torn write and is
cut. Both are written a second after the last group, and durably at a clean close; so it takes a crash within that
second (for power loss: plus the kernel's write-back time) together with damage of just those bytes.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Final

from dqlite_py.errors import CorruptJournal
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.format import SegmentHeader
from dqlite_py.raft.journal.hint import read_hint
from dqlite_py.raft.journal.scan import Scan, read_header, scan_segment, truncate_scan
from dqlite_py.raft.journal.segment import damage

_NAME: Final = re.compile(r"\d{20}\.seg")
SUFFIX: Final = ".seg"
SPARE_NAME: Final = "spare.tmp"


@dataclass(frozen=True, slots=True)
class Recovered:
    """Live segments in order, and the names that may go."""

    scans: list[Scan]
    dead_names: list[str]


def segment_name(first_index: int) -> str:
    return f"{first_index:020d}{SUFFIX}"


def recover(disk: Disk, folder: str, cluster_id: bytes, node_id: int) -> Recovered:
    """Read the journal; raises CorruptJournal, UnknownFormat, WrongCluster, OSError. Modifies nothing."""
    names = disk.listdir(folder)
    headers: dict[str, SegmentHeader] = {}
    for name in names:
        if name.endswith(SUFFIX):
            headers[name] = _header(disk, folder, name, cluster_id, node_id)
    live, dead = _split(folder, headers)
    scans = [scan_segment(disk, f"{folder}/{name}", headers[name]) for name in live]
    for before, after in itertools.pairwise(scans):
        _check_link(before, after, is_last=after is scans[-1])
    if scans:
        _check_last(scans[-1], read_hint(disk, folder, cluster_id, node_id))
    return Recovered(scans, [*dead, *(name for name in names if name == SPARE_NAME)])


def _header(disk: Disk, folder: str, name: str, cluster_id: bytes, node_id: int) -> SegmentHeader:
    path = f"{folder}/{name}"
    if not _NAME.fullmatch(name):
        raise damage(path, 0, "a name of 20 digits", name, "move the file out of the journal folder")
    header = read_header(disk, path, cluster_id, node_id)
    if name != segment_name(header.first_index):
        wanted = segment_name(header.first_index)
        raise damage(path, 0, f"the name {wanted}", name, "give the file its name back")
    return header


def _split(folder: str, headers: dict[str, SegmentHeader]) -> tuple[list[str], list[str]]:
    """Return live names in order and dead ones, which a crash kept from being unlinked.

    Live is the chain of predecessors from the newest segment. A file outside it is dead when a newer segment
    replaced it (a truncation at or below its first index, or a reset); otherwise a link between is missing.
    """
    by_sequence = {header.sequence: name for name, header in headers.items()}
    if len(by_sequence) != len(headers):
        raise damage(
            folder, 0, "segments with different sequences", "two of the same", "remove the copied file"
        )
    if not headers:
        return [], []
    chain = [by_sequence[max(by_sequence)]]
    while (previous := headers[chain[-1]].previous_sequence) in by_sequence:
        chain.append(by_sequence[previous])
    chain.reverse()
    is_complete = headers[chain[0]].previous_sequence == 0
    dead = [name for name in headers if name not in chain]
    for name in dead:
        header = headers[name]
        replaced = any(
            headers[other].sequence > header.sequence and headers[other].first_index <= header.first_index
            for other in chain
        )
        if not (is_complete or replaced):
            missing = headers[chain[0]].previous_sequence
            raise _missing(folder, f"segment {missing} before {chain[0]}", f"{name} and {chain[0]}")
    return chain, dead


def _missing(folder: str, expected: str, found: str) -> CorruptJournal:
    return CorruptJournal(
        f"journal file missing in {folder}: expected {expected}, found {found}; put the file back, or "
        f"remove this "
        "node from the cluster and add it again with an empty folder",
        file=folder,
        offset=0,
        expected=expected,
        found=found,
    )


def _check_link(before: Scan, after: Scan, *, is_last: bool) -> None:
    """Check a segment against the facts that its successor recorded, and cut what the successor truncated."""
    link = after.header
    if before.last_group < link.previous_group:
        raise before.damage()
    if before.last_group > link.previous_group:
        wanted, found = f"last group {link.previous_group}", f"group {before.last_group}"
        raise damage(before.path, before.last_group_offset, wanted, found)
    if not before.header.first_index < link.first_index <= before.last_index + 1:
        wanted = f"entry {link.first_index - 1}, after which {after.path} starts"
        raise damage(
            before.path, before.end, wanted, f"entries {before.header.first_index} to {before.last_index}"
        )
    # The seal was synced BEFORE anything was written behind the successor's header.
    if before.sealed_for is None and not (is_last and after.is_untouched):
        raise damage(before.path, before.end, "the seal of this segment", before.found or "nothing")
    truncate_scan(before, link.first_index)
    if before.last_term != link.previous_term:
        wanted = f"term {link.previous_term} of entry {link.first_index - 1}"
        raise damage(before.path, before.end, wanted, f"term {before.last_term}")


def _check_last(last: Scan, synced_group: int) -> None:
    if last.sealed_for is not None:
        folder = last.path.rpartition("/")[0]
        raise _missing(folder, f"segment {last.sealed_for} after {last.path}", "no later segment")
    if last.later_group is not None or last.last_group < synced_group:
        raise last.damage()
