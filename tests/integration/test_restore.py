"""`dqlite-py restore`: a file becomes a new cluster, or a database of one that runs, and is the same on every node."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from dqlite_py.cli.demo.processes import Processes
from dqlite_py.cli.main import main
from dqlite_py.client import RemoteGateway
from dqlite_py.client.shared import SharedLink
from dqlite_py.command import encode_unit
from dqlite_py.errors import Error, NoLeader, Outcome, RequestTooLarge
from dqlite_py.model import Address
from dqlite_py.offline import load
from dqlite_py.offline.load import load_database
from dqlite_py.storage.source_file import SourceFile
from tests.integration.cluster import Client, Cluster, wait_until
from tests.support.sqlite_files import contents, make_full

DATABASE = "taken"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with everything."""
    path = tmp_path_factory.mktemp("full") / "full.db"
    make_full(path)
    return path


@pytest.fixture(scope="module")
def versionless(full: Path) -> Path:
    """The same without header values, which a log cannot set."""
    path = full.with_name("versionless.db")
    path.write_bytes(full.read_bytes())
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 0")
        db.execute("PRAGMA application_id = 0")
    return path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster") as running:
        yield running


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def dump(address: str, path: Path, database: str = DATABASE) -> dict[str, object]:
    """What the node at `address` has, as a plain file."""
    result = run("dump", "-s", address, "--database", database, str(path), "--force")
    assert result.exit_code == 0, result.output
    return contents(path)


def make(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)
    return path


def check_all(cluster: Cluster, expected: Path, place: Path) -> None:
    cluster.check_equal()
    for node in cluster.running:
        assert dump(node.address, place / "dumped.db") == contents(expected)


def test_a_new_cluster_that_others_join(full: Path, tmp_path: Path) -> None:
    processes = Processes(tmp_path, 3)
    result = run(
        "restore", "--dir", str(processes.nodes[0].folder), "--database", DATABASE, str(full), "--json"
    )
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    verified = run("verify", str(processes.nodes[0].folder), "--json")
    assert verified.exit_code == 0, verified.output
    report = json.loads(verified.stdout)
    assert report["databases"][0]["matches"] is True
    assert report["databases"][0]["state_hash"] == facts["state_hash"]
    client = Client()
    try:
        processes.start_all()
        for node in processes.nodes:
            wait_until(
                lambda n=node: client.call(n.address, "status")["leader_id"], f"{node.name} has a leader"
            )

        def voters() -> bool:
            members = client.call(processes.nodes[0].address, "status")["members"]
            return len([m for m in members if m["role"] == "voter"]) == 3

        wait_until(voters, "three voters")
        addresses = {m["address"] for m in client.call(processes.nodes[0].address, "status")["members"]}
        assert addresses == {node.address for node in processes.nodes}
        for node in processes.nodes:
            assert dump(node.address, tmp_path / "dumped.db") == contents(full)
        unit = encode_unit([("INSERT INTO keyed(name) VALUES ('next')", ())])
        client.call(processes.nodes[1].address, "sql.write", {"database": DATABASE, "unit": unit})
        body = {"database": DATABASE, "sql": "SELECT id FROM keyed WHERE name = 'next'"}
        assert client.call(processes.nodes[2].address, "sql.read", body)[1] == [[101]]  # the counter was kept
    finally:
        processes.__exit__(None, None, None)
        client.close()


def test_a_folder_in_use_is_refused(full: Path, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    assert run("restore", "--dir", str(folder), "--database", DATABASE, str(full)).exit_code == 0
    again = run("restore", "--dir", str(folder), "--database", DATABASE, str(full))
    assert again.exit_code == 3
    assert "already" in again.output
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "something").touch()
    other = run("restore", "--dir", str(tmp_path / "other"), "--database", DATABASE, str(full))
    assert other.exit_code == 3
    assert "not empty" in other.output


def test_an_interrupted_founding_is_made_anew(full: Path, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    broken = make(
        tmp_path / "broken.db",
        "CREATE TABLE a(x)",
        "CREATE VIEW v AS SELECT sqlite_version()",
        "CREATE TABLE c(z CHECK (sqlite_version() > '3'))",
    )
    refused = run("restore", "--dir", str(folder), "--database", DATABASE, str(broken))
    assert refused.exit_code == 3
    assert "sqlite_version() may differ between nodes" in refused.output
    assert run("restore", "--dir", str(folder), "--database", DATABASE, str(full)).exit_code == 0
    assert run("verify", str(folder)).exit_code == 0


def test_into_a_running_cluster(cluster: Cluster, versionless: Path, tmp_path: Path) -> None:
    place = ("restore", "-s", cluster.followers()[0].address, "--database", DATABASE, str(versionless))
    result = run(*place, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["atomic"] is True
    check_all(cluster, versionless, tmp_path)
    again = run(*place)
    assert again.exit_code == 1
    assert "--replace" in again.output


def test_replaced_at_once(cluster: Cluster, versionless: Path, tmp_path: Path) -> None:
    address = cluster.nodes[0].address
    old = make(
        tmp_path / "old.db",
        "CREATE TABLE plain(old TEXT)",
        "CREATE TABLE parent(id INTEGER PRIMARY KEY)",
        "CREATE TABLE a_child(id INTEGER REFERENCES parent(id) ON DELETE RESTRICT)",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO a_child VALUES (1)",
        "CREATE VIEW seen AS SELECT * FROM plain",
        "CREATE TRIGGER t INSTEAD OF INSERT ON seen BEGIN INSERT INTO plain VALUES (new.old); END",
        "INSERT INTO plain VALUES ('old')",
    )
    assert run("restore", "-s", address, "--database", DATABASE, str(old)).exit_code == 0
    replaced = run("restore", "-s", address, "--database", DATABASE, str(versionless), "--replace")
    assert replaced.exit_code == 0, replaced.output
    check_all(cluster, versionless, tmp_path)


def gateway(cluster: Cluster) -> RemoteGateway:
    return RemoteGateway(SharedLink([Address(node.address) for node in cluster.nodes], None))


def test_the_leader_is_killed_in_the_middle(cluster: Cluster, versionless: Path, tmp_path: Path) -> None:
    old = make(tmp_path / "old.db", "CREATE TABLE plain(old)", "INSERT INTO plain VALUES ('old')")
    remote = gateway(cluster)
    with SourceFile(str(old)) as source:
        load_database(remote, DATABASE, source)
    killed: list[Any] = []

    def progress(what: str, _done: int, _total: int) -> None:
        if not killed and "compact" in what:
            survivors = cluster.followers()
            seen = [
                cluster.client.call(
                    node.address,
                    "sql.read",
                    {"database": DATABASE, "sql": "SELECT old FROM plain", "level": "stale"},
                )[1]
                for node in survivors
            ]
            assert seen == [[["old"]]] * 2  # all of the old one, until all of the new one is there
            killed.append(cluster.leader())
            killed[0].kill()

    with SourceFile(str(versionless)) as source:
        loaded = load_database(remote, DATABASE, source, replace=True, progress=progress)
    assert killed
    assert loaded.attempts >= 2
    check_all(cluster, versionless, tmp_path)
    killed[0].start()
    wait_until(lambda: cluster.status(killed[0])["leader_id"], "the killed node is back")
    check_all(cluster, versionless, tmp_path)


def test_larger_than_one_entry_with_the_leader_killed(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "ATOMIC_BYTES_MAX", 200_000)
    monkeypatch.setattr(load, "BATCH_BYTES", 20_000)
    file = tmp_path / "big.db"
    make_full(file, rows=3000, blob_bytes=200)
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 0")
        db.execute("PRAGMA application_id = 0")
    killed: list[Any] = []

    def progress(_what: str, done: int, _total: int) -> None:
        if not killed and done > 300_000:
            killed.append(cluster.leader())
            killed[0].kill()

    remote = gateway(cluster)
    with SourceFile(str(file)) as source:
        loaded = load_database(remote, DATABASE, source, progress=progress)
        assert killed
        assert loaded.attempts == 0
        with pytest.raises(RequestTooLarge):
            load_database(remote, DATABASE, source, replace=True)
    check_all(cluster, file, tmp_path)
    address = cluster.followers()[0].address
    again = run("restore", "-s", address, "--database", DATABASE, str(file), "--drop-first", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["atomic"] is False
    check_all(cluster, file, tmp_path)


def test_rows_that_refer_to_each_other(cluster: Cluster, tmp_path: Path) -> None:
    file = make(
        tmp_path / "tree.db",
        "CREATE TABLE child(id INTEGER PRIMARY KEY, node INTEGER NOT NULL REFERENCES tree(id))",
        "CREATE TABLE tree(id INTEGER PRIMARY KEY, parent INTEGER NOT NULL REFERENCES tree(id), name TEXT)",
        "INSERT INTO tree VALUES (1, 3, 'a'), (2, 1, 'b'), (3, 3, 'c')",
        "INSERT INTO child VALUES (1, 3)",
    )
    result = run("restore", "-s", cluster.nodes[0].address, "--database", DATABASE, str(file))
    assert result.exit_code == 0, result.output
    found = dump(cluster.nodes[1].address, tmp_path / "dumped.db")
    expected = contents(file)
    assert {k: v for k, v in found.items() if k.startswith("rows")} == {
        k: v for k, v in expected.items() if k.startswith("rows")
    }


def interrupted(path: Path) -> None:
    """As a program leaves it that was killed in a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE a(x)")
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN")
        db.executemany("INSERT INTO a VALUES (?)", [("x" * 500,)] * 1000)
        file, journal = path.read_bytes(), path.with_name(f"{path.name}-journal").read_bytes()
    path.write_bytes(file)
    path.with_name(f"{path.name}-journal").write_bytes(journal)


CIRCLES = (
    "CREATE TABLE leaf(id INTEGER PRIMARY KEY, of INTEGER NOT NULL REFERENCES man(id))",
    "CREATE TABLE man(id INTEGER PRIMARY KEY, wife INTEGER NOT NULL REFERENCES woman(id))",
    "CREATE TABLE root(id INTEGER PRIMARY KEY)",
    "CREATE TABLE woman(id INTEGER PRIMARY KEY, man INTEGER NOT NULL REFERENCES man(id) DEFERRABLE INITIALLY DEFERRED,"
    " root INTEGER NOT NULL REFERENCES root(id), twin INTEGER REFERENCES woman(id))",
    "CREATE TABLE other(a TEXT PRIMARY KEY REFERENCES another(b)) WITHOUT ROWID",
    "CREATE TABLE another(b TEXT PRIMARY KEY REFERENCES other(a) ON DELETE CASCADE)",
    "PRAGMA foreign_keys = OFF",
    "INSERT INTO root VALUES (7)",
    "INSERT INTO man VALUES (1, 1), (2, 2)",
    "INSERT INTO woman VALUES (1, 2, 7, 2), (2, 1, 7, NULL)",
    "INSERT INTO leaf VALUES (1, 2)",
    "INSERT INTO other VALUES ('k')",
    "INSERT INTO another VALUES ('k')",
)


def rows(path: Path) -> dict[str, object]:
    return {name: value for name, value in contents(path).items() if name.startswith("rows")}


def test_foreign_keys_that_go_round_in_a_circle(cluster: Cluster, tmp_path: Path) -> None:
    file = make(tmp_path / "circles.db", *CIRCLES)
    into = ("restore", "-s", cluster.nodes[0].address, "--database", DATABASE)
    result = run(*into, str(file))
    assert result.exit_code == 0, result.output
    dump(cluster.nodes[1].address, tmp_path / "dumped.db")
    assert rows(tmp_path / "dumped.db") == rows(file)
    with closing(sqlite3.connect(tmp_path / "dumped.db")) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        assert not [name for name in names if name.startswith("restore")]
    again = run(*into, str(file), "--replace")  # what is there goes round in a circle, too
    assert again.exit_code == 0, again.output
    cluster.check_equal()
    dump(cluster.nodes[2].address, tmp_path / "dumped.db")
    assert rows(tmp_path / "dumped.db") == rows(file)
    founded = run("restore", "--dir", str(tmp_path / "new"), "--database", DATABASE, str(file))
    assert founded.exit_code == 0, founded.output
    assert (
        run(
            "dump", "--dir", str(tmp_path / "new"), "--database", DATABASE, str(tmp_path / "new.db")
        ).exit_code
        == 0
    )
    assert rows(tmp_path / "new.db") == rows(file)


def test_what_is_replaced_may_hold_virtual_tables(cluster: Cluster, tmp_path: Path) -> None:
    """Found by reading: the tables behind them were to be dropped one by one."""
    node = cluster.nodes[0]
    unit = encode_unit(
        [
            ("CREATE VIRTUAL TABLE pages USING fts5(text)", ()),
            ("CREATE VIRTUAL TABLE r USING rtree(i, a, b)", ()),
        ]
    )
    cluster.client.call(node.address, "sql.open", {"database": DATABASE})
    cluster.client.call(node.address, "sql.write", {"database": DATABASE, "unit": unit})
    file = make(tmp_path / "some.db", "CREATE TABLE a(x)", "INSERT INTO a VALUES (1)")
    result = run("restore", "-s", node.address, "--database", DATABASE, str(file), "--replace")
    assert result.exit_code == 0, result.output
    assert dump(node.address, tmp_path / "dumped.db") == contents(file)


def test_what_is_refused(cluster: Cluster, full: Path, tmp_path: Path) -> None:
    fts = make(tmp_path / "fts.db", "CREATE VIRTUAL TABLE pages USING fts5(text)")
    (tmp_path / "empty.db").touch()
    nothing = make(tmp_path / "nothing.db", "CREATE TABLE a(x)", "DROP TABLE a")
    hot = tmp_path / "hot.db"
    interrupted(hot)
    bad_text = make(tmp_path / "text.db", "CREATE TABLE a(x)", "INSERT INTO a VALUES (CAST(x'ff' AS TEXT))")
    orphan = make(
        tmp_path / "orphan.db",
        "CREATE TABLE p(x INTEGER PRIMARY KEY)",
        "CREATE TABLE c(y REFERENCES p(x))",
        "INSERT INTO c VALUES (1)",
    )
    (tmp_path / "no.db").write_bytes(b"this is no database at all" * 100)
    for file, words in (
        (fts, "virtual tables"),
        (tmp_path / "empty.db", "is empty"),
        (nothing, "holds nothing"),
        (hot, "in the middle of a transaction"),
        (bad_text, "not UTF-8"),
        (orphan, "c to p"),
        (tmp_path / "no.db", "not an SQLite database"),
        (tmp_path / "missing.db", "no file"),
        (full, "user_version 42"),
    ):
        result = run("restore", "-s", cluster.nodes[0].address, "--database", DATABASE, str(file))
        assert result.exit_code == 1, file
        assert words in " ".join(result.output.split()), result.output
    taken = run(
        "restore", "-s", cluster.nodes[0].address, "--database", DATABASE, str(full), "--ignore-versions"
    )
    assert taken.exit_code == 0, taken.output


def test_a_part_that_was_restored_is_not_called_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half:
        """Takes the first unit, not the second."""

        taken = 0

        def open_database(self, *_arguments: object) -> None:
            pass

        def query(self, *_arguments: object) -> Any:
            return SimpleNamespace(rows=[])

        def execute_unit(self, *_arguments: object) -> Any:
            self.taken += 1
            if self.taken > 1:
                raise NoLeader("no leader")
            return SimpleNamespace(log_index=7)

    monkeypatch.setattr(load, "ATOMIC_BYTES_MAX", 0)
    file = make(tmp_path / "some.db", "CREATE TABLE a(x)", "INSERT INTO a VALUES (1)")
    with SourceFile(str(file)) as source, pytest.raises(Error, match="holds a part") as caught:
        load_database(Half(), DATABASE, source)  # type: ignore[arg-type]
    assert caught.value.outcome is not Outcome.NOT_APPLIED


def test_nothing_is_dropped_for_a_file_that_cannot_be_taken_over(
    cluster: Cluster, full: Path, tmp_path: Path
) -> None:
    """Found by reading: only the file's structure was looked at before --drop-first dropped the database."""
    kept = make(tmp_path / "kept.db", "CREATE TABLE kept(x)", "INSERT INTO kept VALUES (1)")
    address = cluster.nodes[0].address
    assert run("restore", "-s", address, "--database", DATABASE, str(kept)).exit_code == 0
    bad_text = make(tmp_path / "text.db", "CREATE TABLE a(x)", "INSERT INTO a VALUES (CAST(x'ff' AS TEXT))")
    too_large = make(tmp_path / "large.db", "CREATE TABLE a(x)", "INSERT INTO a VALUES (zeroblob(112 << 20))")
    for file, words in ((full, "user_version 42"), (bad_text, "not UTF-8"), (too_large, "over the limit")):
        result = run("restore", "-s", address, "--database", DATABASE, str(file), "--drop-first")
        assert result.exit_code == 1, result.output
        assert words in " ".join(result.output.split()), result.output
        assert dump(address, tmp_path / "dumped.db") == contents(kept)


def test_wrong_usage(tmp_path: Path) -> None:
    for arguments in (
        ["--database", "app", "x.db"],
        ["-s", "127.0.0.1:1", "--dir", str(tmp_path), "--database", "app", "x.db"],
        ["-s", "127.0.0.1:1", "--replace", "--drop-first", "--database", "app", "x.db"],
        ["--dir", str(tmp_path), "--replace", "--database", "app", "x.db"],
        ["--dir", str(tmp_path), "--database", "a/b", "x.db"],
    ):
        assert run("restore", *arguments).exit_code == 2
