"""Migrations on a cluster: several members at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dqlite_py.migrations import migrate
from tests.integration.embedded import check_same_state, embedded_cluster


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    for number in range(1, 9):
        statements = f"CREATE TABLE t{number} (a);\nINSERT INTO t{number} VALUES ({number});"
        (folder / f"{number:04}_t{number}.sql").write_text(statements)
    return folder


def test_members_that_start_at_once(tmp_path: Path, folder: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        applied: list[str] = []
        errors: list[BaseException] = []

        def start(position: int) -> None:
            try:
                with nodes[position % 3].connect("app") as connection:
                    applied.extend(migration.name for migration in migrate(connection, folder))
                connection.close()
            except BaseException as error:  # noqa: BLE001 - told below
                errors.append(error)

        threads = [threading.Thread(target=start, args=(position,)) for position in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert sorted(applied) == sorted(path.name for path in folder.iterdir())
        check_same_state(nodes)
        with nodes[0].connect("app") as connection:
            assert connection.execute("SELECT a FROM t8").fetchall() == [(8,)]
        connection.close()
