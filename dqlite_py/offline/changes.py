"""The files of changes in a data folder, as far as `verify` looks at them: derived data, so notes only."""

from __future__ import annotations

import os

from dqlite_py.offline.report import FolderReport
from dqlite_py.ports import Disk
from dqlite_py.storage.changelog.inspection import inspect_changes


def look_at_changes(disk: Disk, path: str, names: list[str], report: FolderReport) -> None:
    """`names`: the databases that are there. Raises OSError."""
    place = os.path.join(path, "changes")
    if not disk.exists(place):
        return
    applied = {database.name: database.applied_index for database in report.databases}
    for name in sorted(disk.listdir(place)):
        part, folder = f"changes {name}", os.path.join(place, name)
        if name not in names:
            report.note(part, "they are of no database that is here", folder)
            continue
        found = inspect_changes(disk, folder)
        for problem in found.problems:
            what = (
                "the next start cuts it off"
                if problem.ends_log
                else "who follows the changes there begins anew"
            )
            report.note(part, f"{problem.message}: {what}", problem.path)
        index = applied.get(name)
        if found.newest is not None and index is not None and found.newest < index:
            report.note(
                part,
                f"they end at log index {found.newest}, the database stands at {index}: who follows them begins anew",
                folder,
            )
