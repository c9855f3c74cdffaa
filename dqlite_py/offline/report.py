"""What `verify` found, as records and as plain values for JSON. No I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Severity(enum.StrEnum):
    """DAMAGE: the node would not start, or would serve what is wrong. NOTE: worth knowing."""

    DAMAGE = "damage"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """`part`: identity, hardstate, journal, state, snapshot, database NAME or changes NAME."""

    severity: Severity
    part: str
    message: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """state_hash: 16 hex digits; matches: True when MANIFEST or the log says what it should be at this index and it
    is that, None when neither tells."""

    name: str
    applied_index: int | None
    size_bytes: int
    page_count: int | None
    state_hash: str | None
    matches: bool | None


@dataclass(slots=True)
class FolderReport:
    """All that was found out. Fields are None where damage hid them."""

    folder: str
    cluster_id: str | None = None
    node_id: int | None = None
    term: int | None = None
    voted_for: int | None = None
    first_index: int | None = None
    last_index: int | None = None
    last_term: int | None = None
    snapshot_index: int | None = None
    snapshot_term: int | None = None
    generation: int | None = None
    members: list[dict[str, Any]] = field(default_factory=list)
    databases: list[DatabaseFacts] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not any(finding.severity is Severity.DAMAGE for finding in self.findings)

    def damage(self, part: str, message: str, file: str = "") -> None:
        self.findings.append(Finding(Severity.DAMAGE, part, message, file))

    def note(self, part: str, message: str, file: str = "") -> None:
        self.findings.append(Finding(Severity.NOTE, part, message, file))

    def to_wire(self) -> dict[str, Any]:
        """For JSON; keys are the field names, and `sound`."""
        plain: dict[str, Any] = {"sound": self.is_sound}
        for name in self.__slots__:
            plain[name] = getattr(self, name)
        plain["databases"] = [
            {name: getattr(database, name) for name in DatabaseFacts.__slots__} for database in self.databases
        ]
        plain["findings"] = [
            {name: str(getattr(finding, name)) for name in Finding.__slots__} for finding in self.findings
        ]
        return plain
