"""MANIFEST: its bytes are fixed, and damage never decodes to something else."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest

from dqlite_py.errors import InterfaceError, MalformedMessage, UnknownFormat
from dqlite_py.limits import DATABASES_MAX, MANIFEST_BYTES_MAX
from dqlite_py.model import Address, Configuration, LogIndex, Member, NodeId, Role, RoleSettings, Term
from dqlite_py.storage.manifest import (
    MANIFEST_MAGIC,
    MANIFEST_VERSION,
    TIMED_VERSION,
    DatabaseState,
    Manifest,
    ordered,
)
from dqlite_py.storage.sealedfile import seal

CLUSTER = bytes(range(16))
MEMBERS = (
    Member(NodeId(1), Address("a:1"), Role.VOTER),
    Member(NodeId(2), Address("b:1"), Role.STANDBY),
)
MANIFEST = Manifest(
    CLUSTER,
    LogIndex(700),
    Term(3),
    Configuration(MEMBERS, LogIndex(5)),
    (DatabaseState("main", LogIndex(702), 2**64 - 1, 12), DatabaseState("other", LogIndex(0), 0, 1)),
)


def body() -> list[object]:
    return [
        CLUSTER,
        700,
        3,
        5,
        [[1, "a:1", 0], [2, "b:1", 1]],
        [["main", 702, b"\xff" * 8, 12], ["other", 0, bytes(8), 1]],
    ]


def decode(value: object) -> Manifest:
    return Manifest.from_bytes(seal(MANIFEST_MAGIC, MANIFEST_VERSION, value), "MANIFEST")


def test_round_trip() -> None:
    assert Manifest.from_bytes(MANIFEST.to_bytes(), "MANIFEST") == MANIFEST
    assert decode(body()) == MANIFEST
    empty = Manifest.empty(CLUSTER)
    assert Manifest.from_bytes(empty.to_bytes(), "MANIFEST") == empty


def test_the_format_is_what_it_was() -> None:
    """These bytes are in data folders: a change needs a new format version."""
    data = MANIFEST.to_bytes()
    assert data[:16] == b"dqlpyMAN" + (1).to_bytes(4, "little") + (len(data) - 20).to_bytes(4, "little")
    assert data[16:].hex() == (
        "b967dbbc96c410000102030405060708090a0b0c0d0e0fcd02bc0305929301a3613a31009302a362"
        "3a31019294a46d61696ecd02bec408ffffffffffffffff0c94a56f7468657200c408000000000000"
        "000001"
    )


def test_the_format_with_a_time_is_what_it_was() -> None:
    timed = replace(MANIFEST, now_us=1_700_000_000_000_000)
    data = timed.to_bytes()
    assert data[:12] == b"dqlpyMAN" + (2).to_bytes(4, "little")
    assert msgpack.unpackb(data[20:]) == [*body(), 1_700_000_000_000_000]
    assert Manifest.from_bytes(data, "MANIFEST") == timed
    assert timed.without("main").now_us == timed.now_us


@pytest.mark.parametrize("value", [body(), [*body(), -1], [*body(), 2**63], [*body(), "1"], [*body(), True]])
def test_a_time_that_is_none_is_malformed(value: object) -> None:
    with pytest.raises(MalformedMessage):
        Manifest.from_bytes(seal(MANIFEST_MAGIC, TIMED_VERSION, value), "MANIFEST")


def test_weights_and_settings_need_the_third_format() -> None:
    settings = RoleSettings(True, 3, 1, 5_000)
    heavy = tuple(replace(member, weight=2**64 - 1, domain=7) for member in MEMBERS)
    for configuration in (
        Configuration(MEMBERS, LogIndex(5), settings),
        Configuration(heavy, LogIndex(5)),
        Configuration(heavy, LogIndex(5), settings),
    ):
        known = replace(MANIFEST, configuration=configuration)
        written = known.to_bytes()
        assert written[8:12] == (3).to_bytes(4, "little")
        assert Manifest.from_bytes(written, "MANIFEST") == known
    assert MANIFEST.to_bytes()[8:12] == (1).to_bytes(4, "little"), "as earlier releases wrote it"


def test_a_configuration_of_later_form_in_an_old_manifest_is_damage() -> None:
    value = body()
    value[4] = [2, [[1, "a:1", 0, 1, 1]], None]
    with pytest.raises(MalformedMessage, match="later configuration"):
        Manifest.from_bytes(seal(MANIFEST_MAGIC, TIMED_VERSION, [*value, 9]), "MANIFEST")


def test_snapshot_and_lookup() -> None:
    assert MANIFEST.snapshot == (700, 3, Configuration(MEMBERS, LogIndex(5)))
    assert MANIFEST.get("other") == MANIFEST.databases[1]
    assert MANIFEST.get("third") is None
    assert MANIFEST.without("main").databases == MANIFEST.databases[1:]


@pytest.mark.parametrize("position", range(len(MANIFEST.to_bytes())))
def test_a_flipped_byte_is_damage(position: int) -> None:
    data = bytearray(MANIFEST.to_bytes())
    data[position] ^= 0x10
    with pytest.raises(MalformedMessage):
        Manifest.from_bytes(bytes(data), "MANIFEST")


def test_a_cut_or_longer_file_is_damage() -> None:
    data = MANIFEST.to_bytes()
    for length in range(len(data)):
        with pytest.raises(MalformedMessage):
            Manifest.from_bytes(data[:length], "MANIFEST")
    with pytest.raises(MalformedMessage):
        Manifest.from_bytes(data + b"\0", "MANIFEST")
    with pytest.raises(MalformedMessage, match="over"):
        Manifest.from_bytes(bytes(MANIFEST_BYTES_MAX + 1), "MANIFEST")


def test_a_newer_format_is_refused_by_name() -> None:
    with pytest.raises(UnknownFormat, match="MANIFEST has format 4; this release knows 3"):
        Manifest.from_bytes(seal(MANIFEST_MAGIC, 4, body()), "MANIFEST")


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, CLUSTER[:15]),
        (0, "0123456789abcdef"),
        (1, -1),
        (1, 2**63),
        (1, True),
        (1, 0),
        (2, 0),
        (2, "3"),
        (3, 701),
        (3, -1),
        (3, None),
        (4, None),
        (4, [[1, "a:1", 0], [1, "b:1", 1]]),
        (4, [[1, "a:1", 9]]),
        (4, [[n, f"a:{n}", 0] for n in range(1, 66)]),
        (5, None),
        (5, {}),
        (5, [["main", 1, bytes(8)]]),
        (5, [["main", 1, bytes(7), 1]]),
        (5, [["main", 1, bytes(8), 0]]),
        (5, [["main", 1, bytes(8), 2**32]]),
        (5, [["main", -1, bytes(8), 1]]),
        (5, [["../etc", 1, bytes(8), 1]]),
        (5, [["a/b", 1, bytes(8), 1]]),
        (5, [["", 1, bytes(8), 1]]),
        (5, [[b"main", 1, bytes(8), 1]]),
        (5, [["b", 1, bytes(8), 1], ["a", 1, bytes(8), 1]]),
        (5, [["a", 1, bytes(8), 1], ["a", 1, bytes(8), 1]]),
        (5, [[f"d{n:03}", 1, bytes(8), 1] for n in range(DATABASES_MAX + 1)]),
    ],
)
def test_wrong_values_are_malformed(position: int, value: object) -> None:
    rows = body()
    rows[position] = value
    with pytest.raises(MalformedMessage):
        decode(rows)


@pytest.mark.parametrize("value", [None, [], body()[:5], [*body(), 1], {"a": 1}, 7])
def test_wrong_shapes_are_malformed(value: object) -> None:
    with pytest.raises(MalformedMessage):
        decode(value)


def test_sealed_rubbish_is_malformed() -> None:
    good = msgpack.packb(body())
    for data in (good + b"\0", good[:-1], b"\xc1", b"\x91" * 5000):
        sealed = _sealed_raw(data)
        with pytest.raises(MalformedMessage):
            Manifest.from_bytes(sealed, "MANIFEST")


def _sealed_raw(data: bytes) -> bytes:
    from dqlite_py.nativelib import crc32c

    head = MANIFEST_MAGIC + (1).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return head + crc32c(data, crc32c(head)).to_bytes(4, "little") + data


def test_a_manifest_cannot_be_made_wrong() -> None:
    with pytest.raises(InterfaceError, match="ordered by name"):
        Manifest(CLUSTER, LogIndex(1), Term(1), Configuration(), MANIFEST.databases[::-1])
    assert ordered(MANIFEST.databases[::-1]) == MANIFEST.databases
