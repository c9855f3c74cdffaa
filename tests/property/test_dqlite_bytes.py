"""dqlite's protocol: round trips, every truncation, and any bytes end in a record or a ProtocolViolation."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqlite_py.wire.dqlite.frames import (
    Frame,
    FrameReader,
    Version,
    decode_handshake,
    encode_frame,
    encode_handshake,
)
from dqlite_py.wire.dqlite.primitives import BodyReader
from dqlite_py.wire.dqlite.rows import (
    RowsBatch,
    column_kinds,
    decode_rows,
    encode_plain_row,
    encode_row,
    encode_rows,
)
from dqlite_py.wire.dqlite.tuples import decode_params, encode_params, params_schema
from dqlite_py.wire.dqlite.values import ValueType, WireValue, typed
from dqlite_py.wire.dqlite.violations import ProtocolViolation

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), TEXTS, st.binary(max_size=40)
).map(typed)
PARAMS = st.lists(VALUES, min_size=1, max_size=12)


@given(PARAMS, st.sampled_from([0, 1]))
def test_parameters_come_back_and_no_truncation_passes(params: list[WireValue], schema: int) -> None:
    encoded = encode_params(params, schema)
    assert len(encoded) % 8 == 0
    assert decode_params(BodyReader(encoded), schema, 12) == tuple(params)
    for length in range(1, len(encoded)):
        with pytest.raises(ProtocolViolation):
            decode_params(BodyReader(encoded[:length]), schema, 12)


@given(st.binary(max_size=80), st.sampled_from([0, 1]))
def test_any_bytes_as_parameters_are_values_or_a_violation(body: bytes, schema: int) -> None:
    with contextlib.suppress(ProtocolViolation):
        assert len(decode_params(BodyReader(body), schema, 100)) <= 100


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(1, 4))), st.integers(1, 40))
def test_frames_come_back_however_they_are_cut(shapes: list[tuple[int, int, int]], piece: int) -> None:
    frames = [Frame(kind, schema, bytes(8 * words)) for kind, schema, words in shapes]
    stream = b"".join(map(encode_frame, frames))
    reader, seen = FrameReader(32), []
    for start in range(0, len(stream), piece):
        reader.feed(stream[start : start + piece])
        while reader.holds_frame:
            frame = reader.next_frame()
            assert frame is not None
            seen.append(frame)
        assert reader.next_frame() is None
    assert seen == frames
    assert reader.buffered_bytes == 0


@pytest.mark.parametrize("words", [0, 5, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_by_its_header_alone(words: int) -> None:
    reader = FrameReader(32)
    reader.feed(words.to_bytes(4, "little") + bytes(4))
    for _ in range(2):
        assert reader.holds_frame
        with pytest.raises(ProtocolViolation) as caught:
            reader.next_frame()
        assert caught.value.code == 1005
    reader.feed(bytes(1000))
    assert reader.buffered_bytes == 0


@pytest.mark.parametrize("version", Version)
def test_handshake(version: Version) -> None:
    assert decode_handshake(encode_handshake(version)) is version
    with pytest.raises(ProtocolViolation):
        decode_handshake(bytes(8))


@pytest.mark.parametrize(
    ("value", "decltype", "kind"),
    [
        (None, "BOOLEAN", ValueType.NULL),
        (None, "DATETIME", ValueType.NULL),
        (1, "boolean", ValueType.BOOLEAN),
        (7, "BOOLEAN", ValueType.INTEGER),
        ("yes", "BOOLEAN", ValueType.TEXT),
        (1, "BOOL", ValueType.INTEGER),
        (0, "DATE", ValueType.UNIXTIME),
        (-1, "DATE", ValueType.INTEGER),
        ("2026-11-28", "timestamp", ValueType.ISO8601),
        ("2026-11-28 07:00:00.123456789+02:00", "DATETIME", ValueType.ISO8601),
        ("2026-13-28", "DATETIME", ValueType.TEXT),
        ("soon", "DATETIME", ValueType.TEXT),
        ("2026-11-28", None, ValueType.TEXT),
        (1.5, "DATETIME", ValueType.FLOAT),
        (b"x", "BOOLEAN", ValueType.BLOB),
    ],
)
def test_declared_types(
    value: int | float | str | bytes | None, decltype: str | None, kind: ValueType
) -> None:
    assert typed(value, decltype) == WireValue(kind, value)


def test_schema_0_holds_255_parameters() -> None:
    assert [params_schema(count) for count in (0, 255, 256)] == [0, 0, 1]
    with pytest.raises(ValueError, match="256"):
        encode_params([typed(1)] * 256, 0)


ROWS = st.lists(st.lists(VALUES, min_size=3, max_size=3).map(tuple), min_size=1, max_size=5)


@given(ROWS, st.booleans())
def test_rows_come_back_and_no_truncation_passes(rows: list[tuple[WireValue, ...]], is_last: bool) -> None:
    batch = RowsBatch(("a", "b", "c"), tuple(rows), is_last)
    encoded = encode_rows(batch)
    assert decode_rows(encoded, 3) == batch
    for length in range(len(encoded)):
        with pytest.raises(ProtocolViolation):
            decode_rows(encoded[:length], 3)


DECLTYPES = st.sampled_from([None, "INTEGER", "datetime", "DATE", "BOOLEAN", "boolean", "BOOL", "TIMESTAMP"])
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 1700000000, "2026-11-28"]),
) | st.one_of(st.floats(allow_nan=False), TEXTS, st.just("a\0b"), st.binary(max_size=20))


@given(st.lists(st.tuples(PLAIN, DECLTYPES), min_size=1, max_size=20))
def test_the_short_way_of_rows_gives_the_same_bytes(
    cells: list[tuple[int | float | str | bytes | None, str | None]],
) -> None:
    decltypes = [decltype for _, decltype in cells]
    expected = encode_row(tuple(typed(value, decltype) for value, decltype in cells))
    assert encode_plain_row([value for value, _ in cells], column_kinds(decltypes)) == expected


@given(st.binary(max_size=120))
def test_any_bytes_as_rows_are_a_batch_or_a_violation(body: bytes) -> None:
    with contextlib.suppress(ProtocolViolation):
        assert len(decode_rows(body, 8).columns) <= 8


def test_a_stalled_batch_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation, match="not the last"):
        decode_rows(bytes(8) + b"\xee" * 8)


def test_a_boolean_of_a_row_keeps_its_integer() -> None:
    batch = RowsBatch(("b",), ((WireValue(ValueType.BOOLEAN, -7),),), True)
    assert decode_rows(encode_rows(batch)) == batch


def test_rows_of_a_statement_without_columns() -> None:
    assert encode_rows(RowsBatch((), (), True)) == bytes(8) + b"\xff" * 8
