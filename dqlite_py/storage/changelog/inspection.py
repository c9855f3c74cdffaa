"""What a change log's files hold, without changing a byte: for offline tools, no node runs there.

Whatever is damaged here is never shown to a subscriber: the node stops before it (ChangesCompacted).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from dqlite_py.errors import MalformedMessage
from dqlite_py.ports import Disk
from dqlite_py.storage.changelog.format import (
    HEADER_BYTES,
    RECORD_HEADER_BYTES,
    is_intact,
    parse_body,
    parse_header,
    parse_record_header,
)
from dqlite_py.storage.changelog.log import segment_base


class Problem(NamedTuple):
    """`ends_log`: it is where the log ends, as a crash may leave it."""

    path: str
    message: str
    ends_log: bool


class LogReport(NamedTuple):
    """Entries (`oldest`, `newest`] are told of, if there are no problems; None: there is no sound file."""

    oldest: int | None
    newest: int | None
    problems: tuple[Problem, ...]


def inspect_changes(disk: Disk, folder: str) -> LogReport:
    """Read every record in DIR/changes/<database>, each CRC checked; raises OSError."""
    found = sorted((base, name) for name in disk.listdir(folder) if (base := segment_base(name)) is not None)
    problems: list[Problem] = []
    oldest: int | None = None
    newest: int | None = None
    for number, (base, name) in enumerate(found):
        path = os.path.join(folder, name)
        if newest is not None and newest != base:
            problems.append(
                Problem(path, f"it begins at log index {base}, the file before ends at {newest}", False)
            )
        end, problem = _scan(disk, path, base)
        if end is None:
            problems.append(Problem(path, problem, False))
            continue
        oldest, newest = base if oldest is None else oldest, end
        if problem:
            problems.append(Problem(path, problem, number == len(found) - 1))
    return LogReport(oldest, newest, tuple(problems))


def _scan(disk: Disk, path: str, base: int) -> tuple[int | None, str]:
    """The index up to which a file is sound, None when it is none; and what is wrong with it."""
    fd = disk.open(path)
    try:
        header = parse_header(disk.pread(fd, HEADER_BYTES, 0))
        if header is None or header[0] != base:
            return None, "its header is damaged, or of another release: the next start removes it"
        offset, index, size = HEADER_BYTES, base, disk.size(fd)
        while offset < size:
            head = disk.pread(fd, RECORD_HEADER_BYTES, offset)
            record = parse_record_header(head)
            if record is None or record.previous != index:
                return index, f"there is no record at offset {offset}"
            body = disk.pread(fd, record.body_bytes, offset + RECORD_HEADER_BYTES)
            if not is_intact(record, head, body, header[1]):
                return index, f"the record at offset {offset} is damaged"
            try:
                parse_body(body)
            except MalformedMessage as error:
                return index, f"the record at offset {offset}: {error.message}"
            offset += RECORD_HEADER_BYTES + record.body_bytes
            index = record.log_index
        return index, ""
    finally:
        disk.close(fd)
