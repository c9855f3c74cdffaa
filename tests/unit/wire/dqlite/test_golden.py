"""dqlite's protocol against the bytes of others: dqlite-wire (golden.txt), dqlite and its shell (captured.txt)."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from dqlite_py.wire.dqlite.frames import Frame, FrameReader, Version, encode_frame
from dqlite_py.wire.dqlite.requests import Request, decode_request, encode_request
from dqlite_py.wire.dqlite.requests import RequestType as R
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
)
from dqlite_py.wire.dqlite.rows import RowsBatch
from dqlite_py.wire.dqlite.tuples import params_schema
from dqlite_py.wire.dqlite.values import ValueType, WireValue, typed
from tests.foreign import python313env

HERE: Final = Path(__file__).parent
PARAMS: Final = (
    *map(typed, (1, -5, 2.5, "täxt", b"\0\1\2", None)),
    WireValue(ValueType.BOOLEAN, 1),
)
TYPED_ROW: Final = (
    WireValue(ValueType.UNIXTIME, 1700000000),
    WireValue(ValueType.ISO8601, "2026-11-28 08:00:00"),
    WireValue(ValueType.BOOLEAN, 1),
)
MEANING: Final[dict[str, Request | Response]] = {
    "leader": Request(R.LEADER, (0,)),
    "client": Request(R.CLIENT, (7,)),
    "open": Request(R.OPEN, ("app", 0, "volatile")),
    "prepare": Request(R.PREPARE, (0, "SELECT ?")),
    "prepare_with_tail": Request(R.PREPARE, (0, "SELECT 1; SELECT 2"), 1),
    "exec": Request(R.EXEC, (0, 3, PARAMS)),
    "exec_of_many": Request(R.EXEC, (0, 3, tuple(map(typed, range(300)))), 1),
    "query": Request(R.QUERY, (0, 4, (typed("x"),))),
    "finalize": Request(R.FINALIZE, (0, 3)),
    "exec_sql": Request(R.EXEC_SQL, (0, "INSERT INTO t VALUES (?)", (typed(1),))),
    "query_sql": Request(R.QUERY_SQL, (0, "SELECT 1", ())),
    "interrupt": Request(R.INTERRUPT, (0,)),
    "add": Request(R.ADD, (3, "10.0.0.3:9001")),
    "assign": Request(R.ASSIGN, (3, 1)),
    "remove": Request(R.REMOVE, (3,)),
    "dump": Request(R.DUMP, ("app",)),
    "cluster": Request(R.CLUSTER, (1,)),
    "transfer": Request(R.TRANSFER, (2,)),
    "describe": Request(R.DESCRIBE, (0,)),
    "weight": Request(R.WEIGHT, (5,)),
    "failure": Failure(2067, "UNIQUE constraint failed: t.a"),
    "server": Server(2, "10.0.0.2:9001"),
    "no_leader": Server(0, ""),
    "welcome": Welcome(15000),
    "servers": Servers((ServerEntry(1, "10.0.0.1:9001", 0), ServerEntry(2, "10.0.0.2:9001", 2))),
    "db": Database(0),
    "stmt": Statement(0, 3, 2),
    "stmt_with_tail": Statement(0, 3, 2, 10),
    "result": Result(42, 3),
    "rows": RowsBatch(
        ("a", "b", "c"), ((typed(1), typed("x"), typed(None)), (typed(2.5), typed(b"abc"), typed(-7))), True
    ),
    "more_rows": RowsBatch(("a",), ((typed(1),),), False),
    "rows_by_declared_type": RowsBatch(("u", "i", "b"), (TYPED_ROW,), True),
    "empty": Empty(),
    "files": Files((("app", bytes(range(16))), ("app-wal", b""))),
    "metadata": Metadata(4, 9),
}


class Line(NamedTuple):
    source: str
    direction: str
    raw: bytes


def lines(name: str) -> list[Line]:
    split = (line.split() for line in (HERE / name).read_text().splitlines())
    return [Line(source, direction, bytes.fromhex(raw)) for source, direction, raw in split]


def one_frame(raw: bytes) -> Frame:
    reader = FrameReader(len(raw))
    reader.feed(raw)
    frame = reader.next_frame()
    assert frame is not None
    assert reader.buffered_bytes == 0
    return frame


def encode(message: Request | Response) -> bytes:
    return encode_frame(encode_request(message) if isinstance(message, Request) else encode_response(message))


@pytest.mark.parametrize("line", lines("golden.txt"), ids=lambda line: line.source)
def test_bytes_and_meaning_are_those_of_dqlite_wire(line: Line) -> None:
    meaning, frame = MEANING[line.source], one_frame(line.raw)
    assert (decode_request if line.direction == ">" else decode_response)(frame) == meaning
    assert encode(meaning) == line.raw


def test_every_type_has_its_bytes() -> None:
    seen = {(line.direction, line.raw[4]) for line in lines("golden.txt")}
    requests = set(R) - {R.HEARTBEAT, R.CONNECT}  # dqlite-wire knows none of them
    assert seen == {(">", kind) for kind in requests} | {("<", kind) for kind in ResponseType}
    assert {line.source for line in lines("golden.txt")} == set(MEANING)


def test_what_dqlite_and_its_shell_say_is_read_and_said_alike() -> None:
    captured = lines("captured.txt")
    has_roles = True
    for line in captured:
        frame = one_frame(line.raw)
        if line.direction == ">":
            request = decode_request(frame)
            assert encode(request) == line.raw
            if request.type is R.CLUSTER:
                has_roles = request.fields == (1,)
            continue
        version = Version.LEGACY if line.source == "legacy" else Version.V1
        response = decode_response(frame, version, has_roles=has_roles)
        again = encode(response)
        assert decode_response(one_frame(again), version, has_roles=has_roles) == response
        # dqlite pads with whatever was in its buffer.
        assert len(again) == len(line.raw)
        assert all(ours in (0, theirs) for ours, theirs in zip(again, line.raw, strict=True))
    assert {line.raw[4] for line in captured if line.direction == "<"} == set(ResponseType)
    assert {line.source for line in captured} == {"ours", "shell", "dqlite", "legacy"}


def test_what_dqlite_answers() -> None:
    frames = [one_frame(line.raw) for line in lines("captured.txt") if line.source == "dqlite"]
    answers = [decode_response(frame) for frame in frames if frame.type != ResponseType.SERVERS]
    for expected in (
        Failure(5, "a database for this connection is already open"),
        Failure(1555, "UNIQUE constraint failed: t.a"),
        Failure(1, "no such table: nowhere"),
        Failure(12, "no statement with the given id"),
        Failure(0, "empty statement"),
        Welcome(15000),
        Database(0),
        Result(3, 1),
        Statement(0, 0, 2),
    ):
        assert expected in answers
    table = next(answer for answer in answers if isinstance(answer, RowsBatch) and len(answer.rows) == 3)
    assert [[value.type for value in row] for row in table.rows] == [
        [ValueType.INTEGER, ValueType.BOOLEAN, ValueType.UNIXTIME, ValueType.FLOAT],
        [ValueType.INTEGER, ValueType.BOOLEAN, ValueType.ISO8601, ValueType.BLOB],
        [
            ValueType.INTEGER,
            ValueType.BOOLEAN,
            ValueType.ISO8601,
            ValueType.TEXT,
        ],  # NULLs, as dqlite has them
    ]
    assert [value.value for value in table.rows[0]] == [1, 7, 1700000000, 2.5]


def random_messages(count: int) -> list[Request | Response]:
    chance = random.Random(7)

    def value() -> WireValue:
        kind = chance.randrange(5)
        text = "".join(chance.choices("aä€😀 '", k=chance.randrange(20)))
        return typed(
            [None, chance.randrange(-(2**63), 2**63), chance.gauss(0, 1e9), text, chance.randbytes(kind * 3)][
                kind
            ]
        )

    made: list[Request | Response] = []
    for _ in range(count):
        params = tuple(value() for _ in range(chance.choice([0, 1, 2, 7, 255, 256])))
        made.append(
            Request(R.EXEC_SQL, (0, "SELECT 'ä'" * chance.randrange(9), params), params_schema(len(params)))
        )
        columns = tuple(f"column {number}" for number in range(chance.randrange(1, 40)))
        rows = tuple(tuple(value() for _ in columns) for _ in range(chance.randrange(1, 5)))
        made.append(RowsBatch(columns, rows, chance.random() < 0.5))
        made.append(Result(chance.randrange(2**63), chance.randrange(2**31)))
        made.append(Files(tuple((f"f{number}", chance.randbytes(8 * number)) for number in range(3))))
    return made


@pytest.mark.timeout(300)  # the first time, packages are fetched
def test_dqlite_wire_reads_ours_and_says_the_same() -> None:
    try:
        python = python313env.python()
    except python313env.NotAvailable as error:
        pytest.skip(f"dqlite-wire needs Python 3.13: {error}")
    ours = [encode(message) for message in (*MEANING.values(), *random_messages(200))]
    requests = [isinstance(message, Request) for message in (*MEANING.values(), *random_messages(200))]
    fed = "".join(
        f"{'>' if request else '<'} {raw.hex()}\n" for request, raw in zip(requests, ours, strict=True)
    )
    judged = subprocess.run(
        [python, str(HERE / "oracle.py"), "echo"], input=fed, capture_output=True, text=True, check=True
    )
    assert judged.stdout.split("\n")[:-1] == [raw.hex() for raw in ours]
    golden = subprocess.run(
        [python, str(HERE / "oracle.py"), "golden"], capture_output=True, text=True, check=True
    )
    assert golden.stdout == (HERE / "golden.txt").read_text()
