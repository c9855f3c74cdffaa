"""The extension of dqlite's protocol: messages come back from their bytes, in one frame or in pieces, and any bytes end
in a message or a ProtocolViolation."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlite_py.limits import EXTENSION_MESSAGE_BYTES_MAX, SEND_QUEUE_BYTES_MAX
from dqlite_py.wire.dqlite import extension as ext
from dqlite_py.wire.dqlite.extension_flow import Assembly, ExtensionQueue
from dqlite_py.wire.dqlite.frames import Frame, FrameReader
from dqlite_py.wire.dqlite.violations import ProtocolViolation

CLUSTER = bytes(range(16))
u64 = st.integers(0, 2**64 - 1)
blob = st.binary(max_size=50)
method = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=25)
FROM_CLIENT = st.one_of(
    st.builds(ext.Extend, u64, u64, st.sampled_from([b"", CLUSTER])),
    st.builds(ext.Call, u64, method, blob),
    st.builds(ext.Cancel, u64),
    st.builds(ext.Credit, u64, u64),
    st.builds(ext.Ping, u64),
    st.builds(ext.Part, u64, blob),
)
FROM_NODE = st.one_of(
    st.builds(ext.Extended, u64, u64, st.just(CLUSTER), u64),
    st.builds(ext.Answer, u64, st.sampled_from(ext.AnswerKind), blob),
    st.builds(ext.Ping, u64),
    st.builds(ext.Part, u64, blob),
    st.builds(ext.Failure, u64, method),
)


def frames(data: bytes) -> list[Frame]:
    reader = FrameReader(ext.FRAME_BYTES_MAX)
    reader.feed(data)
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append(frame)
    assert not reader.buffered_bytes
    return found


def test_bytes_of_an_opening() -> None:
    assert ext.encode_opening(CLUSTER).hex() == (
        "0100000000000000"  # the handshake
        "05000000d0000000"  # five words, EXTEND
        "0100000000000000" + "00" * 8 + "1000000000000000" + CLUSTER.hex()
    )
    assert ext.encode_opening(b"").hex() == (
        "0100000000000000" + "03000000d0000000" + "0100000000000000" + "00" * 16
    )


def test_bytes_of_a_call_and_its_answer() -> None:
    assert ext.encode_call(7, "status", b"\x80").hex() == (
        "04000000d10000000700000000000000" + b"status\0\0".hex() + "0100000000000000" + "8000000000000000"
    )
    assert ext.encode_answer(7, ext.AnswerKind.OK, b"\xc0").hex() == (
        "04000000d2000000" + "0700000000000000" + "00" * 8 + "0100000000000000" + "c000000000000000"
    )


@given(FROM_CLIENT)
def test_what_a_client_says_comes_back(message: ext.Message) -> None:
    (frame,) = frames(ext.encode_message(message))
    assert ext.decode_from_client(frame) == message
    assert type(ext.decode_from_client(frame)) is type(message)


@given(FROM_NODE)
def test_what_a_node_says_comes_back(message: ext.Message) -> None:
    (frame,) = frames(ext.encode_message(message))
    assert ext.decode_from_node(frame) == message
    assert type(ext.decode_from_node(frame)) is type(message)


@given(u64, method, blob, st.sampled_from(ext.AnswerKind))
def test_the_quick_encoders_are_the_table(number: int, name: str, body: bytes, kind: ext.AnswerKind) -> None:
    assert ext.encode_call(number, name, body) == ext.encode_message(ext.Call(number, name, body))
    assert ext.encode_answer(number, kind, body) == ext.encode_message(ext.Answer(number, kind, body))


TYPES = st.one_of(st.integers(0, 255), st.integers(ext.FIRST_TYPE, ext.LAST_TYPE))
BODIES = st.binary(max_size=80).map(lambda body: body + bytes(-len(body) % 8))


@given(TYPES, st.integers(0, 2), BODIES)
def test_any_frame_is_a_message_or_a_violation(kind: int, schema: int, body: bytes) -> None:
    for decode in (ext.decode_from_client, ext.decode_from_node):
        with contextlib.suppress(ProtocolViolation):
            message = decode(Frame(kind, schema, body))
            assert decode(frames(ext.encode_message(message))[0]) == message


@given(st.one_of(FROM_CLIENT, FROM_NODE), st.data())
def test_a_message_with_a_byte_changed_or_cut_off(message: ext.Message, data: st.DataObject) -> None:
    frame = frames(ext.encode_message(message))[0]
    at = data.draw(st.integers(0, len(frame.body) - 1))
    changed = bytearray(frame.body)
    changed[at] ^= data.draw(st.integers(1, 255))
    for body in (bytes(changed), frame.body[: at - at % 8]):
        for decode in (ext.decode_from_client, ext.decode_from_node):
            with contextlib.suppress(ProtocolViolation):
                decode(frame._replace(body=body))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (ext.Call(1, "", b""), "name of 0 characters"),
        (ext.Call(1, "m" * (ext.METHOD_LENGTH_MAX + 1), b""), "name of 101 characters"),
        (ext.Extend(1, 0, b"short"), "cluster id of 5 bytes"),
    ],
)
def test_fields_out_of_bounds(message: ext.Message, text: str) -> None:
    with pytest.raises(ProtocolViolation, match=text):
        ext.decode_from_client(frames(ext.encode_message(message))[0])


def test_kinds_and_schemas_that_are_not_known() -> None:
    answer = frames(ext.encode_answer(1, 3, b"x"))[0]
    for frame, text in [
        (answer, "kind 3"),
        (answer._replace(schema=1), "schema version 1"),
        (Frame(0xDE, 0, bytes(8)), "type 0xde"),
        (frames(ext.encode_message(ext.Extended(1, 0, b"", 1)))[0], "cluster id of 0 bytes"),
    ]:
        with pytest.raises(ProtocolViolation, match=text):
            ext.decode_from_node(frame)


@given(st.binary(max_size=40))
def test_first_bytes(first: bytes) -> None:
    opening = ext.encode_opening(b"")
    expected = first[:13] == opening[:13]
    verdict = ext.starts_extended(first)
    assert verdict is (None if not expected and opening[:13].startswith(first[:13]) else expected)


@pytest.mark.parametrize("length", range(14))
def test_an_opening_is_told_by_its_thirteenth_byte(length: int) -> None:
    opening = ext.encode_opening(b"")
    assert ext.starts_extended(opening[:length]) is (True if length == 13 else None)
    other = opening[:12] + b"\x03"
    assert ext.starts_extended(other[:length]) is (False if length == 13 else None)


# -- the queue and the pieces -----------------------------------------------------------------------------------

SIZES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(-9, 9)).map(lambda s: max(0, s[0] * ext.FRAGMENT_BYTES + s[1])),
    max_size=6,
)


def received(data: bytes, assembly: Assembly) -> dict[int, bytes]:
    whole: dict[int, bytes] = {}
    for frame in frames(data):
        message: Any = ext.decode_from_client(frame)
        if isinstance(message, ext.Part):
            assembly.add(message)
        elif isinstance(message, ext.Call):
            assert message.id not in whole
            whole[message.id] = assembly.whole(message.id, message.body)
    return whole


@settings(deadline=None)
@given(SIZES, st.integers(1, 3 * ext.FRAGMENT_BYTES))
def test_bodies_of_any_size_arrive(sizes: list[int], budget: int) -> None:
    queue, assembly = ExtensionQueue(), Assembly(2**40, 100)
    bodies = {number: bytes([number]) * size for number, size in enumerate(sizes, 1)}
    queued = [queue.push_call(number, "m", body) for number, body in bodies.items()]
    data = b""
    while taken := queue.take(budget):
        assert sum(map(len, taken[:-1])) < budget
        data += b"".join(taken)
    assert queue.size_bytes == 0
    assert all(one is not None and one.is_handed_over for one in queued)
    assert received(data, assembly) == bodies
    assert (len(assembly), assembly.held_bytes) == (0, 0)


@given(SIZES, st.data())
def test_what_was_taken_back_never_arrives(sizes: list[int], data: st.DataObject) -> None:
    queue, assembly = ExtensionQueue(), Assembly(2**40, 100)
    queued = {n: queue.push_call(n, "m", bytes(size)) for n, size in enumerate(sizes, 1)}
    sent = b"".join(queue.take(data.draw(st.integers(0, 9 * ext.FRAGMENT_BYTES))))
    back = {n for n, one in queued.items() if data.draw(st.booleans()) and one and queue.remove(one)}
    for n in back:
        one = queued[n]
        assert one is not None
        assert queue.remove(one)  # again: nothing more happens
    while taken := queue.take(ext.FRAGMENT_BYTES):
        sent += b"".join(taken)
    assert queue.size_bytes == 0
    assert received(sent, assembly).keys() == queued.keys() - back
    begun = {n for n in back if (one := queued[n]) is not None and one.is_begun}
    assert {n for n in queued if assembly.drop(n)} == begun
    assert assembly.held_bytes == 0


def test_a_small_message_overtakes_a_large_one() -> None:
    queue = ExtensionQueue()
    queue.push_call(1, "m", bytes(3 * ext.FRAGMENT_BYTES))
    first = frames(b"".join(queue.take(1)))
    queue.push_call(2, "m", b"")
    rest = [ext.decode_from_client(frame) for frame in frames(b"".join(queue.take(2**30)))]
    assert [type(message).__name__ for message in rest] == ["Call", "Part", "Call"]
    assert len(first) == 1


def test_large_messages_take_turns() -> None:
    queue = ExtensionQueue()
    for number in (1, 2):
        queue.push_call(number, "m", bytes(2 * ext.FRAGMENT_BYTES))
    found: list[Any] = [ext.decode_from_client(frame) for frame in frames(b"".join(queue.take(2**30)))]
    assert [message.id for message in found] == [1, 2, 1, 2]


def test_a_full_queue_takes_nothing_more() -> None:
    queue = ExtensionQueue()
    assert queue.push_call(1, "m", bytes(SEND_QUEUE_BYTES_MAX + 1)) is not None
    assert queue.push_call(2, "m", bytes(ext.FRAGMENT_BYTES + 1)) is None
    assert queue.push_call(3, "m", b"") is not None
    queue.clear()
    assert queue.take(1) == []
    assert queue.size_bytes == 0


def piece(number: int) -> ext.Part:
    return ext.Part(number, bytes(ext.FRAGMENT_BYTES))


def test_bounds_of_messages_in_pieces() -> None:
    assembly = Assembly(3 * ext.FRAGMENT_BYTES, 2)
    assembly.add(piece(1))
    assembly.add(piece(2))
    with pytest.raises(ProtocolViolation, match="more than 2 messages"):
        assembly.add(piece(3))
    assembly.add(piece(1))
    with pytest.raises(ProtocolViolation, match="too many bytes"):
        assembly.add(piece(1))
    with pytest.raises(ProtocolViolation, match="a piece of 5 bytes"):
        assembly.add(ext.Part(1, b"short"))
    assert assembly.held_bytes == 3 * ext.FRAGMENT_BYTES


def test_one_message_in_pieces_is_bounded() -> None:
    assembly = Assembly(2**40, 2)
    for _ in range(EXTENSION_MESSAGE_BYTES_MAX // ext.FRAGMENT_BYTES):
        assembly.add(piece(1))
    with pytest.raises(ProtocolViolation, match="too many bytes"):
        assembly.add(piece(1))
    assert assembly.held_bytes <= EXTENSION_MESSAGE_BYTES_MAX
