"""Other nodes' folders, as `verify --json` told of them, held against the one that is to be recovered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dqlite_py.errors import InterfaceError

_NUMBERS = ("last_term", "last_index", "snapshot_term", "snapshot_index")


def read_reports(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Files with the output of `verify --json`; raises InterfaceError, OSError."""
    found = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                report = json.load(file)
        except (ValueError, RecursionError) as error:
            raise InterfaceError(f"{path} is not the output of verify --json: {error}") from None
        if isinstance(report, dict) and "cluster_id" in report and report["cluster_id"] is None:
            raise InterfaceError(
                f"{path} is of a folder whose identity is damaged: nobody can compare with it"
            )
        if not _is_report(report):
            raise InterfaceError(f"{path} is not the output of verify --json")
        found.append(report)
    return found


def _is_report(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and type(value.get("cluster_id")) is str
        and all(
            value.get(name) is None or (type(value[name]) is int and value[name] >= 0) for name in _NUMBERS
        )
    )


def newer_folders(
    reports: Sequence[dict[str, Any]], cluster_id: str | None, last: tuple[int, int]
) -> tuple[str, ...]:
    """Those that reach further than `last`, (term, index), in words; raises InterfaceError for another cluster's."""
    found = []
    for report in reports:
        if report.get("cluster_id") != cluster_id:
            raise InterfaceError(
                f"the report of {report.get('folder')} is of cluster {report.get('cluster_id')}, not of {cluster_id}"
            )
        reach = max(_reach(report, "last"), _reach(report, "snapshot"))
        if reach > last:
            found.append(
                f"{report.get('folder')} (node {report.get('node_id')}): index {reach[1]} of term {reach[0]}"
            )
    return tuple(found)


def _reach(report: dict[str, Any], what: str) -> tuple[int, int]:
    return report.get(f"{what}_term") or 0, report.get(f"{what}_index") or 0
