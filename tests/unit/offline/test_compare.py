"""Reports of other folders, held against the one to be recovered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.errors import InterfaceError
from dqlite_py.offline.compare import newer_folders, read_reports

REPORT: dict[str, Any] = {
    "folder": "/n2", "node_id": 2, "cluster_id": "ab", "last_term": 3, "last_index": 40, "snapshot_term": 2,
    "snapshot_index": 30,
}  # fmt: skip


def read(path: Path, report: Any) -> list[dict[str, Any]]:
    path.write_text(json.dumps(report))
    return read_reports([str(path)])


@pytest.mark.parametrize(
    "wrong",
    [{"last_term": "3"}, {"last_index": [40]}, {"snapshot_term": 2.5}, {"snapshot_index": -1}, {"last_index": True},
     {"cluster_id": 7}],
)  # fmt: skip
def test_wrong_types_are_no_report(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Found by reading: a TypeError."""
    with pytest.raises(InterfaceError, match="not the output of verify"):
        read(tmp_path / "report", REPORT | wrong)


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", "7", "[" * 100_000])
def test_what_is_no_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "report").write_text(text)
    with pytest.raises(InterfaceError, match="not the output of verify"):
        read_reports([str(tmp_path / "report")])


def test_a_damaged_identity_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(InterfaceError, match="identity is damaged"):
        read(tmp_path / "report", REPORT | {"cluster_id": None})


def test_the_end_is_that_of_the_log_or_of_a_snapshot_behind_it() -> None:
    assert newer_folders([REPORT], "ab", (3, 40)) == ()
    assert "index 40 of term 3" in newer_folders([REPORT], "ab", (3, 39))[0]
    # Half installed: the snapshot replaces the log, whose end was overwritten by others.
    half = REPORT | {"snapshot_term": 4, "snapshot_index": 38}
    assert newer_folders([half], "ab", (4, 38)) == ()
    assert "index 38 of term 4" in newer_folders([half], "ab", (3, 45))[0]
    assert newer_folders([REPORT | {"last_term": None, "last_index": None}], "ab", (2, 30)) == ()
    with pytest.raises(InterfaceError, match="of cluster ab, not of cd"):
        newer_folders([REPORT], "cd", (3, 40))
