"""Our extension of dqlite's protocol as a table: requests of types 0xD0 to 0xDF (docs/dqlite-protocol.md).

A client sends EXTEND right after the handshake; from EXTENDED on, the connection carries nothing but these frames:
calls, answered in any order. Field kinds: u64, text, blob. No I/O; client/ and server/extended/ drive it.

  type  client to node                     node to client
  0xD0  EXTEND version features cluster    EXTENDED version features cluster node
  0xD1  CALL id method body
  0xD2                                     ANSWER id kind body
  0xD3  CANCEL id
  0xD4  CREDIT id pieces
  0xD5  PING number                        PING number, the same
  0xD6  PART id piece                      PART id piece
  0x00                                     FAILURE code text, dqlite's: instead of EXTENDED
A body longer than FRAGMENT_BYTES is sent in pieces, of which CALL or ANSWER carries the last. Bodies are msgpack.
"""

from __future__ import annotations

import enum
import struct
from functools import lru_cache
from typing import Final, NamedTuple

from dqlite_py.limits import EXTENSION_FRAGMENT_BYTES, EXTENSION_MESSAGE_BYTES_MAX
from dqlite_py.wire.dqlite.frames import Frame, Version, encode_handshake
from dqlite_py.wire.dqlite.primitives import WORD_BYTES, BodyReader, encode_blob, encode_text
from dqlite_py.wire.dqlite.violations import CODE_PARSE, CODE_PROTO, ProtocolViolation

EXTENSION_VERSION: Final = 1
FEATURES: Final = 0  # bits, none defined
CLUSTER_ID_BYTES: Final = 16
METHOD_LENGTH_MAX: Final = 100
FIRST_TYPE: Final = 0xD0
LAST_TYPE: Final = 0xDF
FRAGMENT_BYTES: Final = EXTENSION_FRAGMENT_BYTES
BODY_BYTES_MAX: Final = EXTENSION_MESSAGE_BYTES_MAX  # of a call or an answer, packed
FRAME_BYTES_MAX: Final = FRAGMENT_BYTES + 256  # of a frame's body
FAILURE_TYPE: Final = 0
_HEAD: Final = struct.Struct("<IBBHQ")  # a frame's header, and the id that its body begins with
_U64: Final = struct.Struct("<Q")
_TWO: Final = struct.Struct("<QQ")
_ANSWER: Final = struct.Struct("<QQQ")
_new_tuple = tuple.__new__  # a NamedTuple's own constructor is a Python call


class ExtensionType(enum.IntEnum):
    """Type bytes, of either direction."""

    EXTEND = 0xD0
    CALL = 0xD1
    ANSWER = 0xD2
    CANCEL = 0xD3
    CREDIT = 0xD4
    PING = 0xD5
    PART = 0xD6


class AnswerKind(enum.IntEnum):
    """What the body of an ANSWER is."""

    OK = 0  # the result, the last word
    ERROR = 1  # the wire form of an error, the last word
    MORE = 2  # one piece of a stream; costs a credit


class RefusalCode(enum.IntEnum):
    """Codes of a FAILURE to EXTEND by a node that knows the extension; any other code is a stock server's."""

    WRONG_CLUSTER = 0xD0_0001
    NO_CLUSTER = 0xD0_0002  # the node has not joined one yet
    UNKNOWN_VERSION = 0xD0_0003
    FULL = 0xD0_0004
    STOPPING = 0xD0_0005


class Extend(NamedTuple):
    """`cluster_id`: 16 bytes, or empty while the client does not know it."""

    version: int
    features: int
    cluster_id: bytes


class Extended(NamedTuple):
    """The node's answer. `cluster_id`: 16 bytes."""

    version: int
    features: int
    cluster_id: bytes
    node_id: int


class Call(NamedTuple):
    """`id`: the client's choice, not one that is still unanswered on this connection. `body`: a packed value."""

    id: int
    method: str
    body: bytes


class Answer(NamedTuple):
    """`body`: a packed value, of the kind ERROR `errors.Error.to_wire`'s list."""

    id: int
    kind: AnswerKind
    body: bytes


class Cancel(NamedTuple):
    """The call's answer is not wanted any more; it is still answered, once, unless nothing of it had arrived whole."""

    id: int


class Credit(NamedTuple):
    """The client takes so many more pieces of a stream."""

    id: int
    pieces: int


class Ping(NamedTuple):
    """Sent back as it came."""

    number: int


class Part(NamedTuple):
    """A piece of a body whose CALL or ANSWER is still to come."""

    id: int
    piece: bytes


class Failure(NamedTuple):
    """dqlite's answer to a request that it refuses."""

    code: int
    message: str


Message = Extend | Extended | Call | Answer | Cancel | Credit | Ping | Part | Failure
_T = ExtensionType
_BY_CLIENT: Final[dict[int, tuple[type[Message], tuple[str, ...]]]] = {
    _T.EXTEND: (Extend, ("u64", "u64", "blob")),
    _T.CALL: (Call, ("u64", "text", "blob")),
    _T.CANCEL: (Cancel, ("u64",)),
    _T.CREDIT: (Credit, ("u64", "u64")),
    _T.PING: (Ping, ("u64",)),
    _T.PART: (Part, ("u64", "blob")),
}
_BY_NODE: Final[dict[int, tuple[type[Message], tuple[str, ...]]]] = {
    _T.EXTEND: (Extended, ("u64", "u64", "blob", "u64")),
    _T.ANSWER: (Answer, ("u64", "u64", "blob")),
    _T.PING: (Ping, ("u64",)),
    _T.PART: (Part, ("u64", "blob")),
    FAILURE_TYPE: (Failure, ("u64", "text")),
}
_ROWS: Final = {
    kind: (number, fields) for table in (_BY_CLIENT, _BY_NODE) for number, (kind, fields) in table.items()
}
_KINDS: Final = tuple(AnswerKind)


def encode_message(message: Message) -> bytes:
    """A whole frame. ValueError for a body that has to be sent in pieces."""
    number, fields = _ROWS[type(message)]
    parts = [b""]
    for kind, value in zip(fields, message, strict=True):
        if kind == "u64":
            parts.append(_U64.pack(value))
        elif kind == "text":
            parts.append(encode_text(str(value)))
        else:
            parts.append(encode_blob(value))  # type: ignore[arg-type]
    body = b"".join(parts)
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {len(body)} bytes")
    return b"".join((_header(len(body), number), body))


def encode_call(call_id: int, method: str, body: bytes) -> bytes:
    """As encode_message(Call(…)), in a fraction of its time; `body` of at most FRAGMENT_BYTES."""
    named, pad = _method(method), -len(body) % WORD_BYTES
    words = (16 + len(named) + len(body) + pad) // WORD_BYTES
    return b"".join((_HEAD.pack(words, 0xD1, 0, 0, call_id), named, _U64.pack(len(body)), body, b"\0" * pad))


def encode_answer(call_id: int, kind: int, body: bytes) -> bytes:
    """As encode_message(Answer(…)), in a fraction of its time; `body` of at most FRAGMENT_BYTES."""
    pad = -len(body) % WORD_BYTES
    words = (24 + len(body) + pad) // WORD_BYTES
    return b"".join((_HEAD.pack(words, 0xD2, 0, 0, call_id), _TWO.pack(kind, len(body)), body, b"\0" * pad))


@lru_cache(maxsize=256)
def _method(method: str) -> bytes:
    return encode_text(method)


def _header(length: int, number: int) -> bytes:
    return struct.pack("<IBBH", length // WORD_BYTES, number, 0, 0)


def decode_from_client(frame: Frame) -> Message:
    """What a client sent. Raises ProtocolViolation with a code to answer with, where there is a point in it."""
    if frame.type == _T.CALL and not frame.schema:
        return _call(frame.body)
    return _decode(frame, _BY_CLIENT)


def decode_from_node(frame: Frame) -> Message:
    """What a node sent; raises ProtocolViolation."""
    if frame.type == _T.ANSWER and not frame.schema:
        return _answer(frame.body)
    return _decode(frame, _BY_NODE)


def _call(body: bytes) -> Call:
    """What is right is known at once; the rest is left to the table, which says what is wrong."""
    end = body.find(b"\0", WORD_BYTES)
    start = (end | 7) + 1  # behind the method's padding
    if WORD_BYTES < end <= WORD_BYTES + METHOD_LENGTH_MAX and start + WORD_BYTES <= len(body):
        length = _U64.unpack_from(body, start)[0]
        start += WORD_BYTES
        if start + length <= len(body) < start + length + WORD_BYTES and not len(body) % WORD_BYTES:
            try:
                method = body[WORD_BYTES:end].decode()
            except UnicodeDecodeError:
                raise ProtocolViolation("a text is not UTF-8", code=CODE_PARSE) from None
            return _new_tuple(Call, (_U64.unpack_from(body)[0], method, body[start : start + length]))
    found = _decode(Frame(_T.CALL, 0, body), _BY_CLIENT)
    assert isinstance(found, Call)
    return found


def _answer(body: bytes) -> Answer:
    if len(body) >= _ANSWER.size:
        number, kind, length = _ANSWER.unpack_from(body)
        if (
            kind < len(_KINDS)
            and length <= len(body) - 24 < length + WORD_BYTES
            and not len(body) % WORD_BYTES
        ):
            return _new_tuple(Answer, (number, _KINDS[kind], body[24 : 24 + length]))
    found = _decode(Frame(_T.ANSWER, 0, body), _BY_NODE)
    assert isinstance(found, Answer)
    return found


def _decode(frame: Frame, table: dict[int, tuple[type[Message], tuple[str, ...]]]) -> Message:
    row = table.get(frame.type)
    if row is None:
        raise ProtocolViolation(f"unrecognized request type {frame.type:#x}", code=CODE_PARSE)
    if frame.schema:
        raise ProtocolViolation(f"unrecognized schema version {frame.schema}", code=CODE_PARSE)
    kind, fields = row
    try:
        reader = BodyReader(frame.body)
        values = [_field(reader, field) for field in fields]
        reader.finish()
    except ProtocolViolation as violation:
        raise ProtocolViolation(violation.message, code=CODE_PARSE) from None
    return _checked(kind, values)


def _field(reader: BodyReader, kind: str) -> int | str | bytes:
    match kind:
        case "u64":
            return reader.uint64()
        case "text":
            return reader.text()
        case _:
            return reader.blob()


def _checked(kind: type[Message], values: list[int | str | bytes]) -> Message:
    """The message, its fields within their bounds."""
    if kind is Answer:
        if values[1] not in _KINDS:
            raise ProtocolViolation(f"an answer of kind {values[1]!r}", code=CODE_PARSE)
        values[1] = AnswerKind(values[1])
    elif kind is Call and not 0 < len(str(values[1])) <= METHOD_LENGTH_MAX:
        raise ProtocolViolation(f"a method's name of {len(str(values[1]))} characters", code=CODE_PARSE)
    elif kind in (Extend, Extended):
        length = len(values[2]) if isinstance(values[2], bytes) else -1
        if length != CLUSTER_ID_BYTES and (length or kind is Extended):
            raise ProtocolViolation(f"a cluster id of {length} bytes", code=CODE_PROTO)
    message: Message = _new_tuple(kind, values)
    return message


def starts_extended(first: bytes) -> bool | None:
    """Whether a connection that begins with these bytes asks for the extension; None: too few bytes to tell."""
    known = encode_handshake(Version.V1)
    if first[: len(known)] != known[: len(first)]:
        return False
    kind_at = len(known) + 4  # in a frame's header
    return None if len(first) <= kind_at else first[kind_at] == _T.EXTEND


def encode_opening(cluster_id: bytes) -> bytes:
    """What a client begins a connection with: the handshake and EXTEND. `cluster_id` may be empty."""
    extend = encode_message(Extend(EXTENSION_VERSION, FEATURES, cluster_id))
    return encode_handshake(Version.V1) + extend
