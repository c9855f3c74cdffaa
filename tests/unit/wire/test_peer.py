"""Raft messages on the wire: the table, golden bytes, what is refused, shared encoding."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from dqlite_py.errors import MalformedMessage
from dqlite_py.limits import APPEND_ENTRIES_MAX
from dqlite_py.model import Address, Configuration, Entry, EntryKind, LogIndex, Member, NodeId, Role, Term
from dqlite_py.raft import messages
from dqlite_py.raft.messages import (
    AppendReply,
    AppendRequest,
    Message,
    SnapshotOffer,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from dqlite_py.wire import peer
from dqlite_py.wire.frames import FrameDecoder
from dqlite_py.wire.peer import TABLE, MessageEncoder, decode_message, encode_message

CONFIGURATION = Configuration(
    (Member(NodeId(1), Address("a:1"), Role.VOTER), Member(NodeId(2), Address("b:2"), Role.STANDBY)),
    LogIndex(4),
)
ENTRIES = (
    Entry(LogIndex(8), Term(3), EntryKind.NOOP, b""),
    Entry(LogIndex(9), Term(5), EntryKind.COMMAND, b"\x00pay"),
)
GOLDEN: list[tuple[Message, str]] = [
    (VoteRequest(NodeId(1), Term(2), True, LogIndex(3), Term(1), False), "97010102c30301c2"),
    (VoteReply(NodeId(2**62), Term(2), False, Term(3), True), "9602cf400000000000000002c203c3"),
    (
        AppendRequest(NodeId(1), Term(5), LogIndex(7), Term(3), ENTRIES, LogIndex(6), 12),
        "980301050703060c9294080301c40094090503c40400706179",
    ),
    (AppendRequest(NodeId(1), Term(5), LogIndex(7), Term(3), (), LogIndex(6), 12), "980301050703060c90"),
    (
        AppendReply(NodeId(3), Term(5), True, LogIndex(7), LogIndex(0), LogIndex(6), Term(2), 12, False),
        "9a040305c3070006020cc2",
    ),
    (
        SnapshotOffer(NodeId(1), Term(5), LogIndex(9), Term(4), CONFIGURATION, 13),
        "97050105090492929301a3613a31009302a3623a3201040d",
    ),
    (TimeoutNow(NodeId(1), Term(5)), "93060105"),
]


@pytest.mark.parametrize(("message", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_golden_bytes(message: Message, golden: str) -> None:
    assert encode_message(message).hex() == golden
    assert decode_message(bytes.fromhex(golden)) == message


def test_every_message_has_a_row_with_its_fields() -> None:
    assert {row.record for row in TABLE.rows} == set(messages.Message.__args__)
    for row in TABLE.rows:
        assert {name for name, _ in row.fields} == set(row.record._fields)


def test_the_table_as_text() -> None:
    assert TABLE.describe().splitlines()[1] == (
        "  1 VoteRequest: sender node id, term u63, pre bool, last_index u63, last_term u63, transfer bool"
    )


def append(*entries: Any, prev: int = 7, prev_term: int = 3, term: int = 5) -> bytes:
    return bytes(msgpack.packb([3, 1, term, prev, prev_term, 6, 12, list(entries)]))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgpack.packb({}),
        msgpack.packb([]),
        msgpack.packb(["1"]),
        msgpack.packb([True, 1, 5]),
        msgpack.packb([99, 1]),
        msgpack.packb([6, 1]),
        msgpack.packb([6, 1, 5, 5]),
        msgpack.packb([6, 0, 5]),
        msgpack.packb([6, 2**63, 5]),
        msgpack.packb([6, 1, -1]),
        msgpack.packb([6, 1, 2**63]),
        msgpack.packb([6, 1, True]),
        msgpack.packb([6, 1, 5.0]),
        msgpack.packb([6, 1, 5]) + b"\x00",
        msgpack.packb([1, 1, 2, 1, 3, 1, False]),
        msgpack.packb([6, 1, msgpack.ExtType(1, b"x")]),
        b"\x93\x06\x01\xa1\xff",
        append([8, 3, 1]),
        append([8, 3, 4, b""]),
        append([8, 3, True, b""]),
        append([8, 3, 1, "text"]),
        append([0, 3, 1, b""], prev=-1),
        append([9, 3, 1, b""]),
        append([8, 2, 1, b""]),
        append([8, 6, 1, b""]),
        append([8, 4, 1, b""], [10, 4, 1, b""]),
        append([8, 4, 1, b""], [9, 3, 1, b""]),
        append(*[[8 + n, 4, 1, b""] for n in range(APPEND_ENTRIES_MAX + 1)]),
        msgpack.packb([3, 1, 5, 7, 3, 6, 12, {}]),
        msgpack.packb([5, 1, 5, 9, 4, [[[1, "", 0]], 4], 13]),
        msgpack.packb([5, 1, 5, 9, 4, [[[1, "a", 0], [1, "b", 0]], 4], 13]),
        msgpack.packb([5, 1, 5, 9, 4, [[[n, f"a:{n}", 0] for n in range(1, 66)], 4], 13]),
        msgpack.packb([5, 1, 5, 9, 4, [], 13]),
        # Arrays that promise 2**32-1 elements, nested: nothing may be reserved for them.
        b"\xdd\xff\xff\xff\xff" * 400,
        b"\x91" * 10_000,
    ],
)
def test_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_message(body)


def test_entries_are_packed_once_for_all_followers(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = MessageEncoder()
    payload = bytes(100)
    entries = tuple(Entry(LogIndex(n), Term(1), EntryKind.COMMAND, payload) for n in range(1, 4))
    first = AppendRequest(NodeId(1), Term(1), LogIndex(0), Term(0), entries, LogIndex(0), 1)
    assert encoder.encode(first) is encoder.encode(first)
    packed: list[int] = []
    pack_entries = peer._pack_entries
    monkeypatch.setattr(peer, "_pack_entries", lambda entries: packed.append(1) or pack_entries(entries))

    def sent(message: AppendRequest) -> Message:
        (frame,) = encoder.encode(message).frame(0)
        decoder = FrameDecoder()
        decoder.established()
        decoder.feed(frame)
        received = decoder.next_message()
        assert received is not None
        return decode_message(received.body)

    # The same entries in another list, as when two followers are sent the same slice.
    again = (*entries[:1], *entries[1:])
    second = AppendRequest(NodeId(1), Term(1), LogIndex(0), Term(0), again, LogIndex(2), 7)
    assert sent(second) == second
    assert packed == []
    # Equal positions are not enough: another entry is another encoding.
    other = (*entries[:1], Entry(LogIndex(2), Term(1), EntryKind.COMMAND, bytes(99)), *entries[2:])
    third = AppendRequest(NodeId(1), Term(1), LogIndex(0), Term(0), other, LogIndex(2), 7)
    assert sent(third) == third
    assert packed == [1]
    encoder.forget()
    assert sent(first) == first
    assert packed == [1, 1]


@pytest.mark.parametrize("sizes", [[0], [65_535], [65_536], [70_000, 1, 0, 200_000, 65_536], [3, 65_536, 4]])
def test_large_payloads_are_packed_as_msgpack_would(sizes: list[int]) -> None:
    entries = tuple(
        Entry(LogIndex(n), Term(3), EntryKind.COMMAND, bytes([n]) * size) for n, size in enumerate(sizes, 8)
    )
    message = AppendRequest(NodeId(1), Term(5), LogIndex(7), Term(3), entries, LogIndex(6), 12)
    expected = msgpack.packb([3, 1, 5, 7, 3, 6, 12, [list(entry) for entry in entries]])
    assert encode_message(message) == expected
    assert decode_message(expected) == message


@pytest.mark.parametrize(("message", "golden"), GOLDEN[2:5], ids=lambda value: type(value).__name__)
def test_what_every_write_sends_is_read_without_the_table(
    message: Message, golden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(peer, "TABLE")
    assert repr(decode_message(bytes.fromhex(golden))) == repr(message)
