"""The handshake: who speaks to whom, and why not. No I/O; raft/connection.py carries it, on the loop thread.

The dialler sends HELLO, the acceptor answers WELCOME or REFUSED. Both judge: a dialler that does not like the
WELCOME sends REFUSED too, so that both sides log the reason. Nothing else may be sent before.
HELLO and WELCOME start with the protocol version, so that a version is refused by name whatever follows it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dqlite_py.errors import InterfaceError, UnknownFormat
from dqlite_py.limits import HANDSHAKE_BYTES_MAX
from dqlite_py.model import Address, NodeId
from dqlite_py.wire.address import ADDRESS_LENGTH_MAX, same_host, split_address
from dqlite_py.wire.tables import U63, Body, Kind, Row, Table, blob, text, unpack

PROTOCOL_VERSION: Final = 1
NO_CLUSTER: Final = bytes(16)


class Purpose(enum.IntEnum):
    """What a connection may carry."""

    PEER = 1  # raft messages and requests
    CLIENT = 2  # requests only; the only one open to callers without a cluster


class Refusal(enum.IntEnum):
    """Why a handshake failed."""

    MALFORMED = 1
    UNKNOWN_VERSION = 2
    WRONG_CLUSTER = 3
    NO_CLUSTER = 4  # one side has no cluster id yet
    OWN_ID = 5
    WRONG_TARGET = 6
    TLS_REQUIRED = 7
    TLS_UNEXPECTED = 8
    WRONG_CERTIFICATE = 9


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """What this node says of itself; `cluster_id` is NO_CLUSTER until it belongs to one."""

    cluster_id: bytes
    node_id: NodeId
    source_id: str = ""  # sqlite_source_id()
    options_digest: bytes = bytes(8)  # digest of SQLite's compile options


@dataclass(frozen=True, slots=True)
class Hello:
    """The dialler's words; node_id 0: a client that is no node. `target` 0: whoever answers."""

    version: int
    cluster_id: bytes
    node_id: NodeId
    address: Address
    source_id: str
    options_digest: bytes
    purpose: Purpose
    target: NodeId


@dataclass(frozen=True, slots=True)
class Welcome:
    """The acceptor's words."""

    version: int
    cluster_id: bytes
    node_id: NodeId
    address: Address
    source_id: str
    options_digest: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The reason, then the connection is closed."""

    reason: Refusal
    message: str


def _decode_address(value: Any) -> Address:
    if type(value) is not str:
        raise ValueError("not a text")
    if value:
        try:
            split_address(value)
        except InterfaceError as error:
            raise ValueError(error.message) from None
    return Address(value)


def _decode_purpose(value: Any) -> Purpose:
    if type(value) is not int:
        raise ValueError("not an integer")
    return Purpose(value)


def _decode_refusal(value: Any) -> Refusal:
    if type(value) is not int:
        raise ValueError("not an integer")
    return Refusal(value)


_ADDRESS = Kind(f"address[..{ADDRESS_LENGTH_MAX}]", _decode_address)
_MESSAGE_LENGTH_MAX: Final = 1000
_ABOUT = (
    ("version", U63),
    ("cluster_id", blob(16)),
    ("node_id", U63),
    ("address", _ADDRESS),
    ("source_id", text(200)),
    ("options_digest", blob(8)),
)
TABLE: Final = Table(
    "handshake",
    (
        Row(1, Hello, (*_ABOUT, ("purpose", Kind("purpose", _decode_purpose, int)), ("target", U63))),
        Row(2, Welcome, _ABOUT),
        Row(
            3,
            Refused,
            (("reason", Kind("refusal", _decode_refusal, int)), ("message", text(_MESSAGE_LENGTH_MAX))),
        ),
    ),
    values_max=16,
)


def encode_handshake(message: Hello | Welcome | Refused) -> bytes:
    body = TABLE.encode(message)
    if len(body) > HANDSHAKE_BYTES_MAX // 2:
        raise InterfaceError(f"a handshake of {len(body)} bytes: the address is too long")
    return body


def refused(reason: Refusal, message: str) -> Refused:
    return Refused(reason, message[:_MESSAGE_LENGTH_MAX])


def decode_handshake(body: Body) -> Hello | Welcome | Refused:
    """Raises MalformedMessage, or UnknownFormat for another protocol version."""
    values = unpack(body, "handshake", 64)
    if (
        type(values) is list
        and len(values) > 1
        and values[0] in (1, 2)
        and type(values[1]) is int
        and values[1] != PROTOCOL_VERSION
    ):
        raise UnknownFormat(
            f"peer protocol version {values[1]} is not known to this release (it knows {PROTOCOL_VERSION})",
            source="peer protocol",
            version=str(values[1]),
        )
    message: Hello | Welcome | Refused = TABLE.decode(body)
    return message


def judge_hello(local: LocalIdentity, hello: Hello, certified: Sequence[str] | None) -> Refused | None:
    """The acceptor's verdict; `certified`: names in the dialler's certificate, None without TLS."""
    verdict = None
    if hello.purpose is Purpose.PEER or hello.node_id:
        verdict = _judge_peer(local, hello, certified)
    if verdict is None:
        verdict = _judge_clusters(local, hello, hello.purpose)
    if verdict is None and hello.target not in (0, local.node_id):
        verdict = refused(
            Refusal.WRONG_TARGET, f"this is node {local.node_id}, not node {hello.target} as expected here"
        )
    return verdict


def judge_welcome(
    local: LocalIdentity, hello: Hello, welcome: Welcome, certified: Sequence[str] | None
) -> Refused | None:
    """The dialler's verdict."""
    verdict = _judge_peer(local, welcome, certified) or _judge_clusters(local, welcome, hello.purpose)
    if verdict is None and hello.target not in (0, welcome.node_id):
        verdict = refused(
            Refusal.WRONG_TARGET, f"node {welcome.node_id} answered where node {hello.target} was expected"
        )
    return verdict


def _judge_peer(
    local: LocalIdentity, other: Hello | Welcome, certified: Sequence[str] | None
) -> Refused | None:
    if not other.node_id:
        return refused(Refusal.MALFORMED, "a peer has a node id")
    if other.node_id == local.node_id:
        return refused(
            Refusal.OWN_ID,
            f"both sides are node {other.node_id}: a node reached itself, or a data folder was copied",
        )
    if not other.address:
        return refused(Refusal.MALFORMED, f"node {other.node_id} names no address")
    if certified is not None:
        host, _ = split_address(other.address)
        if not any(same_host(name, host) for name in certified):
            return refused(
                Refusal.WRONG_CERTIFICATE,
                f"node {other.node_id} says it is at {host}, but its certificate is for "
                f"{', '.join(certified) or 'no host'}",
            )
    return None


def _judge_clusters(local: LocalIdentity, other: Hello | Welcome, purpose: Purpose) -> Refused | None:
    if NO_CLUSTER in (local.cluster_id, other.cluster_id):
        if purpose is Purpose.CLIENT:
            return None
        who = other.node_id if other.cluster_id == NO_CLUSTER else local.node_id
        return refused(Refusal.NO_CLUSTER, f"node {who} belongs to no cluster yet")
    if other.cluster_id != local.cluster_id:
        return refused(
            Refusal.WRONG_CLUSTER,
            f"node {other.node_id} belongs to cluster {other.cluster_id.hex()}, "
            f"node {local.node_id} to cluster {local.cluster_id.hex()}",
        )
    return None


def is_verified(local: LocalIdentity, other: Hello | Welcome) -> bool:
    """Both sides named the same cluster, and the other side is a node."""
    return local.cluster_id != NO_CLUSTER and other.cluster_id == local.cluster_id and other.node_id != 0
