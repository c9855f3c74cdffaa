"""The short ways for frequent messages and whole frames agree with the long ways, also on what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
from hypothesis import example, given
from hypothesis import strategies as st

from dqlite_py.errors import Error, MalformedMessage, UnknownFormat
from dqlite_py.limits import HANDSHAKE_BYTES_MAX
from dqlite_py.model import Entry, EntryKind
from dqlite_py.raft.messages import AppendReply, AppendRequest
from dqlite_py.wire.frames import FrameDecoder, FrameType, encode_frames
from dqlite_py.wire.peer import TABLE, MessageEncoder, decode_message
from dqlite_py.wire.rpc import TABLE as RPC_TABLE
from dqlite_py.wire.rpc import Request, Response, decode_rpc, encode_rpc

WRONG = (
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    4,
    7,
    2**63 - 1,
    2**63,
    2**64 - 1,
    1.0,
    None,
    "x",
    b"",
    b"yy",
    [],
    [1],
    {},
)
numbers = st.integers(0, 12) | st.integers(0, 2**63 - 1)
REPLY = [4, 3, 5, True, 7, 0, 6, 2, 12, False]
REQUEST = [3, 1, 5, 7, 3, 6, 12, [[8, 3, 1, b""], [9, 5, 3, b"pay"]]]
LAST = 2**63 - 1


@st.composite
def bodies(draw: st.DrawFn) -> Any:
    """A request or a reply, right or with some of its values replaced, removed or added."""
    if draw(st.booleans()):
        values = [4, *draw(st.lists(numbers, min_size=9, max_size=9))]
        values[3], values[9] = draw(st.booleans()), draw(st.booleans())
    else:
        prev, term = draw(numbers), draw(st.integers(1, 9))
        entries = [
            [prev + n, term, draw(st.integers(0, 4)), draw(st.binary(max_size=4))] for n in range(1, 4)
        ]
        last = term + draw(st.integers(-1, 1))
        values = [3, 1, last, prev, term, 6, 12, entries[: draw(st.integers(0, 3))]]
    for _ in range(draw(st.integers(0, 2))):
        inside = draw(st.sampled_from([values, *(v for v in values if type(v) is list)]))
        inside = draw(st.sampled_from([inside, *(v for v in inside if type(v) is list)]))
        at = draw(st.integers(0, len(inside)))
        inside[at : at + draw(st.integers(0, 1))] = [draw(st.sampled_from(WRONG))] * draw(st.integers(0, 1))
    return values


def outcome(decode: Callable[[bytes], Any], body: bytes) -> tuple[str, str, dict[str, Any]]:
    """The record with its types, or the error with all it says."""
    try:
        return repr(decode(body)), "", {}
    except Error as error:
        return type(error).__name__, error.message, error.details


@given(bodies())
@example(REPLY)
@example(REQUEST)
@example([4, 0, *REPLY[2:]])
@example([4, 3, 5, 1, *REPLY[4:]])
@example([4, 3, -1, *REPLY[3:]])
@example([4, 3, 2**63, *REPLY[3:]])
@example([4.0, *REPLY[1:]])
@example([5, *REPLY[1:]])
@example([2, *REQUEST[1:]])
@example([3, 0, *REQUEST[2:]])
@example([*REQUEST[:3], LAST, 3, 6, 12, [[2**63, 5, 1, b""]]])
@example([*REQUEST[:3], LAST - 1, 3, 6, 12, [[LAST, 5, 1, b""]]])
@example([*REQUEST[:4], 0, 6, 12, [[8, 0, 1, b""]]])
@example([*REQUEST[:4], 6, 6, 12, []])
@example([*REQUEST[:7], [[8, 3, 1, b""], [9, 6, 3, b""]]])
@example([*REQUEST[:7], [[8, 4, 1, b""], [9, 3, 3, b""]]])
@example([*REQUEST[:7], [[8.0, 4, 1, b""]]])
@example([*REQUEST[:7], [[8, 4, 4, b""]]])
@example([*REQUEST[:7], [[8, 4, 1, "text"]]])
@example([*REQUEST[:7], [{"a": 1, "b": 2, "c": 3, "d": 4}]])
@example([*REQUEST[:7], [b"four"]])
def test_values(values: Any) -> None:
    body = msgpack.packb(values)
    assert outcome(decode_message, body) == outcome(TABLE.decode, body)


@given(
    st.sampled_from([REPLY, REQUEST]),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=3),
)
def test_damaged_bytes(values: list[Any], damage: list[tuple[int, int]]) -> None:
    body = bytearray(msgpack.packb(values))
    for at, value in damage:
        body[at % len(body)] = value
    assert outcome(decode_message, bytes(body)) == outcome(TABLE.decode, bytes(body))


rpc_values = st.sampled_from([*WRONG, "method", "m" * 100, "m" * 101, b"\xc0"])


@given(st.lists(rpc_values, max_size=5) | st.tuples(st.sampled_from([1, 2, 3]), *[rpc_values] * 3))
@example([1, 2**64 - 1, "m" * 100, b"\xc0"])
@example([1, 5, "m" * 101, b"\xc0"])
@example([1, -1, "m", b"\xc0"])
@example([2, 0, True, b""])
@example([2, -1, True, b""])
@example([2, 5, "m", b""])
@example([1, 5, False, b""])
@example([True, 5, "m", b""])
def test_requests_and_answers(values: Any) -> None:
    body = msgpack.packb(values)
    assert outcome(decode_rpc, body) == outcome(RPC_TABLE.decode, body)


@given(st.integers(0, 2**64 - 1), st.text(max_size=100), st.booleans(), st.binary(max_size=20))
def test_requests_and_answers_encoded(number: int, method: str, failed: bool, body: bytes) -> None:
    for message in (Request(number, method, body), Response(number, failed, body)):
        assert encode_rpc(message) == RPC_TABLE.encode(message)
        assert repr(decode_rpc(encode_rpc(message))) == repr(message)


entries = st.lists(
    st.builds(Entry, numbers, numbers, st.sampled_from(EntryKind), st.binary(max_size=9)), max_size=4
).map(tuple)
requests = st.builds(AppendRequest, numbers, numbers, numbers, numbers, entries, numbers, numbers)
replies = st.builds(
    AppendReply, numbers, numbers, st.booleans(), numbers, numbers, numbers, numbers, numbers, st.booleans()
)


@given(requests | replies, st.lists(st.integers(0, 3), max_size=3))
def test_encoded(message: AppendRequest | AppendReply, large: list[int]) -> None:
    if isinstance(message, AppendRequest):
        payloads = [bytes(70_000) if n in large else e.payload for n, e in enumerate(message.entries)]
        changed = [e._replace(payload=p) for e, p in zip(message.entries, payloads, strict=True)]
        message = message._replace(entries=tuple(changed))
    encoder = MessageEncoder()
    expected = encode_frames(FrameType.RAFT, TABLE.encode(message))
    for again in (message, message._replace(round=message.round)):
        assert b"".join(encoder.encode(again).frame(0)) == expected


pieces = st.sampled_from(FrameType).flatmap(
    lambda kind: st.binary(max_size=40).map(lambda body: (kind, body))
)


@given(
    st.lists(pieces, max_size=4),
    st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=2),
    st.booleans(),
    st.booleans(),
)
def test_frames_in_one_chunk_and_byte_by_byte(
    sent: list[tuple[FrameType, bytes]], damage: list[tuple[int, int]], established: bool, cut: bool
) -> None:
    stream = bytearray(b"".join(encode_frames(kind, body) for kind, body in sent))
    for at, value in damage if stream else []:
        stream[at % len(stream)] = value
    if cut:
        del stream[-1:]

    def heard(size: int) -> tuple[list[Any], str]:
        decoder = FrameDecoder()
        if established:
            decoder.established()
        found: list[Any] = []
        try:
            for at in range(0, len(stream), size):
                decoder.feed(bytes(stream[at : at + size]))
                while (message := decoder.next_message()) is not None:
                    found.append((message.type, bytes(message.body)))
                    if not decoder.has_more:
                        break
        except (MalformedMessage, UnknownFormat) as error:
            return found, error.message
        return found, ""

    assert len(stream) < HANDSHAKE_BYTES_MAX
    whole, damaged_whole = heard(len(stream) or 1)
    single, damaged_single = heard(1)
    # What cannot become a frame is refused at its first wrong byte or, in one chunk, as soon as its header is whole.
    assert whole == single
    assert bool(damaged_whole) == bool(damaged_single)
