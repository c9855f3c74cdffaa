"""Arbitrary and mutated bytes where MANIFEST, CURRENT, PROGRESS and the snapshot RPCs expect theirs: an error of
ours, named, or the very value; never another value, never another exception, never a changed state folder."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlite_py.errors import CorruptState, Error, MalformedMessage, UnknownFormat, WrongCluster
from dqlite_py.model import Address, Configuration, LogIndex, Member, NodeId, Role, Term
from dqlite_py.node.snapshot_fetch import SnapshotFetcher
from dqlite_py.node.snapshot_incoming import PROGRESS_MAGIC, resumable_id
from dqlite_py.node.snapshot_wire import (
    BEGIN,
    BeginRequest,
    ChunkRequest,
    FileFacts,
    Offer,
    begin_reply_from_wire,
    chunk_from_wire,
    chunk_to_wire,
)
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.manifest import MANIFEST_MAGIC, DatabaseState, Manifest, ordered
from dqlite_py.storage.sealedfile import seal
from dqlite_py.storage.state_files import CURRENT_MAGIC
from dqlite_py.storage.state_folder import StateFolder
from tests.support.snapshots import CLUSTER, manifest

COUNTS = st.integers(1, 2**63 - 1)
NAMES = st.from_regex(r"[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}", fullmatch=True).filter(
    lambda name: not name.startswith("_dqlite")
)
DATABASES = st.builds(
    DatabaseState, NAMES, COUNTS.map(LogIndex), st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 2)
)
MEMBERS = st.builds(
    Member, COUNTS.map(NodeId), st.text(min_size=1, max_size=9).map(Address), st.sampled_from(Role)
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=7)
        | st.dictionaries(st.text(max_size=8) | st.binary(max_size=8), inner, max_size=6)
    ),
    max_leaves=25,
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    index = draw(COUNTS)
    members = draw(st.lists(MEMBERS, max_size=5, unique_by=(lambda m: m.id, lambda m: m.address)))
    return Manifest(
        draw(st.binary(min_size=16, max_size=16)),
        LogIndex(index),
        Term(draw(COUNTS)),
        Configuration(tuple(sorted(members, key=lambda m: m.id)), LogIndex(draw(st.integers(0, index)))),
        ordered(draw(st.lists(DATABASES, max_size=5, unique_by=lambda d: d.name))),
        draw(st.just(0) | COUNTS),
    )


@given(manifests())
def test_every_manifest_survives(value: Manifest) -> None:
    assert Manifest.from_bytes(value.to_bytes(), "MANIFEST") == value


@given(manifests(), st.data())
def test_a_mutated_manifest_is_an_error_or_itself(value: Manifest, data: st.DataObject) -> None:
    good = value.to_bytes()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 40)))
    bad = good[:start] + data.draw(st.binary(max_size=40)) + good[end:]
    try:
        assert Manifest.from_bytes(bad, "MANIFEST") == value
    except (MalformedMessage, UnknownFormat):
        assert bad != good


@given(VALUES)
def test_sealed_values_of_any_shape(body: Any) -> None:
    with pytest.raises(MalformedMessage):
        Manifest.from_bytes(seal(MANIFEST_MAGIC, 1, body), "MANIFEST")


SEALED = (
    st.binary(max_size=200)
    | VALUES.map(lambda body: seal(MANIFEST_MAGIC, 1, body))
    | VALUES.map(lambda body: seal(CURRENT_MAGIC, 1, body))
    | st.integers(0, 2**32 - 1).map(lambda version: seal(CURRENT_MAGIC, version, [1]))
    | st.integers(-(2**63), 2**64 - 1).map(lambda number: seal(CURRENT_MAGIC, 1, [number]))
    | manifests().map(Manifest.to_bytes)
)


@settings(max_examples=100, deadline=None)
@given(SEALED, st.sampled_from(["CURRENT", "g1/MANIFEST"]))
def test_a_state_folder_opens_or_says_why_not(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        StateFolder.open(folder, SystemDisk(), CLUSTER)
        precious = Path(folder, "state/g1/main.db")
        precious.write_bytes(b"data")
        path = Path(folder, "state", name)
        good = path.read_bytes()
        path.write_bytes(data)
        try:
            opened = StateFolder.open(folder, SystemDisk(), CLUSTER)
            assert opened.generation == 1
            assert data == good or opened.manifest.to_bytes() == data
        except (CorruptState, UnknownFormat, WrongCluster):
            assert data != good
        assert precious.read_bytes() == b"data"


MANIFEST = manifest(9, DatabaseState("a", LogIndex(9), 1, 2))
OFFER = Offer(bytes(16), MANIFEST, (FileFacts(8192, 5),))


@given(
    VALUES | st.dictionaries(st.sampled_from(["state", "id", "manifest", "files", "done", "total"]), VALUES)
)
def test_any_begin_answer(body: Any) -> None:
    try:
        begin_reply_from_wire(body)
    except (MalformedMessage, UnknownFormat):
        return
    assert body["state"] in ("ready", "preparing")


@given(st.sampled_from(["state", "id", "manifest", "files"]), VALUES)
def test_a_begin_answer_with_one_wrong_field(field: str, value: Any) -> None:
    try:
        reply = begin_reply_from_wire(OFFER.to_wire() | {field: value})
    except (MalformedMessage, UnknownFormat):
        return
    assert isinstance(reply, Offer)
    assert reply.manifest == MANIFEST
    assert [file.size_bytes for file in reply.files] in ([n * 2] for n in (512, 1024, 2048, 4096, 8192))


@given(VALUES, st.integers(1, 2**20))
def test_any_chunk_answer(body: Any, size: int) -> None:
    with pytest.raises(MalformedMessage):
        chunk_from_wire(body, size)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_mutated_chunk(data: bytes, drawn: st.DataObject) -> None:
    packed = msgpack.packb(chunk_to_wire(data), use_bin_type=True)
    position = drawn.draw(st.integers(0, len(packed) - 1))
    bad = bytearray(packed)
    bad[position] ^= drawn.draw(st.integers(1, 255))
    try:
        body = msgpack.unpackb(bytes(bad), raw=False, strict_map_key=False)
    except (ValueError, msgpack.UnpackException, TypeError):
        return
    try:
        assert chunk_from_wire(body, len(data)) == data
    except MalformedMessage:
        return


@given(VALUES)
def test_any_request(body: Any) -> None:
    for decode in (BeginRequest.from_wire, ChunkRequest.from_wire):
        with pytest.raises(MalformedMessage):
            decode(body)


@settings(max_examples=60, deadline=None)
@given(VALUES.map(lambda body: seal(PROGRESS_MAGIC, 1, body)) | st.binary(max_size=200))
def test_any_progress_record_is_only_a_start_over(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "aa").mkdir()
        Path(folder, "aa/PROGRESS").write_bytes(data)
        assert resumable_id(SystemDisk(), folder) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(VALUES | st.just(OFFER.to_wire()), min_size=1, max_size=4), st.data())
def test_a_fetch_from_a_source_that_says_anything(begins: list[Any], data: st.DataObject) -> None:
    # From a seed: drawn as such, a few of them are more than an example may hold.
    pieces = st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes(8192))
    chunks = pieces.map(chunk_to_wire) | VALUES

    async def call(target: object, method: str, body: Any, timeout_s: float) -> Any:
        if method == BEGIN:
            return begins.pop() if begins else None
        return data.draw(chunks)

    async def fetch() -> None:
        with ThreadPoolExecutor(1) as executor:
            fetcher = SnapshotFetcher(call=call, state_folder=state, disk=SystemDisk(), executor=executor)
            with pytest.raises(Error):
                await fetcher.fetch(NodeId(1))

    with tempfile.TemporaryDirectory() as folder:
        state = StateFolder.open(folder, SystemDisk(), CLUSTER)
        asyncio.run(fetch())
        assert sorted(os.listdir(os.path.join(folder, "state"))) == ["CURRENT", "g1"]
        assert StateFolder.open(folder, SystemDisk(), CLUSTER).manifest == Manifest.empty(CLUSTER)
