"""`dqlite-py verify` on the folder of a node that was killed, whole and damaged: all damage named, no byte changed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dqlite_py import Node
from dqlite_py.cli.main import main
from dqlite_py.model import Address, Configuration, LogIndex, Member, NodeId, Role
from dqlite_py.storage.manifest import Manifest
from dqlite_py.storage.state_files import MANIFEST_NAME
from tests.integration.cluster import DATABASE, Cluster
from tests.support.folders import fingerprint, flip


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node that compacted, wrote on, and was killed: a database in the snapshot and a younger one."""
    place = tmp_path_factory.mktemp("killed")
    with Node(place / "node1", listen="127.0.0.1:0") as node:
        node.wait_ready()
        with node.connect(DATABASE) as connection:
            connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)")
            connection.executemany("INSERT INTO t(b) VALUES (?)", [("x" * 300,) for _ in range(2000)])
            connection.execute("CREATE INDEX i ON t(b, a)")
            connection.commit()
            node.compact()
    with Cluster(place, 1) as cluster:
        address = cluster.nodes[0].address
        for number in range(50):
            cluster.client.write(address, "INSERT INTO t(b) VALUES (?)", str(number))
        cluster.client.call(address, "sql.open", {"database": "young"})
        cluster.nodes[0].kill()
    return place / "node1"


@pytest.fixture
def folder(killed: Path, tmp_path: Path) -> Path:
    shutil.copytree(killed, tmp_path / "node")
    return tmp_path / "node"


def verify(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and report; nothing in or beside the folder changed."""
    before = fingerprint(folder.parent)
    result = CliRunner().invoke(main, ["verify", str(folder), "--json", *options])
    after = fingerprint(folder.parent)
    assert after == before
    return result.exit_code, json.loads(result.stdout) if result.stdout else {"error": result.output}


def damages(report: dict[str, Any]) -> dict[str, str]:
    return {f["part"]: f["message"] for f in report["findings"] if f["severity"] == "damage"}


def generation(folder: Path) -> Path:
    (found,) = (folder / "state").glob("g*")
    return found


def test_a_killed_node_is_sound(folder: Path) -> None:
    code, report = verify(folder)
    assert (code, report["sound"], damages(report)) == (0, True, {})
    assert [d["name"] for d in report["databases"]] == [DATABASE, "young"]
    assert report["last_index"] >= report["databases"][0]["applied_index"] > report["snapshot_index"] > 0
    assert [m["role"] for m in report["members"]] == ["voter"]


def test_a_read_only_folder_of_another_owner_can_be_verified(folder: Path, tmp_path: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        code, report = verify(folder, "--scratch", str(tmp_path))
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
    assert (code, report["sound"]) == (0, True)


def test_members_are_those_of_a_snapshot_that_is_newer_than_the_log(folder: Path) -> None:
    """Found by reading: as a crash leaves it that came between the snapshot's installation and the log's reset."""
    file = generation(folder) / MANIFEST_NAME
    _, before = verify(folder)
    manifest = Manifest.from_bytes(file.read_bytes(), str(file))
    index = before["last_index"] + 10
    moved = Configuration(
        (Member(NodeId(before["node_id"]), Address("moved:9000"), Role.STANDBY),), LogIndex(index - 1)
    )
    file.write_bytes(replace(manifest, index=LogIndex(index), configuration=moved).to_bytes())
    _, report = verify(folder)
    assert report["members"] == [{"id": before["node_id"], "address": "moved:9000", "role": "standby"}]


def test_the_state_hash_is_compared_with_the_snapshot(tmp_path: Path) -> None:
    place = tmp_path / "node"
    with Node(place, listen="127.0.0.1:0") as node:
        node.wait_ready()
        with node.connect(DATABASE) as connection:
            connection.execute("CREATE TABLE t(a)")
            connection.execute("INSERT INTO t VALUES ('right')")
            connection.commit()
        node.compact()
    code, report = verify(place)
    assert code == 0
    assert report["databases"][0]["matches"] is True
    with sqlite3.connect(generation(place) / f"{DATABASE}.db") as plain:  # what no integrity check can see
        plain.execute("UPDATE t SET a = 'wrong'")
    plain.close()
    code, report = verify(place)
    assert code == 1
    assert report["databases"][0]["matches"] is False
    assert "changed outside the log" in damages(report)[f"database {DATABASE}"]


def damage_identity(folder: Path) -> None:
    flip(folder / "identity", 20)


def lose_identity(folder: Path) -> None:
    (folder / "identity").unlink()


def damage_hard_state(folder: Path) -> None:
    flip(folder / "hardstate", 40, 4096 + 40)


def lose_hard_state(folder: Path) -> None:
    (folder / "hardstate").unlink()


def damage_journal(folder: Path) -> None:
    flip(next(iter(sorted((folder / "journal").glob("*.seg")))), 4096 + 200)


def lose_journal(folder: Path) -> None:
    shutil.rmtree(folder / "journal")


def lose_current(folder: Path) -> None:
    (folder / "state" / "CURRENT").unlink()


def damage_current(folder: Path) -> None:
    flip(folder / "state" / "CURRENT", -1)


def damage_manifest(folder: Path) -> None:
    flip(generation(folder) / "MANIFEST", 30)


def lose_database(folder: Path) -> None:
    (generation(folder) / f"{DATABASE}.db").unlink()


def damage_database(folder: Path) -> None:
    flip(generation(folder) / f"{DATABASE}.db", *range(8 * 4096, 8 * 4096 + 64))


def cut_database(folder: Path) -> None:
    path = generation(folder) / f"{DATABASE}.db"
    os.truncate(path, path.stat().st_size // 2)


def replace_database(folder: Path) -> None:
    for path in generation(folder).glob(f"{DATABASE}.db*"):
        path.unlink()
    plain = sqlite3.connect(generation(folder) / f"{DATABASE}.db")
    plain.execute("CREATE TABLE t(a)")
    plain.close()


@pytest.mark.parametrize(
    ("harm", "part"),
    [
        (damage_identity, "identity"),
        (lose_identity, "identity"),
        (damage_hard_state, "hardstate"),
        (lose_hard_state, "hardstate"),
        (damage_journal, "journal"),
        (lose_journal, "journal"),
        (lose_current, "state"),
        (damage_current, "state"),
        (damage_manifest, "snapshot"),
        (lose_database, f"database {DATABASE}"),
        (damage_database, f"database {DATABASE}"),
        (cut_database, f"database {DATABASE}"),
        (replace_database, f"database {DATABASE}"),
    ],
)
def test_each_damage_is_named(folder: Path, harm: Any, part: str) -> None:
    harm(folder)
    code, report = verify(folder)
    assert (code, report["sound"]) == (1, False)
    assert part in damages(report), report["findings"]


def test_all_damage_is_named_at_once(folder: Path) -> None:
    for harm in (damage_journal, damage_database):
        harm(folder)
    code, report = verify(folder)
    assert code == 1
    assert {"journal", f"database {DATABASE}"} <= set(damages(report))


def test_a_node_that_runs_is_left_alone(tmp_path: Path) -> None:
    with Node(tmp_path / "node", listen="127.0.0.1:0") as node:
        node.wait_ready()
        result = CliRunner().invoke(main, ["verify", str(tmp_path / "node")])
    assert result.exit_code == 3
    assert "in use" in result.output


def test_what_is_no_data_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        result = CliRunner().invoke(main, ["verify", str(path)])
        assert result.exit_code == 3
        assert "cannot look" in result.output


def test_for_people(folder: Path) -> None:
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert result.exit_code == 0
    assert result.output.rstrip().endswith("sound")
    damage_journal(folder)
    damage_database(folder)
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert result.exit_code == 1
    assert "DAMAGE: journal" in result.output
    assert f"DAMAGE: database {DATABASE}" in result.output


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped node that keeps changes."""
    place = tmp_path_factory.mktemp("followed") / "node"
    with Node(place, listen="127.0.0.1:0", keep_changes=2**24) as node:
        node.wait_ready()
        with node.connect(DATABASE) as connection, node.changes(DATABASE) as stream:
            connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)")
            for number in range(20):
                connection.execute("INSERT INTO t(b) VALUES (?)", (str(number),))
                connection.commit()
            assert next(iter(stream)) is not None
    return place


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda file: None, None),
        (lambda file: flip(file, -3), "the next start cuts it off"),
        (lambda file: flip(file, 3), "its header is damaged"),
        (lambda file: file.write_bytes(file.read_bytes()[:-5]), "the next start cuts it off"),
        (lambda file: file.unlink(), None),
        (lambda file: file.rename(file.with_name(f"{7:020}.chg")), "its header is damaged"),
        (lambda file: shutil.copytree(file.parent, file.parent.with_name("gone")), "of no database"),
    ],
)
def test_changes_are_looked_at(followed: Path, tmp_path: Path, harm: Any, words: str | None) -> None:
    folder = tmp_path / "node"
    shutil.copytree(followed, folder)
    (file,) = (folder / "changes" / DATABASE).glob("*.chg")
    harm(file)
    code, report = verify(folder)
    assert (code, damages(report)) == (0, {})
    notes = [f["message"] for f in report["findings"] if f["part"].startswith("changes ")]
    assert bool(notes) == (words is not None)
    assert words is None or words in notes[0]
