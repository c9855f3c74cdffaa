"""What several nodes say of themselves, in rows for people. Pure: no I/O, tolerant of missing fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dqlite_py.errors import Error

Status = dict[str, Any]
Answers = Mapping[str, Status | Error]


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def member_addresses(status: Status) -> list[str]:
    """Addresses of the configuration that a node reports."""
    return [text for member in members_of(status) if (text := clean_text(member, "address"))]


def summary(status: Status) -> list[str]:
    """Lines about the cluster as the asked node sees it."""
    address = clean_text(status, "leader_address")
    leader = f"{address} ({number_of(status, 'leader_id')})" if address else "none known"
    cluster_id = clean_text(status, "cluster_id") or "?"
    lines = [f"cluster {cluster_id}  term {number_of(status, 'term')}  leader {leader}"]
    problem = clean_text(status, "problem")
    if problem:
        lines.append(f"problem at {clean_text(status, 'address')}: {problem}")
    return lines


def member_table(status: Status, answers: Answers) -> Table:
    """A row per member: its entry in the configuration, and its own word on the rest."""
    commit = max(
        (number_of(found, "commit_index") for found in answers.values() if isinstance(found, dict)), default=0
    )
    header = (
        *("id", "address", "role", "state", "term", "last", "commit", "applied", "lag", "sqlite"),
        "health",
    )
    rows = []
    for member in members_of(status):
        address = clean_text(member, "address")
        rows.append(
            (
                str(number_of(member, "id")),
                address,
                clean_text(member, "role") or "?",
                *_own_columns(answers.get(address), commit),
            )
        )
    return Table("members", header, rows)


def _own_columns(found: Status | Error | None, commit: int) -> tuple[str, ...]:
    if not isinstance(found, dict):
        reason = found.message if isinstance(found, Error) else "not asked"
        return ("unreachable", "-", "-", "-", "-", "-", "-", _short(reason))
    applied = number_of(found, "applied_index")
    problem = clean_text(found, "problem")
    return (
        clean_text(found, "state") or "?",
        *(str(number_of(found, name)) for name in ("term", "last_index", "commit_index")),
        str(applied),
        str(max(0, commit - applied)),
        clean_text(found, "sqlite_version") or "?",
        _short(problem) if problem else "ok",
    )


def database_table(answers: Answers) -> Table:
    """A row per database and node; where equal indexes are applied, the hashes must be equal."""
    rows: list[tuple[str, ...]] = []
    hashes: dict[tuple[str, int], set[str]] = {}
    found = [(address, answer) for address, answer in answers.items() if isinstance(answer, dict)]
    for _address, answer in found:
        for name, database in _databases(answer):
            hashes.setdefault((name, number_of(database, "applied_index")), set()).add(
                clean_text(database, "state_hash")
            )
    for name in sorted({name for _address, answer in found for name, _database in _databases(answer)}):
        for address, answer in found:
            mine = dict(_databases(answer)).get(name)
            if mine is None:
                rows.append((name, address, "-", "-", "not there yet"))
                continue
            index, pending = number_of(mine, "applied_index"), number_of(mine, "pending")
            verdict = "DIFFERS" if len(hashes[name, index]) > 1 else f"{pending} pending" if pending else "ok"
            rows.append((name, address, str(index), clean_text(mine, "state_hash") or "-", verdict))
    return Table("databases", ("name", "node", "applied", "state hash", "state"), rows)


def configuration_table(status: Status) -> Table:
    """A row per member, as the asked node (best the leader) sees it."""
    rows = [
        (
            str(number_of(member, "id")),
            clean_text(member, "address"),
            clean_text(member, "role") or "?",
            "leader" if number_of(member, "id") == number_of(status, "leader_id") else "",
            "yes" if member.get("connected") is True else "no",
            str(number_of(member, "match_index")),
        )
        for member in members_of(status)
    ]
    return Table("members", ("id", "address", "role", "leads", "connected", "match"), rows)


def plain_lines(table: Table) -> list[str]:
    """Aligned columns without a frame, for pipes and files."""
    rows: Sequence[tuple[str, ...]] = [table.header, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def members_of(status: Status) -> list[Status]:
    members = status.get("members")
    return [m for m in members if isinstance(m, dict)] if isinstance(members, list) else []


def _databases(status: Status) -> list[tuple[str, Status]]:
    databases = status.get("databases")
    if not isinstance(databases, dict):
        return []
    return [(str(name), value) for name, value in sorted(databases.items()) if isinstance(value, dict)]


def number_of(source: Status, name: str) -> int:
    value = source.get(name)
    return value if type(value) is int else 0


def clean_text(source: Status, name: str) -> str:
    """Text from another machine, made safe for a terminal."""
    value = source.get(name)
    return "".join(ch if ch.isprintable() else "?" for ch in value) if isinstance(value, str) else ""


def _short(text: str) -> str:
    text = "".join(ch if ch.isprintable() else " " for ch in text)
    return text if len(text) <= 60 else f"{text[:59]}…"
