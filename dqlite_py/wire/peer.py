"""Raft messages to bytes and back (the body of a RAFT frame). No I/O; for raft/transport.py, loop thread.

Entries are packed once for all followers: an AppendRequest sent to several peers is the same bytes, and the
packed entries are kept for as long as the leader goes on sending them.
"""

from __future__ import annotations

import operator
import struct
from collections import deque
from typing import Any, Final

import msgpack

from dqlite_py.limits import APPEND_ENTRIES_MAX, ENTRY_BYTES_MAX, FRAME_FRAGMENT_BYTES, MEMBERS_MAX
from dqlite_py.model import Configuration, Entry, EntryKind, LogIndex, Term
from dqlite_py.raft.messages import (
    AppendReply,
    AppendRequest,
    Message,
    SnapshotOffer,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from dqlite_py.wire.frames import FrameType, OutgoingMessage
from dqlite_py.wire.sendqueue import Lane
from dqlite_py.wire.tables import BOOL, NODE_ID, U63, Body, Kind, Raw, Row, Table

_KINDS: Final = {int(kind): kind for kind in EntryKind}
_REMEMBERED: Final = 8
_OWN_PIECE_BYTES: Final = 64 * 1024  # from here on msgpack itself writes a length of 32 bits
_BIN32: Final = struct.Struct(">BI")


def _decode_entry(value: Any) -> Entry:
    if not (type(value) is list and len(value) == 4):
        raise ValueError("an entry is [index, term, kind, payload]")
    index, term, number, payload = value
    kind = _KINDS.get(number) if type(number) is int else None
    if not (
        type(index) is int
        and type(term) is int
        and kind is not None
        and type(payload) is bytes
        and 0 < index < 2**63
        and 0 < term < 2**63
        and len(payload) <= ENTRY_BYTES_MAX
    ):
        raise ValueError(f"malformed entry {index!r:.24} of term {term!r:.24}, kind {number!r:.24}")
    return Entry(LogIndex(index), Term(term), kind, payload)


def _decode_entries(value: Any) -> tuple[Entry, ...]:
    if type(value) is not list or len(value) > APPEND_ENTRIES_MAX:
        raise ValueError(f"not a list of at most {APPEND_ENTRIES_MAX} entries")
    return tuple([_decode_entry(item) for item in value])


def _decode_configuration(value: Any) -> Configuration:
    # Its index is the offer's (`_check_offer`); kept as 0 on the wire to have it once only.
    if (
        type(value) is not list
        or len(value) != 2
        or type(value[0]) is not list
        or len(value[0]) > MEMBERS_MAX
    ):
        raise ValueError("a configuration is [members, index]")
    return Configuration.from_wire(value[0], int(U63.decode(value[1])))


def _encode_configuration(configuration: Configuration) -> list[Any]:
    return [configuration.to_wire(), configuration.index]


def _pack_entries(entries: tuple[Entry, ...]) -> Raw:
    """msgpack of the entries; large payloads are pieces of their own, so that they are copied once only."""
    packer = msgpack.Packer(use_bin_type=True, autoreset=False)
    packer.pack_array_header(len(entries))
    pieces: list[bytes] = []
    for entry in entries:
        if len(entry.payload) < _OWN_PIECE_BYTES:
            packer.pack(entry)
            continue
        packer.pack_array_header(4)
        packer.pack(entry.index)
        packer.pack(entry.term)
        packer.pack(int(entry.kind))
        pieces += (packer.bytes(), _BIN32.pack(0xC6, len(entry.payload)), entry.payload)
        packer.reset()
    pieces.append(packer.bytes())
    return pieces


ENTRIES = Kind("entries", _decode_entries, _pack_entries, raw=True)
CONFIGURATION = Kind("configuration", _decode_configuration, _encode_configuration)


def _check_append(message: AppendRequest) -> None:
    index, term = message.prev_index, message.prev_term
    for entry in message.entries:
        if entry.index != index + 1 or not term <= entry.term <= message.term:
            raise ValueError(
                f"entry {entry.index} of term {entry.term} follows {index} of term {term}, "
                f"in term {message.term}"
            )
        index, term = entry.index, entry.term


TABLE: Final = Table(
    "raft message",
    (
        Row(
            1,
            VoteRequest,
            (
                ("sender", NODE_ID),
                ("term", U63),
                ("pre", BOOL),
                ("last_index", U63),
                ("last_term", U63),
                ("transfer", BOOL),
            ),
        ),
        Row(
            2,
            VoteReply,
            (("sender", NODE_ID), ("term", U63), ("pre", BOOL), ("for_term", U63), ("granted", BOOL)),
        ),
        Row(
            3,
            AppendRequest,
            (
                ("sender", NODE_ID),
                ("term", U63),
                ("prev_index", U63),
                ("prev_term", U63),
                ("commit_index", U63),
                ("round", U63),
                ("entries", ENTRIES),
            ),
            _check_append,
        ),
        Row(
            4,
            AppendReply,
            (
                ("sender", NODE_ID),
                ("term", U63),
                ("reject", BOOL),
                ("prev_index", U63),
                ("match_index", U63),
                ("hint_index", U63),
                ("hint_term", U63),
                ("round", U63),
                ("needs_snapshot", BOOL),
            ),
        ),
        Row(
            5,
            SnapshotOffer,
            (
                ("sender", NODE_ID),
                ("term", U63),
                ("index", U63),
                ("snapshot_term", U63),
                ("configuration", CONFIGURATION),
                ("round", U63),
            ),
        ),
        Row(6, TimeoutNow, (("sender", NODE_ID), ("term", U63))),
    ),
    values_max=max(APPEND_ENTRIES_MAX, MEMBERS_MAX),
)


def encode_message(message: Message) -> bytes:
    return TABLE.encode(message)


def decode_message(body: Body) -> Message:
    """Any bytes to a valid message; raises MalformedMessage."""
    message: Message = TABLE.decode(body)
    return message


def lane_of(message: Message, append_lane_bytes: int) -> Lane:
    """Which lane of a connection a message takes; `append_lane_bytes`: what waits in Lane.APPEND.

    Entries stay in order. A heartbeat may overtake them only where they would delay it: the follower refuses
    one that refers to entries still on their way, and the leader would probe in vain.
    """
    if type(message) is not AppendRequest:
        return Lane.CONTROL
    if message.entries or append_lane_bytes <= FRAME_FRAGMENT_BYTES:
        return Lane.APPEND
    return Lane.CONTROL


class MessageEncoder:
    """Messages to frames for all peers of one transport; remembers its last AppendRequests and entries.

    Same message object, same frames; same entry objects in the same order, same packed entries.
    """

    def __init__(self) -> None:
        self._messages: deque[tuple[AppendRequest, OutgoingMessage]] = deque(maxlen=_REMEMBERED)
        self._entries: deque[tuple[tuple[Entry, ...], Raw]] = deque(maxlen=_REMEMBERED)

    def encode(self, message: Message) -> OutgoingMessage:
        """Raises RequestTooLarge when it is over FRAME_BYTES_MAX."""
        if type(message) is not AppendRequest or not message.entries:
            return OutgoingMessage(FrameType.RAFT, encode_message(message))
        for known, outgoing in self._messages:
            if known is message:
                return outgoing
        outgoing = OutgoingMessage(FrameType.RAFT, TABLE.encode(message, self._packed(message.entries)))
        self._messages.append((message, outgoing))
        return outgoing

    def forget(self) -> None:
        """Drop what is remembered (nothing is waiting to be sent)."""
        self._messages.clear()
        self._entries.clear()

    def _packed(self, entries: tuple[Entry, ...]) -> Raw:
        for known, packed in self._entries:
            if known is entries or (len(known) == len(entries) and all(map(operator.is_, known, entries))):
                return packed
        packed = _pack_entries(entries)
        self._entries.append((entries, packed))
        return packed
