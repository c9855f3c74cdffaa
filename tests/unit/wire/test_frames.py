"""Frames: golden bytes, every way to cut them, every way to damage them, bounds."""

from __future__ import annotations

import random
import struct
from zlib import crc32

import pytest

from dqlite_py import limits
from dqlite_py.errors import MalformedMessage, RequestTooLarge, UnknownFormat
from dqlite_py.limits import FRAME_FRAGMENT_BYTES, HANDSHAKE_BYTES_MAX
from dqlite_py.wire.frames import (
    HEADER_BYTES,
    FrameDecoder,
    FrameType,
    OutgoingMessage,
    Received,
    encode_frames,
    starts_like_a_frame,
)


def decoder(message_max: int = limits.FRAME_BYTES_MAX) -> FrameDecoder:
    made = FrameDecoder()
    made.established(message_max)
    return made


def drain(into: FrameDecoder, data: bytes) -> list[Received]:
    into.feed(data)
    found = []
    while (message := into.next_message()) is not None:
        found.append(message)
    return found


def raw_frame(number: int, flags: int, body: bytes, *, magic: bytes = b"\xd1lp", version: int = 1) -> bytes:
    head = struct.pack(">3sBBBHI", magic, version, number, flags, 0, len(body))
    return head + struct.pack(">I", crc32(head + body)) + body


def fragment(message_id: int, total: int, offset: int, data: bytes, number: int = FrameType.RAFT) -> bytes:
    return raw_frame(number, 1, struct.pack(">QII", message_id, total, offset) + data)


def test_golden_bytes() -> None:
    assert encode_frames(FrameType.PING, b"").hex() == "d16c70010400000000000000837a2432"
    assert encode_frames(FrameType.RAFT, b"hello").hex() == "d16c70010600000000000005bbf877ff68656c6c6f"


@pytest.mark.rf("RF-10")
@pytest.mark.parametrize(
    "size",
    [0, 1, 131_021, 131_069, 131_072]
    + [n * FRAME_FRAGMENT_BYTES + d for n in (1, 2, 3) for d in (-16, -1, 0, 1, 16)],
)
def test_every_size_around_a_fragment_arrives(size: int) -> None:
    body = random.Random(size).randbytes(size)
    assert drain(decoder(), encode_frames(FrameType.RAFT, body)) == [(FrameType.RAFT, body)]


def test_chunks_of_any_size() -> None:
    rng = random.Random(7)
    bodies = [rng.randbytes(rng.choice([0, 3, 1000, FRAME_FRAGMENT_BYTES + 5])) for _ in range(8)]
    stream = b"".join(encode_frames(FrameType.RAFT, body) for body in bodies)
    for step in (1, 7, 4096, 300_000):
        reader, found = decoder(), []
        if step == 1:
            stream_now, wanted = stream[:5000], None
        else:
            stream_now, wanted = stream, bodies
        for at in range(0, len(stream_now), step):
            found += drain(reader, stream_now[at : at + step])
        if wanted is not None:
            assert [bytes(message.body) for message in found] == wanted
            assert reader.pending_bytes == 0


def test_fragments_of_several_messages_may_interleave() -> None:
    first, second = bytes(FRAME_FRAGMENT_BYTES + 1), b"b" * (2 * FRAME_FRAGMENT_BYTES)
    outgoing = [OutgoingMessage(FrameType.RAFT, first), OutgoingMessage(FrameType.REQUEST, second)]
    reader, found = decoder(), []
    for position in (0, 1):
        for message in outgoing:
            found += drain(reader, b"".join(message.frame(position)))
            found += drain(reader, encode_frames(FrameType.PING, b""))
    assert [(m.type, bytes(m.body)) for m in found if m.type is not FrameType.PING] == [
        (FrameType.RAFT, first),
        (FrameType.REQUEST, second),
    ]


def test_the_same_message_gives_the_same_frames() -> None:
    message = OutgoingMessage(FrameType.RAFT, b"shared")
    assert message.frame(0)[0] is message.frame(0)[0]


def test_every_flipped_bit_is_found() -> None:
    frame = encode_frames(FrameType.RAFT, b"some body")
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        reader = decoder()
        # A longer length takes in what follows, and the checksum covers that.
        reader.feed(bytes(damaged) + bytes(FRAME_FRAGMENT_BYTES))
        try:
            first = reader.next_message()
        except (MalformedMessage, UnknownFormat):
            continue
        assert first is None, f"bit {bit}"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"G", "magic"),
        (b"\xd1l\x00", "magic"),
        (raw_frame(6, 0, b"", magic=b"\xd1lq"), "magic"),
        (raw_frame(99, 0, b""), "header"),
        (raw_frame(6, 2, b""), "header"),
        (raw_frame(1, 1, b"x" * 20), "fragment"),
        (struct.pack(">3sBBBHI", b"\xd1lp", 1, 6, 0, 0, FRAME_FRAGMENT_BYTES + 1), "length"),
        (struct.pack(">3sBBBHI", b"\xd1lp", 1, 6, 1, 0, 2**32 - 1), "length"),
        (struct.pack(">3sBBBHI", b"\xd1lp", 1, 6, 0, 1, 0), "header"),
        (raw_frame(6, 1, b"x" * 16), "fragment"),
        (fragment(1, 10, 0, b"x" * 10), "total"),
        (fragment(1, limits.FRAME_BYTES_MAX + 1, 0, bytes(FRAME_FRAGMENT_BYTES)), "total"),
        (fragment(1, FRAME_FRAGMENT_BYTES + 1, 1, b"x"), "fragment order"),
        (fragment(1, FRAME_FRAGMENT_BYTES + 1, 0, b"x"), "fragment size"),
        (fragment(1, 3 * FRAME_FRAGMENT_BYTES, 0, bytes(FRAME_FRAGMENT_BYTES)) * 2, "fragment order"),
        (
            fragment(1, FRAME_FRAGMENT_BYTES + 1, 0, bytes(FRAME_FRAGMENT_BYTES))
            + fragment(1, FRAME_FRAGMENT_BYTES + 2, FRAME_FRAGMENT_BYTES, b"xx"),
            "fragment order",
        ),
        (
            fragment(1, FRAME_FRAGMENT_BYTES + 1, 0, bytes(FRAME_FRAGMENT_BYTES))
            + fragment(1, FRAME_FRAGMENT_BYTES + 1, FRAME_FRAGMENT_BYTES, b"x", FrameType.REQUEST),
            "fragment order",
        ),
    ],
)
def test_malformed(data: bytes, what: str) -> None:
    reader = decoder()
    with pytest.raises(MalformedMessage) as caught:
        drain(reader, data)
    assert caught.value.details["what"] == what
    with pytest.raises(MalformedMessage):
        reader.feed(encode_frames(FrameType.PING, b""))
    assert reader.pending_bytes == 0


def test_an_unknown_version_is_refused_by_name() -> None:
    with pytest.raises(UnknownFormat, match="frame format 2 is not known to this release"):
        drain(decoder(), raw_frame(6, 0, b"", version=2))


def test_partly_received_messages_are_bounded_in_number_and_bytes() -> None:
    begun = bytes(FRAME_FRAGMENT_BYTES)
    reader = decoder()
    for message_id in range(limits.PARTIAL_MESSAGES_MAX):
        drain(reader, fragment(message_id, FRAME_FRAGMENT_BYTES + 1, 0, begun))
    with pytest.raises(MalformedMessage, match="too many messages"):
        drain(reader, fragment(99, FRAME_FRAGMENT_BYTES + 1, 0, begun))
    reader = decoder()
    for message_id in range(2):
        drain(reader, fragment(message_id, limits.FRAME_BYTES_MAX, 0, begun))
    with pytest.raises(MalformedMessage, match="too many bytes"):
        drain(reader, fragment(99, FRAME_FRAGMENT_BYTES + 1, 0, begun))


def test_a_promise_reserves_no_memory() -> None:
    reader = decoder()
    drain(reader, fragment(1, limits.FRAME_BYTES_MAX, 0, bytes(FRAME_FRAGMENT_BYTES)))
    assert reader.pending_bytes == FRAME_FRAGMENT_BYTES


class TestBeforeTheHandshake:
    def test_a_long_frame_is_refused_by_its_header(self) -> None:
        reader = FrameDecoder()
        with pytest.raises(MalformedMessage, match="over the limit of 4096"):
            drain(reader, struct.pack(">3sBBBHI", b"\xd1lp", 1, 1, 0, 0, HANDSHAKE_BYTES_MAX + 1))

    def test_no_fragments(self) -> None:
        with pytest.raises(MalformedMessage, match="fragments"):
            drain(FrameDecoder(), fragment(1, FRAME_FRAGMENT_BYTES + 1, 0, b"x"))

    def test_bytes_are_counted_over_frames(self) -> None:
        reader = FrameDecoder()
        frame = encode_frames(FrameType.PING, bytes(1000))
        for _ in range(HANDSHAKE_BYTES_MAX // len(frame)):
            assert drain(reader, frame) == [(FrameType.PING, bytes(1000))]
        with pytest.raises(MalformedMessage, match="before the handshake"):
            drain(reader, frame)

    def test_what_follows_the_handshake_in_one_chunk_is_welcome(self) -> None:
        reader = FrameDecoder()
        reader.feed(encode_frames(FrameType.HELLO, b"hi") + encode_frames(FrameType.RAFT, bytes(50_000)))
        assert reader.next_message() == (FrameType.HELLO, b"hi")
        reader.established()
        assert reader.next_message() == (FrameType.RAFT, bytes(50_000))


def test_a_callers_message_limit() -> None:
    reader = decoder(message_max=limits.STRANGER_BYTES_MAX)
    with pytest.raises(MalformedMessage):
        drain(reader, encode_frames(FrameType.REQUEST, bytes(limits.STRANGER_BYTES_MAX + 1)))
    reader = decoder(message_max=limits.STRANGER_BYTES_MAX)
    with pytest.raises(MalformedMessage):
        drain(reader, encode_frames(FrameType.REQUEST, bytes(FRAME_FRAGMENT_BYTES + 1)))


def test_too_large_to_send() -> None:
    with pytest.raises(RequestTooLarge):
        OutgoingMessage(FrameType.RAFT, bytes(limits.FRAME_BYTES_MAX + 1))
    with pytest.raises(RequestTooLarge):
        OutgoingMessage(FrameType.HELLO, bytes(FRAME_FRAGMENT_BYTES + 1))


def test_first_bytes() -> None:
    assert starts_like_a_frame(b"\xd1") is None
    assert starts_like_a_frame(b"\xd1lp") is True
    assert starts_like_a_frame(b"\xd1lp\x01\x01") is True
    assert starts_like_a_frame(b"GET") is False
    assert starts_like_a_frame(b"\xd1x") is False
    assert HEADER_BYTES == 16
