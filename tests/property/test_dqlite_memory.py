"""dqlite's protocol: whatever a few bytes announce, decoding them takes memory in proportion to those bytes only."""

from __future__ import annotations

import contextlib
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from dqlite_py.wire.dqlite.frames import Frame, FrameReader, Version
from dqlite_py.wire.dqlite.requests import decode_request
from dqlite_py.wire.dqlite.responses import decode_response
from dqlite_py.wire.dqlite.violations import ProtocolViolation

ALLOWANCE_BYTES = 64 * 1024  # of the interpreter's own
PER_BYTE = 64  # a NULL of half a byte in the header becomes a word of 8 and a record of some 100
WORDS = st.sampled_from([0, 1, 7, 255, 2**16, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]).map(
    lambda word: word.to_bytes(8, "little")
)
BODIES = st.lists(st.one_of(WORDS, st.binary(min_size=8, max_size=8)), max_size=40).map(b"".join)


def peak_bytes(body: bytes, kind: int, schema: int, is_request: bool) -> int:
    frame = Frame(kind, schema, body)
    tracemalloc.start()
    try:
        with contextlib.suppress(ProtocolViolation):
            if is_request:
                decode_request(frame)
            else:
                decode_response(frame, Version.V1, has_roles=bool(schema))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(BODIES, st.integers(0, 20), st.integers(0, 1), st.booleans())
def test_lengths_that_are_lies_cost_nothing(body: bytes, kind: int, schema: int, is_request: bool) -> None:
    assert peak_bytes(body, kind, schema, is_request) <= ALLOWANCE_BYTES + PER_BYTE * len(body)


def test_a_header_alone_takes_no_memory() -> None:
    reader = FrameReader(2**30)
    tracemalloc.start()
    try:
        reader.feed((2**27).to_bytes(4, "little") + bytes(4))
        assert reader.next_frame() is None
        assert tracemalloc.get_traced_memory()[1] < ALLOWANCE_BYTES
    finally:
        tracemalloc.stop()
