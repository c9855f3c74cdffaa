"""The handshake's words and verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from dqlite_py.errors import InterfaceError, MalformedMessage, UnknownFormat
from dqlite_py.limits import HANDSHAKE_BYTES_MAX
from dqlite_py.model import Address, NodeId
from dqlite_py.wire.address import join_address, same_host, split_address
from dqlite_py.wire.handshake import (
    NO_CLUSTER,
    Hello,
    LocalIdentity,
    Purpose,
    Refusal,
    Refused,
    Welcome,
    decode_handshake,
    encode_handshake,
    is_verified,
    judge_hello,
    judge_welcome,
    refused,
)

OURS, THEIRS = b"A" * 16, b"B" * 16
LOCAL = LocalIdentity(OURS, NodeId(1), "source", bytes(8))
HELLO = Hello(1, OURS, NodeId(2), Address("node2:9000"), "source", b"\x01" * 8, Purpose.PEER, NodeId(1))
WELCOME = Welcome(1, OURS, NodeId(2), Address("node2:9000"), "source", b"\x01" * 8)


def test_golden_bytes() -> None:
    assert encode_handshake(HELLO).hex() == (
        "99" "01" "01" "c410" + "41" * 16 + "02" "aa" + b"node2:9000".hex() + "a6" + b"source".hex()
        + "c408" + "01" * 8 + "01" "01"
    )  # fmt: skip
    assert encode_handshake(Refused(Refusal.OWN_ID, "no")).hex() == "930305a26e6f"


@pytest.mark.parametrize("message", [HELLO, WELCOME, refused(Refusal.WRONG_CLUSTER, "x" * 5000)])
def test_round_trip(message: Any) -> None:
    body = encode_handshake(message)
    assert decode_handshake(body) == message
    assert len(body) <= HANDSHAKE_BYTES_MAX


@pytest.mark.parametrize("number", [1, 2])
def test_another_version_is_refused_by_name_whatever_follows(number: int) -> None:
    with pytest.raises(UnknownFormat, match="peer protocol version 7 is not known to this release"):
        decode_handshake(msgpack.packb([number, 7, "anything", {"else": 1}]))


@pytest.mark.parametrize(
    "change",
    [
        {"cluster_id": b"short"},
        {"node_id": -1},
        {"address": "no port"},
        {"address": "a:99999"},
        {"address": "a b:1"},
        {"source_id": "x" * 201},
        {"options_digest": b""},
        {"purpose": 3},
        {"purpose": True},
        {"target": 2**63},
    ],
)
def test_malformed(change: dict[str, Any]) -> None:
    values = {name: getattr(HELLO, name) for name in HELLO.__dataclass_fields__} | change
    with pytest.raises(MalformedMessage):
        decode_handshake(msgpack.packb([1, *values.values()]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"cluster_id": THEIRS}, Refusal.WRONG_CLUSTER),
        ({"cluster_id": THEIRS, "purpose": Purpose.CLIENT}, Refusal.WRONG_CLUSTER),
        ({"cluster_id": NO_CLUSTER}, Refusal.NO_CLUSTER),
        ({"cluster_id": NO_CLUSTER, "purpose": Purpose.CLIENT}, None),
        ({"node_id": NodeId(1)}, Refusal.OWN_ID),
        ({"node_id": NodeId(1), "purpose": Purpose.CLIENT}, Refusal.OWN_ID),
        ({"node_id": NodeId(0)}, Refusal.MALFORMED),
        ({"node_id": NodeId(0), "purpose": Purpose.CLIENT, "address": Address("")}, None),
        ({"address": Address("")}, Refusal.MALFORMED),
        ({"target": NodeId(9)}, Refusal.WRONG_TARGET),
        ({"target": NodeId(9), "cluster_id": THEIRS}, Refusal.WRONG_CLUSTER),
        ({"target": NodeId(0)}, None),
    ],
)
def test_the_acceptors_verdict(change: dict[str, Any], reason: Refusal | None) -> None:
    verdict = judge_hello(LOCAL, replace(HELLO, **change), None)
    assert (verdict.reason if verdict else None) is reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"cluster_id": THEIRS}, Refusal.WRONG_CLUSTER),
        ({"cluster_id": NO_CLUSTER}, Refusal.NO_CLUSTER),
        ({"node_id": NodeId(1)}, Refusal.OWN_ID),
        ({"node_id": NodeId(3)}, Refusal.WRONG_TARGET),
        ({"node_id": NodeId(0)}, Refusal.MALFORMED),
    ],
)
def test_the_diallers_verdict(change: dict[str, Any], reason: Refusal | None) -> None:
    hello = replace(HELLO, node_id=NodeId(1), target=NodeId(2))
    verdict = judge_welcome(LOCAL, hello, replace(WELCOME, **change), None)
    assert (verdict.reason if verdict else None) is reason


def test_the_claimed_host_must_be_in_the_certificate() -> None:
    assert judge_hello(LOCAL, HELLO, ["node2"]) is None
    verdict = judge_hello(LOCAL, HELLO, ["node3", "10.0.0.1"])
    assert verdict is not None
    assert verdict.reason is Refusal.WRONG_CERTIFICATE
    assert "node2" in verdict.message
    assert "node3" in verdict.message
    assert judge_hello(LOCAL, HELLO, []) is not None
    hello = replace(HELLO, node_id=NodeId(1), target=NodeId(2))
    assert judge_welcome(LOCAL, hello, WELCOME, ["node3"]) is not None


def test_both_sides_name_both_clusters() -> None:
    verdict = judge_hello(LOCAL, replace(HELLO, cluster_id=THEIRS), None)
    assert verdict is not None
    assert OURS.hex() in verdict.message
    assert THEIRS.hex() in verdict.message


def test_verified_needs_the_same_cluster_and_a_node() -> None:
    assert is_verified(LOCAL, HELLO)
    assert not is_verified(LOCAL, replace(HELLO, cluster_id=NO_CLUSTER))
    assert not is_verified(LocalIdentity(NO_CLUSTER, NodeId(1)), replace(HELLO, cluster_id=NO_CLUSTER))
    assert not is_verified(LOCAL, replace(HELLO, node_id=NodeId(0)))


def test_an_address_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InterfaceError):
        encode_handshake(replace(HELLO, address=Address("h" * 5000 + ":1")))


@pytest.mark.parametrize(
    ("address", "parts"),
    [("a:1", ("a", 1)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:65535", ("::1", 65535))],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
    assert join_address(*parts) == address


@pytest.mark.parametrize(
    "address", ["", "a", ":1", "a:", "::1:5", "[]:1", "a:-1", "a:65536", "a:1²", "a\n:1", "a:" + "1" * 400]
)
def test_no_addresses(address: str) -> None:
    with pytest.raises(InterfaceError):
        split_address(address)


@pytest.mark.parametrize(
    ("pattern", "host", "same"),
    [
        ("A.example", "a.EXAMPLE.", True),
        ("*.example", "a.example", True),
        ("*.example", "a.b.example", False),
        ("*.example", "example", False),
        ("*.example", ".example", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("*.0.0.1", "10.0.0.1", False),
        ("a", "b", False),
    ],
)
def test_names_in_certificates(pattern: str, host: str, same: bool) -> None:
    assert same_host(pattern, host) is same
