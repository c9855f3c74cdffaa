"""The bodies of the snapshot RPCs: what decodes, and that nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from dqlite_py.errors import MalformedMessage, UnknownFormat
from dqlite_py.limits import SNAPSHOT_CHUNK_BYTES
from dqlite_py.model import LogIndex
from dqlite_py.nativelib import crc32c
from dqlite_py.node.snapshot_wire import (
    BeginRequest,
    ChunkRequest,
    FileFacts,
    Offer,
    Preparing,
    begin_reply_from_wire,
    chunk_from_wire,
    chunk_to_wire,
)
from dqlite_py.storage.manifest import MANIFEST_MAGIC, DatabaseState
from dqlite_py.storage.sealedfile import seal
from tests.support.snapshots import manifest

ID = bytes(range(16))
MANIFEST = manifest(9, DatabaseState("a", LogIndex(9), 1, 2), DatabaseState("b", LogIndex(9), 1, 1))
OFFER = Offer(ID, MANIFEST, (FileFacts(8192, 5), FileFacts(4096, 2**32 - 1)))


def test_round_trips() -> None:
    assert begin_reply_from_wire(OFFER.to_wire()) == OFFER
    assert OFFER.size_bytes == 12288
    assert begin_reply_from_wire(Preparing(5, 9).to_wire()) == Preparing(5, 9)
    for request in (BeginRequest(LogIndex(0), None), BeginRequest(LogIndex(7), ID)):
        assert BeginRequest.from_wire(request.to_wire()) == request
    chunk = ChunkRequest(ID, 0, 4096, SNAPSHOT_CHUNK_BYTES)
    assert ChunkRequest.from_wire(chunk.to_wire()) == chunk
    assert chunk_from_wire(chunk_to_wire(b"abc"), 3) == b"abc"


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "else"},
        {"state": None},
        {"id": ID[:15]},
        {"id": "0" * 16},
        {"manifest": "text"},
        {"manifest": b"text"},
        {"files": None},
        {"files": []},
        {"files": [[8192, 5]]},
        {"files": [[8192, 5], [4096, 5], [4096, 5]]},
        {"files": [[8192, 5], [4096]]},
        {"files": [[8192, 5], [4097, 5]]},
        {"files": [[8192, 5], [0, 5]]},
        {"files": [[8192, 5], [2**62, 5]]},
        {"files": [[8192, 5], [-4096, 5]]},
        {"files": [[8192, 5], [4096.0, 5]]},
        {"files": [[8192, 5], [4096, None]]},
        {"more": 1},
    ],
)
def test_a_malformed_offer_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        begin_reply_from_wire(OFFER.to_wire() | changes)


@pytest.mark.parametrize(
    "body", [None, [], b"", {}, {"state": "preparing"}, {"state": "preparing", "done": -1, "total": 2}]
)
def test_other_answers_are_refused(body: Any) -> None:
    with pytest.raises(MalformedMessage):
        begin_reply_from_wire(body)


def test_a_manifest_of_a_newer_format_is_named() -> None:
    with pytest.raises(UnknownFormat, match="offered manifest has format 7"):
        begin_reply_from_wire(OFFER.to_wire() | {"manifest": seal(MANIFEST_MAGIC, 7, [])})


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"minimum_index": 1},
        {"minimum_index": -1, "resume": None},
        {"minimum_index": True, "resume": None},
        {"minimum_index": 1, "resume": b"short"},
        {"minimum_index": 1, "resume": "../../../../etc/"},
        {"minimum_index": 1, "resume": None, "more": 1},
    ],
)
def test_a_malformed_begin_is_refused(body: Any) -> None:
    with pytest.raises(MalformedMessage):
        BeginRequest.from_wire(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": b""},
        {"file": -1},
        {"file": "main.db"},
        {"offset": -1},
        {"offset": 2**63},
        {"size": 0},
        {"size": SNAPSHOT_CHUNK_BYTES + 1},
        {"more": 1},
    ],
)
def test_a_malformed_chunk_request_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        ChunkRequest.from_wire(ChunkRequest(ID, 0, 0, 1).to_wire() | changes)


@pytest.mark.parametrize(
    "body",
    [
        None,
        {"data": b"abc"},
        {"data": b"abd", "crc32c": crc32c(b"abc")},
        {"data": b"abc", "crc32c": None},
        {"data": "abc", "crc32c": crc32c(b"abc")},
        {"data": b"abcd", "crc32c": crc32c(b"abcd")},
        {"data": b"ab", "crc32c": crc32c(b"ab")},
    ],
)
def test_a_damaged_chunk_is_refused(body: Any) -> None:
    with pytest.raises(MalformedMessage):
        chunk_from_wire(body, 3)
