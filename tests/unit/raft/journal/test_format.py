"""The bytes of format version 1 are fixed: what this release writes, later ones must read."""

from __future__ import annotations

import hashlib

import pytest

from dqlite_py.raft.journal import format as fmt
from tests.support.journals import CLUSTER, NODE, entries

HEADER = fmt.SegmentHeader(CLUSTER, NODE, 5, 2, 9, 8, 70, 72, 0xDEADBEEF)


def test_segment_header_survives_and_its_bytes_are_fixed() -> None:
    block = fmt.pack_segment_header(HEADER)
    assert len(block) == fmt.HEADER_BYTES
    assert fmt.parse_segment_header(block) == HEADER
    assert block[:16].hex() == "44514c4a53454700010000003ed0b948"
    assert hashlib.sha256(block).hexdigest()[:16] == "68be60753ffe478b"


def test_group_bytes_are_fixed() -> None:
    buffer, offsets = fmt.build_group(72, 4096, HEADER.salt, 5, entries(5, 7, term=2, size=13))
    assert list(offsets) == [4096 + 72 + 48 * n for n in range(3)]
    assert hashlib.sha256(buffer).hexdigest()[:16] == "7789f76ec274bd76"
    ends = fmt.build_mark(72, 4096, 1) + fmt.build_seal(73, 4136, 1, 10)
    assert hashlib.sha256(ends).hexdigest()[:16] == "d001e3e42629d849"


def test_a_group_header_is_bound_to_offset_and_salt() -> None:
    raw = bytes(fmt.build_group(72, 4096, 1, None, entries(5, 5))[0][: fmt.GROUP_HEADER_BYTES])
    header = fmt.parse_group_header(raw, 4096, 1)
    assert header is not None
    assert (header.sequence, header.record_count, header.kind) == (72, 1, fmt.GroupKind.DATA)
    assert fmt.parse_group_header(raw, 4104, 1) is None
    assert fmt.parse_group_header(raw, 4096, 2) is None
    assert fmt.parse_group_header(raw[:-1], 4096, 1) is None


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4096])
def test_group_size_is_known_before_it_is_built(size: int) -> None:
    log = entries(1, 3, size=size)
    assert len(fmt.build_group(1, 0, 0, None, log)[0]) == fmt.group_bytes(log, False)
    assert len(fmt.build_group(1, 0, 0, 1, log)[0]) == fmt.group_bytes(log, True)
    assert fmt.group_bytes(log, True) % 8 == 0


def test_offsets_above_4_gib() -> None:
    offset = 2**40 + 8
    buffer, offsets = fmt.build_group(3, offset, 0, None, entries(1, 2))
    header = fmt.parse_group_header(buffer[: fmt.GROUP_HEADER_BYTES], offset, 0)
    assert header is not None
    assert header.offset == offset
    assert list(offsets) == [offset + 40, offset + 40 + fmt.record_bytes(100)]


def test_the_envelope_tells_versions_and_damage_apart() -> None:
    good = fmt.pack_envelope(b"12345678")
    assert fmt.envelope_version(good, b"12345678") == fmt.FORMAT_VERSION
    assert fmt.envelope_version(good, b"12345679") is None
    assert fmt.envelope_version(good[:15], b"12345678") is None
    assert fmt.envelope_version(good[:8] + b"\2" + good[9:], b"12345678") is None
