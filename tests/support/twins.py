"""The C engine and its Python twin side by side, fed with the same entries and compared after each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgpack

from dqlite_py.storage import implementation as implementations
from dqlite_py.storage.connection import open_writer
from dqlite_py.storage.engine_api import ApplyEngine, ApplyFailed, Implementation
from dqlite_py.storage.meta import prepare_meta
from tests.support.engines import Unit, entry

NAMES = ("c", "python")


def both() -> dict[str, Implementation]:
    """Both, bound to SQLite; of SQLite's one hook for 'localtime' the Python engine's serves both, and comes last."""
    found = {name: implementations.implementation(name) for name in NAMES}
    for each in found.values():
        each.bootstrap()
    return found


@contextmanager
def chosen(name: str) -> Iterator[Implementation]:
    """What is opened meanwhile belongs to that implementation, whatever DQLITE_PY_IMPL says."""
    before = implementations.chosen()
    found = both()[name]
    implementations._chosen = found
    try:
        yield found
    finally:
        implementations._chosen = before


class Writer:
    """One engine on a database of its own."""

    def __init__(self, name: str, path: Path, **options: int) -> None:
        self.path = path
        self._name = name
        self._options = options
        self.open()

    def open(self) -> None:
        with chosen(self._name) as implementation:
            self.connection = open_writer(str(self.path), create=True)
            prepare_meta(self.connection, str(self.path), create=True)
            self.checkpoint()
            self.engine: ApplyEngine = implementation.engine(self.connection, **self._options)
            self.first = self.engine.scan()

    def apply(self, index: int, payload: bytes, want_results: bool = True) -> tuple[Any, ...]:
        """All that the outside sees of an apply."""
        try:
            state = self.engine.apply(index, payload, want_results)
        except ApplyFailed as failed:
            return ("failed", failed.verdict, failed.code, failed.message)
        return ("applied", *state, self.engine.passes)

    def checkpoint(self) -> tuple[int, int]:
        return self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def close(self) -> None:
        self.engine.close()
        self.connection.close()


class Twins:
    """Both engines; every difference is an assertion."""

    def __init__(self, folder: Path, **options: int) -> None:
        self.index = 0
        self.writers = [Writer(name, folder / f"{name}.db", **options) for name in NAMES]
        assert len({writer.first for writer in self.writers}) == 1

    def __enter__(self) -> Twins:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.writers:
            writer.close()
        in_c, in_python = (writer.path.read_bytes() for writer in self.writers)
        assert in_c == in_python

    def apply_bytes(self, payload: bytes, want_results: bool = True) -> tuple[Any, ...]:
        """Apply a payload on both; returns what both answered."""
        self.index += 1
        in_c, in_python = (writer.apply(self.index, payload, want_results) for writer in self.writers)
        assert in_python == in_c, payload[:2000]
        return in_c

    def apply(self, *units: Unit, **header: Any) -> list[Any]:
        """Apply one entry on both; returns one result per unit."""
        return self.apply_payload(entry(*units, **header))

    def apply_payload(self, payload: bytes) -> list[Any]:
        answer = self.apply_bytes(payload)
        assert answer[0] == "applied", answer
        return list(msgpack.unpackb(answer[1]))

    def reopen(self) -> None:
        for writer in self.writers:
            writer.close()
            writer.open()
        assert len({writer.first for writer in self.writers}) == 1

    def checkpoint(self) -> None:
        assert len({writer.checkpoint() for writer in self.writers}) == 1
