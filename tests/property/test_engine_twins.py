"""The C engine and the Python engine do the same: results, errors, state hashes, passes, and the file at the end."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import apsw
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlite_py.command import check_unit, encode_unit, encode_units
from dqlite_py.limits import UNIT_BYTES_MAX
from tests.property.test_engine_determinism import SCHEMA, Workload
from tests.support.engines import NOW_US, SEED, Unit, entry, one, script
from tests.support.twins import Twins, both

MORE_SCHEMA = [
    "CREATE TABLE strict_one (id INTEGER PRIMARY KEY, n INT, t TEXT, b BLOB, r REAL, a ANY) STRICT",
    "CREATE TABLE made (a INT, b INT GENERATED ALWAYS AS (a * 2) STORED, c AS (a || 'x'), CHECK (a <> 13))",
    """CREATE TABLE dated (d DEFAULT (datetime('now')), l DEFAULT (date('now', 'local' || 'time')),
                          x DEFAULT CURRENT_TIME)""",
    "CREATE TABLE kids (id INTEGER PRIMARY KEY, up REFERENCES kids ON DELETE CASCADE ON UPDATE SET NULL)",
    "CREATE VIEW shown AS SELECT id, t FROM strict_one",
    """CREATE TRIGGER shown_insert INSTEAD OF INSERT ON shown BEGIN
         INSERT INTO strict_one (id, t, n) VALUES (NEW.id, NEW.t, last_insert_rowid()); END""",
    """CREATE TRIGGER bad_words BEFORE INSERT ON made WHEN NEW.a < 0 BEGIN
         SELECT RAISE(ABORT, CAST(x'fffe41ff00ff' AS TEXT)); END""",
    """CREATE TRIGGER kill_made BEFORE INSERT ON made WHEN NEW.a = 666 BEGIN
         SELECT RAISE(ROLLBACK, 'killed ' || hex(randomblob(3))); END""",
    "CREATE VIRTUAL TABLE mirror USING fts5 (k, content='plain', content_rowid='id')",  # corrupted by its user
    "CREATE VIRTUAL TABLE fts_four USING fts4 (a, b, tokenize=porter)",
]
TIMES = ["now", "2024-02-29 12:30:00", "1700000000", "-4713-11-24", "nonsense", "0"]
MODIFIERS = [
    "localtime",
    "utc",
    "auto",
    "unixepoch",
    "subsec",
    "+1 month",
    "start of year",
    "weekday 0",
    "ceiling",
    "x",
]
ODD_TEXTS = ["", "\0", "a\0b", "é" * 700, "\ufffd", "\U0010ffff", "' OR 1=1 --", "%s%n", "x" * 5000]
BAD_UTF8 = [b"\xff", b"ok\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\0\xff", b"\xc0\x80"]
NUMBERS = [0, 1, -1, 13, 666, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.5, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), 5e-324, 0.1]


def odd_statement(r: random.Random) -> tuple[str, Any]:
    """A statement at one of SQLite's borders."""
    number, text = r.choice(NUMBERS), r.choice(ODD_TEXTS)
    value: Any = r.choice([None, number, text, r.choice(FLOATS), r.choice(BAD_UTF8)])
    return r.choice(
        [
            ("SELECT ?1, typeof(?1), quote(?1), hex(?1), ?1 + 1, -?1, abs(?1)", [value]),
            ("SELECT CAST(? AS TEXT) AS t, 1", [r.choice(BAD_UTF8)]),
            ("SELECT 9223372036854775807 + ?, sum(v) FROM plain", [number]),
            ("SELECT sum(x) FROM (SELECT 9223372036854775807 AS x UNION ALL SELECT ?)", [number]),
            (
                f"SELECT {r.choice(['date', 'datetime', 'julianday', 'unixepoch'])}(?, ?)",
                [r.choice(TIMES), r.choice(MODIFIERS)],
            ),
            (
                "SELECT strftime(?, ?), timediff('now', ?)",
                ["%Y %j %f %s %%", r.choice(TIMES), r.choice(TIMES)],
            ),
            ("SELECT CURRENT_TIMESTAMP, CURRENT_DATE, CURRENT_TIME, date(), time('now', 'localtime')", []),
            ("SELECT random(), abs(random()) % 7, hex(randomblob(?))", [r.choice([-1, 0, 1, 7, 8, 9, 33])]),
            (
                "SELECT length(randomblob(?)), length(zeroblob(?))",
                [r.choice([1, 100_000, 2**40, 10**9]), number],
            ),
            ("SELECT total_changes(), changes(), last_insert_rowid() FROM plain LIMIT 3", []),
            (f"SELECT {r.choice(['sqlite_version', 'sqlite_source_id', 'load_extension'])}()", []),
            ("SELECT load_extension(1), fts3_tokenizer('simple')", []),
            (
                "INSERT INTO strict_one (id, n, t, b, r, a) VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
                [None, value, value, value, value, value],
            ),
            (
                "INSERT INTO strict_one (n, t, b, a) VALUES (:n, @t, $b, :a)",
                {"n": number, "t": text, "b": b"\0", "a": value, "extra": 1},
            ),
            ("INSERT INTO strict_one (n) VALUES (:n), (:m)", {"n": 1}),
            ("INSERT INTO strict_one (n) VALUES (?), (:m)", {"m": 1}),
            ("SELECT ?2, ?1, ?7", [1] * r.choice([2, 7])),
            (
                "INSERT INTO made (a) VALUES (?), (?) RETURNING a, b, c",
                [r.choice(NUMBERS), r.choice(NUMBERS)],
            ),
            ("INSERT OR IGNORE INTO made (a) VALUES (?)", [number]),
            ("INSERT INTO dated DEFAULT VALUES RETURNING *", []),
            ("INSERT INTO plain (v) VALUES (zeroblob(?))", [r.choice([100, 9000, 30_000])]),  # pages of zeros
            ("INSERT INTO dated (l) VALUES (1) RETURNING d, x", []),
            (
                "INSERT OR REPLACE INTO kids VALUES (?, ?)",
                [r.randrange(20), r.choice([None, r.randrange(20)])],
            ),
            ("DELETE FROM kids WHERE id = ? RETURNING id, up", [r.randrange(20)]),
            ("UPDATE OR ROLLBACK kids SET id = id + 1 WHERE id > ?", [r.randrange(20)]),
            ("INSERT INTO shown VALUES (?, ?)", [r.randrange(30), text]),
            ("INSERT INTO fts_four VALUES (?, ?)", [text, r.choice(ODD_TEXTS)]),
            ("SELECT * FROM fts_four WHERE a MATCH ?", [text]),
            (
                "INSERT INTO docs (docs) VALUES (?)",
                [r.choice(["rebuild", "optimize", "integrity-check", "nonsense"])],
            ),
            (
                "SELECT highlight(docs, 0, '<', '>') FROM docs WHERE docs MATCH ? LIMIT 2",
                [r.choice(["raft", '"', "a AND", "vote OR log"])],
            ),
            (
                "SELECT json_extract(?, ?)",
                ['{"a": [1, 2.5, "x"]}', r.choice(["$.a", "$.a[1]", "nonsense", "$["])],
            ),
            ("SELECT value, key FROM json_each(?)", [r.choice(['[1,2,"é"]', "{", '"\\u0000"'])]),
            (
                "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT sum(i) FROM n",
                [r.randrange(400)],
            ),
            (
                "SELECT group_concat(k, ?), max(at), rank() OVER (ORDER BY count(*)) FROM plain GROUP BY v % 3",
                [text],
            ),
            ("EXPLAIN QUERY PLAN SELECT * FROM plain WHERE k = 1", []),
            ("SELECT 1; SELECT 2", []),
            (" ; /* a */ SELECT 1 -- b", []),
            ("SELECT 1 \0", []),
            (f"/* {text} */ SELECT 1 /* open", []),
            (f"SELECT {'(' * r.choice([5, 99, 2000])}1", []),
            (f"SELECT 1{' + 1' * r.choice([10, 990, 1100])}", []),
            (f"SELECT '{text.replace(chr(39), chr(39) * 2)}' AS \"{text.replace(chr(34), '')}\"", []),
            (f"nonsense {text}", []),
            (f'SELECT * FROM "{text.replace(chr(34), "")}"', []),
            ("SELECT 'x' LIKE ?", ["%" * r.choice([5, 60_000])]),
            (f"VALUES {', '.join(['(1)'] * r.choice([3, 600]))}", []),
            (f"SELECT {' UNION ALL SELECT '.join(['1'] * r.choice([3, 501]))}", []),
            ("CREATE TABLE _dqlite_x (a)", []),
            ("CREATE TEMP TABLE x (a)", []),
            ("SELECT * FROM _dqlite_meta", []),
            ("SELECT * FROM pragma_table_info('plain')", []),
            ("SELECT name FROM sqlite_schema WHERE name = ?", [text]),
            ("DELETE FROM sqlite_sequence", []),
            ("UPDATE sqlite_schema SET sql = ''", []),
            ("DROP TABLE sqlite_stat1", []),
            (
                r.choice(
                    ["BEGIN", "COMMIT", "SAVEPOINT x", "ATTACH 'x' AS y", "VACUUM", "EXPLAIN PRAGMA x", "END"]
                ),
                [],
            ),
            (f"CREATE TABLE named{r.randrange(8)} (a UNIQUE, b)", []),
            (f"DROP TABLE IF EXISTS named{r.randrange(8)}", []),
            (f"ALTER TABLE named{r.randrange(8)} RENAME COLUMN b TO c{r.randrange(9)}", []),
            (f"ALTER TABLE named{r.randrange(8)} RENAME TO named{r.randrange(8)}", []),
            (f"ALTER TABLE named{r.randrange(8)} DROP COLUMN b", []),
            (f"INSERT INTO named{r.randrange(8)} (a) SELECT id FROM plain", []),
        ]
    )


class OddWorkload(Workload):
    """The workload of one engine's own test, with more of the borders."""

    def statement(self) -> tuple[str, Any]:
        return odd_statement(self.random) if self.random.random() < 0.5 else super().statement()


def run(folder: Path, seed: int, entries: int) -> set[int]:
    """Feed both; returns the codes of the units."""
    chance, workload, codes = random.Random(seed), OddWorkload(seed), set[int]()
    with Twins(folder, statements_max=chance.choice((1, 8, 256)), results_max=20_000) as twins:
        twins.apply(script(*SCHEMA, *MORE_SCHEMA))
        for _ in range(entries):
            payload = workload.entry()
            if chance.random() < 0.2:
                twins.apply_bytes(payload, want_results=False)
            else:
                codes |= {unit[0] for unit in twins.apply_payload(payload)}
            if chance.random() < 0.04:
                twins.reopen()
            elif chance.random() < 0.05:
                twins.checkpoint()
    return codes


@pytest.mark.parametrize("seed", range(6))
def test_the_twins_agree(tmp_path: Path, seed: int) -> None:
    codes = run(tmp_path, seed, 60)
    assert {0, 1, 23} <= codes


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(100, 108))
def test_the_twins_agree_long(tmp_path: Path, seed: int) -> None:
    codes = run(tmp_path, seed, 300)
    #      ok, SQL, too big, range, refused, CHECK, UNIQUE, FK, RAISE, datatype, rowid
    assert {0, 1, 18, 25, 23, 275, 2067, 787, 1811, 3091, 2579} <= codes


values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.binary(max_size=300),
)
statements = st.one_of(
    st.randoms(use_true_random=False).map(odd_statement),
    st.tuples(
        st.sampled_from(
            ["SELECT ?, ?2", "SELECT :a, @b, $c, ?5", "INSERT INTO t VALUES (?, ?) RETURNING *", "x ?"]
        ),
        st.one_of(st.lists(values, max_size=6), st.dictionaries(st.sampled_from("abc5"), values)),
    ),
    st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.just([])),
)
unit_lists = st.lists(st.lists(statements, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(
    entries=st.lists(unit_lists, min_size=1, max_size=3),
    now_us=st.integers(-(2**63), 2**63 - 1),
    seed=st.binary(min_size=16, max_size=16),
)
def test_any_entries(entries: list[list[Unit]], now_us: int, seed: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, Twins(Path(folder)) as twins:
        twins.apply(script("CREATE TABLE t (k UNIQUE, v)", *SCHEMA, *MORE_SCHEMA))
        for units in entries:
            twins.apply_bytes(entry(*units, now_us=now_us, seed=seed))


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Twins(tmp_path_factory.mktemp("twins")) as found:
        found.apply(script("CREATE TABLE t (k UNIQUE, v)"))
        yield found


SAMPLE = entry(
    [("SELECT :a, ?2", {"a": 2**40, "2": b"\0" * 300}), ("SELECT ?", [1.5]), ("SELECT ?", ["é" * 50])],
    one("INSERT INTO t VALUES (1, ?) RETURNING v", -(2**33)),
)


def test_every_cut_is_the_same_error(twins: Twins) -> None:
    answers = {twins.apply_bytes(SAMPLE[:size])[:2] for size in range(len(SAMPLE))}
    assert answers == {("failed", 1)}


@settings(deadline=None, max_examples=600)
@given(data=st.data())
def test_damaged_payloads(twins: Twins, data: st.DataObject) -> None:
    payload = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(payload) - 1))
        new = data.draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"\xcf" + b"\xff" * 8, b"\xca\x7f\x80\0\0"]))
        )
        payload[place : place + data.draw(st.integers(0, 3))] = new
    twins.apply_bytes(bytes(payload))


@settings(deadline=None, max_examples=500)
@given(data=st.binary(max_size=80))
def test_arbitrary_bytes(twins: Twins, data: bytes) -> None:
    twins.apply_bytes(data)
    twins.apply_bytes(encode_units("main", NOW_US, SEED, None, [data]))


@pytest.mark.parametrize("count", [32_766, 32_767])
def test_as_many_parameters_as_there_may_be(twins: Twins, count: int) -> None:
    body = encode_unit(one("SELECT 1"))[:-1]  # without its empty array of parameters
    assert check_unit(body + b"\x90")
    array = body + b"\xdc" + count.to_bytes(2, "big") + b"\x01" * count
    names = b"".join(b"\xa5" + b"%05d" % i + b"\x01" for i in range(count))
    mapped = body + b"\xde" + count.to_bytes(2, "big") + names
    for unit in (array, mapped):
        answer = twins.apply_bytes(encode_units("main", NOW_US, SEED, None, [unit]))
        assert answer[0] == ("applied" if count == 32_766 else "failed")
    marks = ", ".join("?" * 32_766)
    assert twins.apply([(f"SELECT 1 WHERE 5 IN ({marks})", [5] * 32_766)])[0][1][0][3] == [[1]]
    assert twins.apply([(f"SELECT 1 WHERE 5 IN ({marks}, ?)", [5] * 32_766)])[0][0] == 1


def test_huge_values(twins: Twins) -> None:
    blob = bytes(range(256)) * 4096 * 12
    assert twins.apply([("SELECT ?1, length(?1)", [blob])])[0][1][0][3] == [[blob, len(blob)]]
    twins.apply(
        [("INSERT INTO t VALUES (?, ?)", ["huge", blob])],
        one("INSERT INTO t VALUES ('other', randomblob(3000000))"),
    )
    size = UNIT_BYTES_MAX + 1
    assert twins.apply(one(f"SELECT randomblob({size})"), one(f"SELECT zeroblob({size})"))[0][0] == 18


BODY = [1, 1, "main", NOW_US, SEED, None, [[None, 0, [["SELECT 1", []]]]]]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (i, v)
        for i in range(7)
        for v in (None, True, 0, 1, 2, -1, 2**63, 1.0, "x", b"x", [], {}, [1], [1, b"8"])
    ]
    + [
        (5, [7, bytes(8)]),
        (5, [2**64 - 1, bytes(8)]),
        (5, [-1, bytes(8)]),
        (5, [7, bytes(8), 1]),
        (5, [7, bytes(7)]),
        (5, [7, "12345678"]),
        (5, [1.0, bytes(8)]),
        (5, {1: bytes(8)}),
        (5, msgpack.ExtType(1, bytes(8))),
        (6, BODY[6] * 4096),
        (6, BODY[6] * 4097),
    ],
)
def test_each_field_of_the_header(twins: Twins, place: int, value: Any) -> None:
    fields = [*BODY]
    fields[place] = value
    twins.apply_bytes(msgpack.packb(fields))
    twins.apply_bytes(msgpack.packb(fields[: place + 1]))


@pytest.mark.parametrize("mark", [0x90, 0x91, 0x92, 0x93, 0x94, 0x82])
def test_the_state_hash_is_a_pair(twins: Twins, mark: int) -> None:
    payload = msgpack.packb([*BODY[:5], [7, bytes(8)], BODY[6]])
    pair = msgpack.packb([7, bytes(8)])
    answer = twins.apply_bytes(payload.replace(pair, bytes([mark]) + pair[1:]))
    assert answer[0] == ("applied" if mark == 0x92 else "failed")


def test_an_index_that_its_user_corrupted_is_the_units_error(twins: Twins) -> None:
    results = twins.apply(
        script("CREATE TABLE source (id INTEGER PRIMARY KEY, k)", "INSERT INTO source VALUES (1, 'one')"),
        one("CREATE VIRTUAL TABLE over USING fts5 (k, content='source', content_rowid='id')"),
        one("INSERT INTO over (rowid, k) VALUES (1, 'another')"),
        one("INSERT INTO over (over, rank) VALUES ('integrity-check', 1)"),
        one("SELECT 1"),
    )
    assert [unit[0] for unit in results] == [0, 0, 0, 267, 0]  # SQLITE_CORRUPT_VTAB


def test_the_bound_of_results_is_met_at_the_same_byte(tmp_path: Path) -> None:
    with Twins(tmp_path, results_max=200) as twins:
        twins.apply(script("CREATE TABLE t (a)"))
        codes = set()
        for size in range(150, 200):
            for value in ("x" * size, b"x" * size):
                for extra in ([], [None], [1], [1.5]):
                    marks = ", ".join("?" * (1 + len(extra)))
                    payload = entry(
                        one(f"SELECT {marks}", value, *extra),
                        one("INSERT INTO t VALUES (?) RETURNING a", value),
                    )
                    answers = [unit[0] for unit in twins.apply_payload(payload)]
                    twins.apply_bytes(payload, want_results=False)
                    codes |= set(answers)
        assert codes == {0, 18}


WORDS = (
    "-- /* */ \ufeff '' \"\" ]] é EXPLAIN query Plan ANALYZE reindex main TEMP nocase t CREATE alter TABLE _dqlite_ "
    "_DQLITE_x VACUUM pragma BEGIN end INSERT WITH values"
)
fragments = st.sampled_from([*" \t\n\f\r\v;.,()[]'\"`-/*x$", *WORDS.split()])


@settings(deadline=None, max_examples=2000)
@given(words=st.lists(fragments, max_size=12), glue=st.sampled_from(["", " "]))
def test_the_same_words_are_refused(words: list[str], glue: str) -> None:
    sql = glue.join(words).encode()
    c, python = both().values()
    assert python.refusal(sql) == c.refusal(sql)
    connection = apsw.Connection(":memory:")
    try:
        for text in (sql, b"SELECT 1;" + sql, sql + b"\xff", sql + b"\0"):
            assert python.inspect(connection, text) == c.inspect(connection, text)
    finally:
        connection.close()


@pytest.mark.parametrize("now_us", [-1, -999, -1000, -1500, 999, 1_700_000_000_123_999, -(2**63), 2**63 - 1])
def test_any_clock(twins: Twins, now_us: int) -> None:
    ask = one("SELECT strftime('%Y %f', 'now'), unixepoch('subsec'), julianday('now'), CURRENT_TIMESTAMP")
    twins.apply(ask, one("SELECT datetime('now', 'utc')"), now_us=now_us)


@pytest.mark.parametrize("length", [59, 60, 61, 99, 100, 101, 400, 2000])
def test_long_names_in_messages(twins: Twins, length: int) -> None:
    for name in ("x" * length, "é" * length, "x" * (length - 1) + "é"):
        twins.apply(
            one(f"CREATE VIRTUAL TABLE v USING {name} (a)"),
            one(f"SELECT {name}()"),
            one(f"SELECT * FROM pragma_{name}"),
            one(f"UPDATE sqlite_stat{name} SET a = 1"),
            one(f"CREATE TABLE sqlite_stat{name} (a)"),
            one(f"nonsense {name}"),
            [(f"SELECT :{name}", {})],
            [(f"SELECT :{name}", {name: 1})],
        )


def test_deep_nesting_is_refused_without_recursion(twins: Twins) -> None:
    for mark in (b"\x91", b"\x81", b"\xdc\x00\x01"):
        assert twins.apply_bytes(mark * 1_000_000)[:2] == ("failed", 1)
        assert twins.apply_bytes(SAMPLE[:-1] + mark * 1_000_000)[:2] == ("failed", 1)


def test_rollbacks_and_replays_take_the_same_passes(twins: Twins) -> None:
    twins.apply(
        script("CREATE TABLE IF NOT EXISTS u (id INTEGER PRIMARY KEY)", "INSERT OR IGNORE INTO u VALUES (1)")
    )
    killers = [one("INSERT OR ROLLBACK INTO u VALUES (1)") for _ in range(70)]
    answer = twins.apply_bytes(
        entry(one("INSERT INTO u VALUES (NULL)"), *killers, one("INSERT INTO u VALUES (1), (1)"))
    )
    assert answer[-1] == 66  # one for each killer, one that refuses the rest, the last
    failing = entry(one("INSERT INTO u SELECT NULL UNION ALL SELECT 1"), one("SELECT count(*) FROM u"))
    assert twins.apply_bytes(failing)[-1] == 2
