"""Any bytes in place of a file of ours: a valid value or the documented error, in bounded memory, nothing else."""

from __future__ import annotations

import tracemalloc

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dqlite_py.errors import CorruptJournal, CorruptState, UnknownFormat, WrongCluster
from dqlite_py.nativelib import crc32c
from dqlite_py.raft.journal import HardStateFile, Identity
from dqlite_py.raft.journal import format as fmt
from dqlite_py.raft.journal.format import HEADER_BYTES, GroupHeader
from dqlite_py.raft.journal.hardstate import MAGIC as HARD_MAGIC
from dqlite_py.raft.journal.identity import MAGIC as IDENTITY_MAGIC
from dqlite_py.raft.journal.recovery import segment_name
from tests.support.faultdisk import FaultDisk
from tests.support.journals import CLUSTER, FOLDER, NODE, contents, entries, open_journal
from tests.support.journalscript import batch

REFUSALS = (CorruptJournal, CorruptState, UnknownFormat, WrongCluster)
SALT = 0x1234
SEGMENT = f"{FOLDER}/journal/{segment_name(1)}"
HEADER = fmt.pack_segment_header(fmt.SegmentHeader(CLUSTER, NODE, 1, 0, 1, 0, 0, 1, SALT))
MEMORY_MAX = 24 * 2**20
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

numbers = st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1), st.just(2**32 - 1), st.just(2**63))
small = st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1))


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A record, most often with a valid CRC, often with lengths that lie."""
    payload = draw(st.binary(max_size=40))
    length = draw(st.one_of(st.just(len(payload)), small))
    body = fmt.RECORD.pack(
        0,
        length,
        draw(st.integers(0, 5)),
        draw(st.integers(0, 4)),
        0,
        draw(small),
        draw(numbers),
        draw(numbers),
    )[4:] + payload.ljust(fmt.aligned(len(payload)), b"\0")
    crc = crc32c(body, SALT) if draw(st.booleans()) else draw(st.integers(0, 2**32 - 1))
    return crc.to_bytes(4, "little") + body


@st.composite
def groups(draw: st.DrawFn) -> bytes:
    """Groups at their right offsets, with valid header CRCs and fields that lie."""
    data = b""
    for sequence in range(1, draw(st.integers(1, 4)) + 1):
        body = b"".join(draw(st.lists(records(), max_size=4)))
        if draw(st.booleans()):
            group, _ = fmt.build_group(
                sequence, HEADER_BYTES + len(data), SALT, None, entries(sequence, sequence)
            )
            data += group
            continue
        header = GroupHeader(
            draw(st.one_of(st.just(sequence), numbers)),
            HEADER_BYTES + len(data),
            draw(st.one_of(st.just(len(body)), numbers)),
            draw(st.one_of(st.integers(0, 4), st.integers(0, 2**32 - 1))),
            draw(st.integers(0, 4)),
        )
        data += fmt.pack_group_header(header, SALT) + body
    return data


def opens_or_refuses(disk: FaultDisk) -> None:
    before = disk.tree()
    tracemalloc.start()
    try:
        journal = open_journal(disk, create=False)
    except REFUSALS:
        assert disk.tree() == before
        assert disk.open_count == 0
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY_MAX
    found = contents(journal)
    assert [item.index for item in found] == list(range(journal.first_index, journal.last_index + 1))
    journal.write([batch(entries=entries(journal.last_index + 1, journal.last_index + 3, term=2**63 - 1))])
    journal.close()
    again = open_journal(disk, create=False)
    assert contents(again)[:-3] == found


def with_segment(data: bytes) -> FaultDisk:
    disk = FaultDisk(FOLDER, FOLDER + "/journal")
    HardStateFile.create(disk, FOLDER + "/hardstate", cluster_id=CLUSTER, node_id=NODE)
    disk.put(SEGMENT, data)
    return disk


@relaxed
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: HEADER[:96] + tail)))
def test_any_bytes_as_a_segment(data: bytes) -> None:
    opens_or_refuses(with_segment(data))


@relaxed
@given(st.binary(max_size=300))
def test_any_bytes_behind_a_valid_header(data: bytes) -> None:
    opens_or_refuses(with_segment(HEADER + data))


@relaxed
@given(groups(), st.binary(max_size=30))
def test_groups_whose_fields_lie(data: bytes, tail: bytes) -> None:
    opens_or_refuses(with_segment(HEADER + data + tail))


@relaxed
@given(st.lists(st.tuples(*[numbers] * 6), min_size=1, max_size=4, unique_by=lambda fields: fields[0]))
def test_headers_whose_fields_lie(headers: list[tuple[int, ...]]) -> None:
    disk = with_segment(HEADER)
    disk.remove(SEGMENT)
    for first, term, sequence, previous, previous_group, first_group in headers:
        header = fmt.SegmentHeader(
            CLUSTER, NODE, first, term, sequence, previous, previous_group, first_group, SALT
        )
        name = segment_name(first)
        disk.put(f"{FOLDER}/journal/{name}", fmt.pack_segment_header(header))
    opens_or_refuses(disk)


@relaxed
@given(
    st.one_of(
        st.binary(max_size=100),
        st.binary(max_size=100).map(lambda tail: fmt.pack_envelope(HARD_MAGIC) + tail),
        st.binary(max_size=100).map(lambda tail: bytes(4096) + fmt.pack_envelope(HARD_MAGIC) + tail),
    )
)
def test_any_bytes_as_hard_state(data: bytes) -> None:
    disk = with_segment(HEADER)
    disk.put(FOLDER + "/hardstate", data)
    opens_or_refuses(disk)


@relaxed
@given(
    st.one_of(
        st.binary(max_size=80), st.binary(max_size=80).map(lambda t: fmt.pack_envelope(IDENTITY_MAGIC) + t)
    )
)
def test_any_bytes_as_identity(data: bytes) -> None:
    disk = FaultDisk(FOLDER)
    disk.put(FOLDER + "/identity", data)
    try:
        identity = Identity.load(disk, FOLDER)
    except (CorruptState, UnknownFormat):
        return
    assert identity is None or identity.node_id > 0


@relaxed
@given(st.binary(max_size=100))
def test_any_bytes_as_the_note_of_what_was_synced(data: bytes) -> None:
    disk = with_segment(HEADER)
    disk.put(FOLDER + "/journal/synced", data)
    assert open_journal(disk).last_index == 0
