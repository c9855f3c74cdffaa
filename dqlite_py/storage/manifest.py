"""MANIFEST: what a generation of databases is a snapshot of.

A sealed file (storage.sealedfile) with the body
  [cluster id (16 bytes), index, term, configuration index, [[id, address, role], ...],
   [[database, applied index, state hash (8 bytes, big-endian), page count], ...]]
and, in format version 2, [..., newest time] behind that: version 1 is written while no time is known. Version 3 is
version 2 with a configuration that has weights, domains or settings: [2, rows, settings] (model.Configuration), which
earlier releases refuse by the version.

Pure values: it reads no file and knows nothing of generations or SQLite. The same bytes travel in
snapshot.begin. Used by storage.state_folder and node.snapshot_*; any thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from dqlite_py.command import check_database_name
from dqlite_py.errors import InterfaceError, MalformedMessage
from dqlite_py.limits import DATABASES_MAX, MANIFEST_BYTES_MAX, MEMBERS_MAX
from dqlite_py.model import Configuration, LogIndex, Snapshot, Term
from dqlite_py.storage.sealedfile import seal, unseal

MANIFEST_MAGIC: Final = b"dqlpyMAN"
MANIFEST_VERSION: Final = 1
TIMED_VERSION: Final = 2
SETTINGS_VERSION: Final = 3  # the configuration has weights, domains or settings; with a time
_VERSION_AT: Final = slice(len(MANIFEST_MAGIC), len(MANIFEST_MAGIC) + 4)
CLUSTER_ID_BYTES: Final = 16
PAGES_MAX: Final = 2**32 - 2


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """One database of a snapshot. Its file may be ahead of `applied_index`, never behind."""

    name: str
    applied_index: LogIndex
    state_hash: int
    page_count: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A snapshot of the state machine at log index `index` (0: nothing yet); databases by name.

    `now_us`: no entry up to `index` carries a later time, so that log time goes on from there (node.log_clock); 0: not
    known.
    """

    cluster_id: bytes
    index: LogIndex
    term: Term
    configuration: Configuration
    databases: tuple[DatabaseState, ...]
    now_us: int = 0

    def __post_init__(self) -> None:
        names = [database.name for database in self.databases]
        checks = (
            (len(self.cluster_id) == CLUSTER_ID_BYTES, "the cluster id is 16 bytes"),
            (0 <= self.index < 2**63 and 0 <= self.term < 2**63, "index and term are within 63 bits"),
            ((self.index == 0) == (self.term == 0), "index and term are both zero or neither is"),
            (0 <= self.configuration.index <= self.index, "the configuration is not newer than the snapshot"),
            (0 <= self.now_us < 2**63, "the newest time is within 63 bits"),
            (len(self.configuration.members) <= MEMBERS_MAX, f"at most {MEMBERS_MAX} members"),
            (len(names) <= DATABASES_MAX, f"at most {DATABASES_MAX} databases"),
            (names == sorted(set(names)), "databases are ordered by name, each once"),
        )
        for ok, rule in checks:
            if not ok:
                raise InterfaceError(f"not a manifest: {rule}")
        for database in self.databases:
            _check_database(database)

    @classmethod
    def empty(cls, cluster_id: bytes) -> Manifest:
        """The state before the first log entry."""
        return cls(cluster_id, LogIndex(0), Term(0), Configuration(), ())

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self.index, self.term, self.configuration)

    def get(self, name: str) -> DatabaseState | None:
        return next((database for database in self.databases if database.name == name), None)

    def without(self, name: str) -> Manifest:
        return replace(self, databases=tuple(d for d in self.databases if d.name != name))

    def to_bytes(self) -> bytes:
        """Give the sealed MANIFEST."""
        rows = [
            [d.name, d.applied_index, d.state_hash.to_bytes(8, "big"), d.page_count] for d in self.databases
        ]
        body = [
            self.cluster_id,
            self.index,
            self.term,
            self.configuration.index,
            self.configuration.to_wire(),
            rows,
        ]
        version = MANIFEST_VERSION
        if self.configuration.format > 1:
            version = SETTINGS_VERSION
        elif self.now_us:
            version = TIMED_VERSION
        if version > MANIFEST_VERSION:
            body.append(self.now_us)
        return seal(MANIFEST_MAGIC, version, body)

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> Manifest:
        """Decode with every check; raises MalformedMessage or UnknownFormat."""
        if len(data) > MANIFEST_BYTES_MAX:
            raise MalformedMessage(f"{source} is over {MANIFEST_BYTES_MAX} bytes", what=source)
        known = int.from_bytes(data[_VERSION_AT], "little")
        version = known if known in (MANIFEST_VERSION, TIMED_VERSION) else SETTINGS_VERSION
        body = unseal(MANIFEST_MAGIC, version, data, source)
        if version == MANIFEST_VERSION and isinstance(body, list):
            body.append(0)
        if not (isinstance(body, list) and len(body) == 7 and isinstance(body[5], list)):
            raise MalformedMessage(f"{source} has the wrong fields", what=source)
        cluster_id, index, term, configuration_index, members, rows, now_us = body
        if type(cluster_id) is not bytes or not _integers((index, term, configuration_index, now_us)):
            raise MalformedMessage(f"{source} has a field of the wrong type", what=source)
        configuration = Configuration.from_wire(members, configuration_index)
        if configuration.format > 1 and version < SETTINGS_VERSION:
            raise MalformedMessage(f"{source} of version {version} has a later configuration", what=source)
        try:
            return cls(
                cluster_id,
                LogIndex(index),
                Term(term),
                configuration,
                tuple(_database_from_wire(row, source) for row in rows),
                now_us,
            )
        except InterfaceError as error:
            raise MalformedMessage(f"{source}: {error}", what=source) from None


def ordered(databases: Iterable[DatabaseState]) -> tuple[DatabaseState, ...]:
    """Sort for Manifest."""
    return tuple(sorted(databases, key=lambda database: database.name))


def _check_database(database: DatabaseState) -> None:
    check_database_name(database.name)
    if not (
        0 <= database.applied_index < 2**63
        and 0 <= database.state_hash < 2**64
        and 0 < database.page_count <= PAGES_MAX
    ):
        raise InterfaceError(f"not a manifest: a value of database {database.name} is out of range")


def _integers(values: tuple[Any, ...]) -> bool:
    return all(type(value) is int for value in values)


def _database_from_wire(row: Any, source: str) -> DatabaseState:
    if not (
        isinstance(row, list)
        and len(row) == 4
        and type(row[0]) is str
        and _integers((row[1], row[3]))
        and type(row[2]) is bytes
        and len(row[2]) == 8
    ):
        raise MalformedMessage(f"{source} has a malformed database entry", what=source)
    return DatabaseState(row[0], LogIndex(row[1]), int.from_bytes(row[2], "big"), row[3])
