"""Many mutated payloads against the C engine, to be run under the sanitizers too (native/asan_test.sh).

Plain random, not hypothesis: thousands a second. DQLITE_FUZZ_ROUNDS raises their number, DQLITE_FUZZ_SEED changes
them; a failure names the payload.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from dqlite_py.errors import MalformedMessage, UnknownFormat
from tests.support.engines import Database, entry, one

ROUNDS = int(os.environ.get("DQLITE_FUZZ_ROUNDS", "4000"))
SEED = os.environ.get("DQLITE_FUZZ_SEED", "1")

SAMPLES = (
    entry(one("INSERT INTO t VALUES (?, ?) RETURNING *", 7, "seven"), one("SELECT ?, ?", None, 1.5)),
    entry(
        [
            ("INSERT INTO t VALUES (:a, :b)", {"a": b"\0" * 300, "b": -(2**40)}),
            ("INSERT INTO t VALUES (:a, :b)", {"b": 2**40, "a": "é" * 40}),
            ("UPDATE t SET v = ?1 WHERE k = ?2", [1, 2]),
            ("SELECT * FROM t ORDER BY k LIMIT 3", []),
        ]
    ),
    entry(
        one("INSERT OR ROLLBACK INTO t VALUES (1, 1)"), one("DELETE FROM t"), one("SELECT total_changes()")
    ),
    entry([("INSERT INTO t VALUES (?, ?)", [i, "x" * i]) for i in range(40)]),
    entry(
        one("CREATE TABLE IF NOT EXISTS u(a)"), one("INSERT INTO u VALUES (random())"), one("DROP TABLE u")
    ),
)
# First bytes of msgpack's items, and sizes at the ends of their ranges.
ODD = (
    *(bytes([mark]) for mark in range(0xC0, 0xE0)),
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\x7f\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\x80\x00\x00\x00",
    b"\xdc\xff\xff",
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + b"\0" * 7,
    b"\xcb\x7f\xf8" + b"\0" * 6,
    b"\xca\x7f\x80\0\0",
    b"\xa4\xf0\x9f\x98",
    b"\xa2\xc0\x80",
    b"\xa3\xed\xa0\x80",
)


def change(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] = chance.randrange(256)


def flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(1, len(data) + 1) :]


def remove(data: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(data))
    del data[place : place + chance.randrange(1, 9)]


def odd(data: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(data))
    data[place : place + chance.randrange(3)] = chance.choice(ODD)


def splice(data: bytearray, chance: random.Random) -> None:
    other = chance.choice(SAMPLES)
    place = chance.randrange(len(other))
    data[chance.randrange(len(data)) :] = other[place:]


def repeat(data: bytearray, chance: random.Random) -> None:
    place, size = chance.randrange(len(data)), chance.randrange(1, 60)
    data[place:place] = data[place : place + size]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    change,
    flip,
    cut,
    remove,
    odd,
    splice,
    repeat,
)


def mutated(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(SAMPLES))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if data:
            chance.choice(MUTATIONS)(data, chance)
    return bytes(data)


@pytest.mark.parametrize("part", range(4))
def test_a_mutated_payload_is_applied_or_refused_and_nothing_else(tmp_path: Path, part: int) -> None:
    chance = random.Random(f"{SEED} {part}")
    outcomes = {"applied": 0, "refused": 0}
    with Database(tmp_path / "a.db") as db:
        db.run(("CREATE TABLE t (k UNIQUE, v)", []))
        for number in range(ROUNDS // 4):
            payload, before = mutated(chance), db.engine.pin_info()
            try:
                result = db.engine.apply(
                    before.applied_index + 1, payload, want_results=chance.random() < 0.5
                )
            except (MalformedMessage, UnknownFormat):
                outcomes["refused"] += 1
                assert db.engine.pin_info() == before, payload.hex()
                continue
            outcomes["applied"] += 1
            if result.results:
                units = msgpack.unpackb(result.results, raw=False)
                assert all(unit[0] == 0 or isinstance(unit[1], str) for unit in units), payload.hex()
            if number % 500 == 0:
                db.reopen()  # the scan finds the state that was kept on the way
                assert db.engine.pin_info().state_hash == result.state_hash, payload.hex()
    assert min(outcomes.values()) > ROUNDS // 50, outcomes
