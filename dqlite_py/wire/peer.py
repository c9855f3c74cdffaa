"""Raft messages to bytes and back (the body of a RAFT frame). No I/O; for raft/transport.py, loop thread.

Entries are packed once for all followers: an AppendRequest sent to several peers is the same bytes, and the
packed entries are kept for as long as the leader goes on sending them.
The table defines the messages. The two that every write sends, AppendRequest and AppendReply, have short ways
beside it; these know only what is right, all that is wrong they leave to the table to judge.
"""

from __future__ import annotations

import operator
import struct
from typing import Any, Final, TypeVar

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
from dqlite_py.wire.tables import BOOL, NODE_ID, U63, UNPACKABLE, UNREADABLE, Body, Kind, Raw, Row, Table

Remembered = TypeVar("Remembered")
_KINDS: Final = {int(kind): kind for kind in EntryKind}
_VALUES_MAX: Final = max(APPEND_ENTRIES_MAX, MEMBERS_MAX)
_REMEMBERED: Final = 8
_SOON_PACKED_BYTES: Final = 4 * 1024  # a lone entry up to this is packed in less time than it is looked up
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
    configuration = Configuration.from_wire(value[0], int(U63.decode(value[1])))
    if len(configuration.members) > MEMBERS_MAX:
        raise ValueError(f"a configuration has at most {MEMBERS_MAX} members")
    return configuration


def _encode_configuration(configuration: Configuration) -> list[Any]:
    return [configuration.to_wire(), configuration.index]


def _pack_entries(entries: tuple[Entry, ...]) -> Raw:
    """msgpack of the entries; large payloads are pieces of their own, so that they are copied once only."""
    packer = msgpack.Packer(use_bin_type=True, autoreset=False)
    if sum([len(entry.payload) for entry in entries]) < _OWN_PIECE_BYTES:
        packer.pack(entries)
        return [packer.bytes()]
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
    values_max=_VALUES_MAX,
)


_APPEND_REQUEST: Final = 3
_APPEND_REPLY: Final = 4
_REQUEST_TYPES: Final[list[type]] = [int, int, int, int, int, int, int, list]
_REPLY_TYPES: Final[list[type]] = [int, int, int, bool, int, int, int, int, int, bool]
_new_tuple = tuple.__new__  # a NamedTuple's own constructor is a Python call


def encode_message(message: Message) -> bytes:
    return TABLE.encode(message)


def decode_message(body: Body) -> Message:
    """Any bytes to a valid message; raises MalformedMessage."""
    try:
        values = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            use_list=True,
            max_ext_len=0,
            max_array_len=_VALUES_MAX,
            max_map_len=_VALUES_MAX,
        )
        types = [*map(type, values)]
        if types == _REPLY_TYPES:
            number, sender, term, _, prev, match, hint, hint_term, round_number, _ = values
            # Shifted, only an integer of 63 bits that is not negative is nothing.
            if (
                number == _APPEND_REPLY
                and sender > 0
                and not (sender | term | prev | match | hint | hint_term | round_number) >> 63
            ):
                del values[0]
                return _new_tuple(AppendReply, values)
        elif types == _REQUEST_TYPES and values[0] == _APPEND_REQUEST:
            request = _append_request(values)
            if request is not None:
                return request
    except UNREADABLE:
        pass
    message: Message = TABLE.decode(body)
    return message


def _append_request(values: list[Any]) -> AppendRequest | None:
    """The record if these fields, of the right types, are those of a valid one."""
    _, sender, term, prev_index, prev_term, commit_index, round_number, items = values
    if (
        sender <= 0
        or (sender | term | prev_index | prev_term | commit_index | round_number) >> 63
        or len(items) > APPEND_ENTRIES_MAX
    ):
        return None
    entries = []
    index, last_term = prev_index, prev_term
    for item in items:
        if type(item) is not list or len(item) != 4:
            return None
        index += 1
        found, entry_term, number, payload = item
        if (
            type(found) is not int
            or type(entry_term) is not int
            or type(number) is not int
            or type(payload) is not bytes
            or found != index
            or entry_term < last_term
            or entry_term == 0
            or number not in _KINDS
            or len(payload) > ENTRY_BYTES_MAX
        ):
            return None
        last_term = entry_term
        entries.append(_new_tuple(Entry, (found, entry_term, _KINDS[number], payload)))
    if last_term > term or index >> 63:
        return None
    return _new_tuple(
        AppendRequest, (sender, term, prev_index, prev_term, tuple(entries), commit_index, round_number)
    )


def lane_of(message: Message, append_lane_bytes: int) -> Lane:
    """Which lane of a connection a message takes; `append_lane_bytes`: what waits in Lane.APPEND.

    Entries stay in order. A heartbeat may overtake them only where they would delay it: the follower refuses
    one that refers to entries still on their way, and the leader would probe in vain.
    """
    idle = IDLE_LANES[type(message)]
    if type(message) is AppendRequest and not message.entries and append_lane_bytes > FRAME_FRAGMENT_BYTES:
        return Lane.CONTROL
    return idle


IDLE_LANES: Final[dict[type, Lane]] = {
    row.record: Lane.APPEND if row.record is AppendRequest else Lane.CONTROL for row in TABLE.rows
}
"""What `lane_of` says where no entries wait to be sent."""


class MessageEncoder:
    """Messages to frames for all peers of one transport; remembers its last AppendRequests and entries.

    Same message object, same frames; same entry objects in the same order, same packed entries.
    """

    def __init__(self) -> None:
        # By the id of the message, and of the first entry; what is remembered is alive, so the id is its own.
        self._messages: dict[int, tuple[AppendRequest, OutgoingMessage]] = {}
        self._entries: dict[int, tuple[tuple[Entry, ...], Raw]] = {}
        self._pack = msgpack.Packer(use_bin_type=True).pack

    def encode(self, message: Message) -> OutgoingMessage:
        """Raises RequestTooLarge when it is over FRAME_BYTES_MAX."""
        known = self._messages.get(id(message))
        if known is not None and known[0] is message:
            return known[1]
        try:
            if type(message) is AppendRequest:
                outgoing = OutgoingMessage(FrameType.RAFT, self._append_request(message))
                if message.entries:
                    _remember(self._messages, id(message), (message, outgoing))
                return outgoing
            if type(message) is AppendReply:
                return OutgoingMessage(FrameType.RAFT, self._pack((_APPEND_REPLY, *message)))
        except UNPACKABLE:
            pass  # the table says what is wrong
        return OutgoingMessage(FrameType.RAFT, encode_message(message))

    def forget(self) -> None:
        """Drop what is remembered (nothing is waiting to be sent)."""
        self._messages.clear()
        self._entries.clear()

    def _append_request(self, message: AppendRequest) -> bytes:
        sender, term, prev_index, prev_term, entries, commit_index, round_number = message
        if not entries or (len(entries) == 1 and len(entries[0].payload) <= _SOON_PACKED_BYTES):
            written: tuple[Entry, ...] = entries
        else:
            written = ()
        fields = (_APPEND_REQUEST, sender, term, prev_index, prev_term, commit_index, round_number, written)
        data: bytes = self._pack(fields)
        if written is entries:
            return data
        return b"".join((data[:-1], *self._packed(entries)))  # without the empty array

    def _packed(self, entries: tuple[Entry, ...]) -> Raw:
        known = self._entries.get(id(entries[0]))
        if known is not None and len(known[0]) == len(entries) and all(map(operator.is_, known[0], entries)):
            return known[1]
        packed = _pack_entries(entries)
        _remember(self._entries, id(entries[0]), (entries, packed))
        return packed


def _remember(known: dict[int, Remembered], key: int, value: Remembered) -> None:
    known.pop(key, None)
    known[key] = value
    if len(known) > _REMEMBERED:
        del known[next(iter(known))]
