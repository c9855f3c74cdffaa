"""`FaultKit`: the faults of all nodes of one cluster, in the two shapes that a cluster asks for.

`make_cluster(kind, folder, nodes, **kit.options())`: `environment(name)` is a `ProcessEnvironment` and `of(node)` a
`FaultsFactory` of jepsen/cluster/api.py.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol, Self

from jepsen.faults.control import ProcessFaults
from jepsen.faults.library import missing_tool

_log = logging.getLogger("jepsen.faults")


class HasFolder(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...


class FaultKit:
    """Where the library cannot be had, nodes run without faults: `of` returns None, `missing` says why.

    `folder`: for the control files; made when missing. Closing it deletes them and the notes of unsynced content.
    """

    def __init__(self, folder: Path, *, is_lossy: bool = True) -> None:
        self.folder = folder
        self.missing = missing_tool()
        self._is_lossy = is_lossy
        self._of: dict[str, ProcessFaults] = {}
        if self.missing is not None:
            _log.warning("%s", self.missing)

    def of(self, node: HasFolder) -> ProcessFaults | None:
        """The node's faults; the same object at every call."""
        if self.missing is not None:
            return None
        if node.name not in self._of:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{node.name}.faults"
            self._of[node.name] = ProcessFaults(path, node.folder, is_lossy=self._is_lossy)
        return self._of[node.name]

    def environment(self, name: str) -> dict[str, str]:
        """Variables for that node's process; none before `of` was asked for it. Raises MissingTool."""
        faults = self._of.get(name)
        return {} if faults is None else faults.environment()

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `make_cluster`."""
        return {"process_environment": self.environment, "faults_factory": self.of}

    def close(self) -> None:
        for faults in self._of.values():
            faults.close()
        self._of.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
