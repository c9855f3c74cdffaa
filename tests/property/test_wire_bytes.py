"""Any bytes give valid messages or MalformedMessage/UnknownFormat; valid messages survive the trip."""

from __future__ import annotations

import contextlib
import struct
from typing import Any
from zlib import crc32

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlite_py.errors import MalformedMessage, UnknownFormat
from dqlite_py.limits import FRAME_FRAGMENT_BYTES
from dqlite_py.model import Address, Configuration, Entry, EntryKind, LogIndex, Member, NodeId, Role, Term
from dqlite_py.raft.messages import (
    AppendReply,
    AppendRequest,
    Message,
    SnapshotOffer,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from dqlite_py.wire.frames import FrameDecoder, FrameType, encode_frames
from dqlite_py.wire.handshake import decode_handshake, encode_handshake
from dqlite_py.wire.peer import decode_message, encode_message
from dqlite_py.wire.rpc import decode_rpc, encode_rpc, unpack_value

u63 = st.integers(0, 2**63 - 1)
node_ids = st.integers(1, 2**63 - 1).map(NodeId)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=20)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def appends(draw: st.DrawFn) -> AppendRequest:
    index, term = draw(st.integers(0, 2**40)), draw(st.integers(0, 2**40))
    start = (index, term)
    entries = []
    for step in draw(st.lists(st.integers(0, 3), max_size=5)):
        index, term = index + 1, max(1, term + step)
        payload = draw(st.binary(max_size=30))
        entries.append(Entry(LogIndex(index), Term(term), draw(st.sampled_from(EntryKind)), payload))
    current = Term(term + draw(st.integers(0, 5)))
    return AppendRequest(
        draw(node_ids), current, LogIndex(start[0]), Term(start[1]), tuple(entries), draw(u63), draw(u63)
    )


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    ids = sorted(draw(st.sets(node_ids, max_size=5)))
    members = tuple(Member(i, Address(f"host{i}:1"), draw(st.sampled_from(Role))) for i in ids)
    return Configuration(members, LogIndex(draw(u63)))


raft_messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(VoteRequest, node_ids, u63, st.booleans(), u63, u63, st.booleans()),
    st.builds(VoteReply, node_ids, u63, st.booleans(), u63, st.booleans()),
    appends(),
    st.builds(AppendReply, node_ids, u63, st.booleans(), u63, u63, u63, u63, u63, st.booleans()),
    st.builds(SnapshotOffer, node_ids, u63, u63, u63, configurations(), u63),
    st.builds(TimeoutNow, node_ids, u63),
)


@given(raft_messages)
def test_raft_messages_survive(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@given(raft_messages, st.data())
def test_damaged_raft_messages(message: Message, data: st.DataObject) -> None:
    body = bytearray(encode_message(message))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    judge_bodies(bytes(body))


@given(st.binary(max_size=200) | values.map(msgpack.packb))
def test_any_bytes_as_bodies(body: bytes) -> None:
    judge_bodies(body)


@given(st.integers(1, 9), st.lists(values, max_size=10))
def test_any_fields_in_a_numbered_array(number: int, fields: list[Any]) -> None:
    judge_bodies(msgpack.packb([number, *fields]))


def judge_bodies(body: bytes) -> None:
    """What is accepted is also canonical enough to be sent on and understood alike."""
    with contextlib.suppress(MalformedMessage):
        message = decode_message(body)
        assert decode_message(encode_message(message)) == message
    with contextlib.suppress(MalformedMessage, UnknownFormat):
        words = decode_handshake(body)
        assert decode_handshake(encode_handshake(words)) == words
    with contextlib.suppress(MalformedMessage):
        request = decode_rpc(body)
        assert decode_rpc(encode_rpc(request)) == request
    with contextlib.suppress(MalformedMessage):
        unpack_value(body)


@given(st.lists(st.tuples(st.sampled_from(FrameType), st.binary(max_size=50)), max_size=6), st.data())
def test_frames_in_any_chunks(sent: list[tuple[FrameType, bytes]], data: st.DataObject) -> None:
    stream = b"".join(encode_frames(kind, body) for kind, body in sent)
    decoder = FrameDecoder()
    decoder.established()
    found = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        decoder.feed(stream[:size])
        stream = stream[size:]
        while (message := decoder.next_message()) is not None:
            found.append((message.type, bytes(message.body)))
    assert found == sent


@given(st.lists(st.binary(max_size=60), max_size=5), st.booleans())
def test_any_bytes_as_frames(chunks: list[bytes], after_magic: bool) -> None:
    decoder = FrameDecoder()
    if after_magic:
        decoder.established()
        chunks = [b"\xd1lp\x01", *chunks]
    with contextlib.suppress(MalformedMessage, UnknownFormat):
        for chunk in chunks:
            decoder.feed(chunk)
            while decoder.next_message() is not None:
                assert decoder.pending_bytes <= sum(map(len, chunks))


pieces = st.tuples(
    st.sampled_from([FrameType.RAFT, FrameType.REQUEST]),
    st.integers(0, 5),
    st.sampled_from([0, 1, FRAME_FRAGMENT_BYTES + 1, FRAME_FRAGMENT_BYTES * 2, 2**26, 2**32 - 1]),
    st.sampled_from([0, 1, FRAME_FRAGMENT_BYTES, 2**32 - 1]),
    st.sampled_from([0, 1, FRAME_FRAGMENT_BYTES]),
)


@settings(max_examples=60)
@given(st.lists(pieces, max_size=8))
def test_fragments_with_valid_checksums_but_any_order(
    steps: list[tuple[FrameType, int, int, int, int]],
) -> None:
    decoder = FrameDecoder()
    decoder.established()
    fed = 0
    with contextlib.suppress(MalformedMessage):
        for kind, message_id, total, offset, size in steps:
            body = struct.pack(">QII", message_id, total, offset) + bytes(size)
            head = struct.pack(">3sBBBHI", b"\xd1lp", 1, kind, 1, 0, len(body))
            decoder.feed(head + struct.pack(">I", crc32(head + body)) + body)
            fed += size
            while (message := decoder.next_message()) is not None:
                assert len(message.body) == total
            assert decoder.pending_bytes <= fed
