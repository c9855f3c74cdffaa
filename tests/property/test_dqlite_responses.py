"""dqlite's responses: they come back, no truncation passes, and any bytes end in a response or a ProtocolViolation."""

from __future__ import annotations

import contextlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqlite_py.limits import DQLITE_FILES_MAX, DQLITE_MESSAGE_BYTES_MAX, MEMBERS_MAX
from dqlite_py.wire.dqlite.frames import Frame, FrameReader, Version
from dqlite_py.wire.dqlite.primitives import encode_text, encode_uint64
from dqlite_py.wire.dqlite.responses import (
    Database,
    Empty,
    Failure,
    Files,
    Metadata,
    Response,
    ResponseType,
    Result,
    Server,
    ServerEntry,
    Servers,
    Statement,
    Welcome,
    decode_response,
    encode_response,
    stream_files,
)
from dqlite_py.wire.dqlite.rows import RowsBatch
from dqlite_py.wire.dqlite.values import typed
from dqlite_py.wire.dqlite.violations import ProtocolViolation, refused

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
WORDS = st.integers(0, 4).map(lambda words: bytes(range(8)) * words)
RESPONSES: st.SearchStrategy[Response] = st.one_of(
    st.builds(Failure, U64, TEXTS),
    st.builds(Server, U64, TEXTS),
    st.builds(Welcome, U64),
    st.lists(st.builds(ServerEntry, U64, TEXTS, U64), max_size=5).map(
        lambda entries: Servers(tuple(entries))
    ),
    st.builds(Database, U32),
    st.builds(Statement, U32, U32, U64, st.none() | U64),
    st.builds(Result, st.integers(-(2**63), 2**63 - 1), U64),
    st.just(RowsBatch(("a", "b"), ((typed(1), typed(None)),), False)),
    st.just(Empty()),
    st.lists(st.tuples(TEXTS, WORDS), max_size=3).map(lambda files: Files(tuple(files))),
    st.builds(Metadata, U64, U64),
)


@given(RESPONSES)
def test_a_response_comes_back_and_no_truncation_passes(response: Response) -> None:
    frame = encode_response(response)
    assert decode_response(frame) == response
    for length in range(len(frame.body)):
        with pytest.raises(ProtocolViolation):
            decode_response(frame._replace(body=frame.body[:length]))
    with pytest.raises(ProtocolViolation):
        decode_response(frame._replace(body=frame.body + b"\xff" * 8))


@given(
    st.integers(0, 12), st.integers(0, 2), st.binary(max_size=120), st.booleans(), st.sampled_from(Version)
)
def test_any_bytes_are_a_response_or_a_violation(
    kind: int, schema: int, body: bytes, has_roles: bool, version: Version
) -> None:
    with contextlib.suppress(ProtocolViolation):
        decode_response(Frame(kind, schema, body), version, has_roles=has_roles)


def test_the_legacy_leader_has_no_id() -> None:
    frame = encode_response(Server(None, "h:1"))
    assert frame.body == b"h:1\0\0\0\0\0"
    assert decode_response(frame, Version.LEGACY) == Server(None, "h:1")


def test_members_without_roles() -> None:
    servers = Servers((ServerEntry(1, "a:1"), ServerEntry(2, "b:1")))
    assert decode_response(encode_response(servers), has_roles=False) == servers
    with pytest.raises(ValueError, match="role"):
        encode_response(Servers((ServerEntry(1, "a:1"), ServerEntry(2, "b:1", 0))))


def test_a_failure_behind_the_head_of_its_rows_is_found() -> None:
    head = encode_uint64(2) + encode_text("first name") + encode_text("b")
    body = head + encode_uint64(5) + encode_text("database is locked")
    assert decode_response(Frame(ResponseType.FAILURE, 0, body)) == Failure(5, "database is locked")


@pytest.mark.parametrize("count", [3, 2**64 - 1])
def test_a_failure_behind_something_else_is_a_violation(count: int) -> None:
    body = encode_uint64(count) + encode_text("a") + encode_uint64(5) + encode_text("no")
    with pytest.raises(ProtocolViolation):
        decode_response(Frame(ResponseType.FAILURE, 0, body))


def test_a_long_message_is_cut_at_a_character() -> None:
    frame = encode_response(Failure(1, "x" + "ä" * DQLITE_MESSAGE_BYTES_MAX))
    response = decode_response(frame)
    assert isinstance(response, Failure)
    assert response.message == "x" + "ä" * ((DQLITE_MESSAGE_BYTES_MAX - 1) // 2)


@pytest.mark.parametrize(
    ("kind", "count"), [(ResponseType.SERVERS, MEMBERS_MAX), (ResponseType.FILES, DQLITE_FILES_MAX)]
)
def test_more_entries_than_the_limit_are_refused_by_their_number(kind: ResponseType, count: int) -> None:
    with pytest.raises(ProtocolViolation, match="at most"):
        decode_response(Frame(kind, 0, encode_uint64(count + 1)))


def test_files_in_pieces_are_the_frame_of_the_whole() -> None:
    files = [("db", 16, [b"12345678", b"", b"abcdefgh"]), ("db-wal", 0, [])]
    reader = FrameReader(1000)
    for piece in stream_files(files):
        reader.feed(piece)
    frame = reader.next_frame()
    assert frame is not None
    assert decode_response(frame) == Files((("db", b"12345678abcdefgh"), ("db-wal", b"")))


@pytest.mark.parametrize("pieces", [[b"1234567"], [b"12345678", b"9"], []])
def test_files_that_are_not_of_their_size(pieces: list[bytes]) -> None:
    with pytest.raises(ValueError, match="8 bytes"):
        list(stream_files([("db", 8, pieces)]))


def test_files_of_broken_words_are_refused_before_the_first_piece() -> None:
    with pytest.raises(ValueError, match="9"):
        next(stream_files([("db", 9, [b"123456789"])]))


def test_a_file_of_broken_words_is_a_violation() -> None:
    body = encode_uint64(1) + encode_text("db") + encode_uint64(7) + bytes(8)
    with pytest.raises(ProtocolViolation):
        decode_response(Frame(ResponseType.FILES, 0, body))


def test_a_violation_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(refused("no", 1005)))
    assert (copy.message, copy.code, copy.is_fatal) == ("no", 1005, False)
