"""`dqlite-py status --watch`: how a cluster changes from one look to the next. Pure: answers in, rows out."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from dqlite_py.cli.cluster_view import Answers, Status, Table, clean_text, members_of, number_of
from dqlite_py.errors import Error

_KIB: Final = 1024
_LAST_COLUMN: Final = 20  # so much of it is seen at least
_LEAST_FIRST: Final = (
    *("syncs/s", "log", "commit", "weight", "domain", "term", "id", "free", "applied"),
    *("entries/s", "catch-up", "lag", "role", "state", "state hash"),
)


class Look(NamedTuple):
    """One round of questions. `view`: the answer that describes the cluster, the leader's where it is known."""

    at_s: float
    view: Status
    answers: Answers


class Rates(NamedTuple):
    """Of one node, per second; None at the first look, and after a restart of that node."""

    applied: float | None
    syncs: float | None


def best_view(answers: Answers) -> Status | None:
    """The leader's answer, else one that knows a leader, else any; None when nobody answered."""
    found = [answer for answer in answers.values() if isinstance(answer, dict)]
    # One that was cut off may still say that it leads: the newer term is right.
    found.sort(
        key=lambda s: (s.get("is_leader") is not True, not s.get("leader_address"), -number_of(s, "term"))
    )
    return found[0] if found else None


def rates(before: Look | None, now: Look, address: str) -> Rates:
    old = before.answers.get(address) if before is not None else None
    new = now.answers.get(address)
    if before is None or not isinstance(old, dict) or not isinstance(new, dict) or now.at_s <= before.at_s:
        return Rates(None, None)
    took_s = now.at_s - before.at_s

    def rate(name: str) -> float | None:
        difference = number_of(new, name) - number_of(old, name)
        return difference / took_s if difference >= 0 else None

    return Rates(rate("applied_index"), rate("journal_syncs"))


def watch_table(before: Look | None, now: Look) -> Table:
    """A row per member."""
    header = (
        *("id", "address", "role", "weight", "domain", "state", "term", "commit", "applied", "lag"),
        *("entries/s", "syncs/s", "log", "free", "catch-up", "health"),
    )
    commit = commit_index(now)
    rows = []
    for member in members_of(now.view):
        address = clean_text(member, "address")
        found = now.answers.get(address)
        first = (
            *(str(number_of(member, "id")), address, clean_text(member, "role") or "?"),
            *(str(number_of(member, name)) for name in ("weight", "domain")),
        )
        if not isinstance(found, dict):
            reason = found.message if isinstance(found, Error) else "not asked"
            rows.append((*first, "unreachable", *["-"] * 9, _short(reason)))
            continue
        speed, applied = rates(before, now, address), number_of(found, "applied_index")
        rows.append(
            (
                *first,
                clean_text(found, "state") or "?",
                *(str(number_of(found, name)) for name in ("term", "commit_index")),
                str(applied),
                str(max(0, commit - applied)),
                _rate(speed.applied),
                _rate(speed.syncs),
                size_text(number_of(found, "journal_bytes")),
                size_text(number_of(found, "free_bytes")),
                catch_up(found, member),
                _short(clean_text(found, "problem")) or "ok",
            )
        )
    return Table("members", header, rows)


def fitted(table: Table, width: int) -> Table:
    """Without the columns that matter least, as many as it takes; the last one may be cut at the right."""
    names = list(table.header)
    widths = {name: max(len(row[at]) for row in (table.header, *table.rows)) for at, name in enumerate(names)}
    widths[names[-1]] = min(widths[names[-1]], _LAST_COLUMN)
    for name in _LEAST_FIRST:
        if sum(widths[name] + 2 for name in names) - 2 <= width:
            break
        if name in names:
            names.remove(name)
    kept = [at for at, name in enumerate(table.header) if name in names]
    return Table(table.title, tuple(names), [tuple(row[at] for at in kept) for row in table.rows])


def roles_line(status: Status) -> str:
    """Who keeps the roles and what was decided last, as the leader says; "" of one that says nothing."""
    roles = status.get("roles")
    if not isinstance(roles, dict):
        return ""
    if roles.get("automatic") is True:
        text = (
            f"roles automatic: {number_of(roles, 'voters')} voters, {number_of(roles, 'standbys')} stand-bys"
        )
    else:
        text = "roles by hand" if "automatic" in roles else "roles: every member votes"
    last = roles.get("last")
    if isinstance(last, dict):
        age = last.get("age_s")
        text += f"; {age:.0f} s ago: " if isinstance(age, (int, float)) else "; last: "
        text += clean_text(last, "text")
    decision = clean_text(roles, "decision")
    return f"{text}; now: {decision}" if decision else text


def line(before: Look | None, now: Look) -> str:
    """One look in one line, for logs and pipes."""
    members = members_of(now.view)
    answered = [now.answers.get(clean_text(m, "address")) for m in members]
    alive = [a for a in answered if isinstance(a, dict)]
    commit = commit_index(now)
    lag = max((commit - number_of(a, "applied_index") for a in alive), default=0)
    leader = clean_text(now.view, "leader_address") or "none"
    speed = rates(before, now, leader).applied
    problems = sum(1 for a in alive if clean_text(a, "problem"))
    roles = now.view.get("roles")
    decision = clean_text(roles, "decision") if isinstance(roles, dict) else ""
    return (
        f"term={number_of(now.view, 'term')} leader={leader} answering={len(alive)}/{len(members)} commit={commit} "
        f"entries_per_s={_rate(speed)} lag={max(0, lag)} problems={problems}"
        + (f" decision={json.dumps(decision)}" if decision else "")
    )


def as_object(before: Look | None, now: Look, time_text: str) -> dict[str, Any]:
    """One look for a program."""
    return {
        "time": time_text,
        "leader": clean_text(now.view, "leader_address"),
        "term": number_of(now.view, "term"),
        "commit_index": commit_index(now),
        "roles": now.view.get("roles"),
        "members": {
            address: {"error": found.message} if isinstance(found, Error) else found
            for address, found in now.answers.items()
        },
        "rates": {
            address: {"applied_per_s": speed.applied, "syncs_per_s": speed.syncs}
            for address in now.answers
            for speed in (rates(before, now, address),)
        },
    }


def commit_index(now: Look) -> int:
    return max((number_of(a, "commit_index") for a in now.answers.values() if isinstance(a, dict)), default=0)


def catch_up(status: Status, member: Status) -> str:
    """How far a snapshot has come that this node fetches; what the leader knows of it otherwise."""
    phase, size = clean_text(status, "snapshot_phase"), status.get("snapshot_bytes")
    if phase not in ("", "idle") and isinstance(size, list) and len(size) == 2:
        done, total = (part if type(part) is int else 0 for part in size)
        return f"{phase} {100 * done // total}%" if total > 0 else phase
    progress = clean_text(member, "progress")
    return progress if progress not in ("", "replicate") else "-"


def size_text(size_bytes: int) -> str:
    """1536 -> 1.5 KiB."""
    size: float = size_bytes
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < _KIB:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KIB
    return f"{size:.1f} TiB"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _short(text: str) -> str:
    text = "".join(ch if ch.isprintable() else " " for ch in text)
    return text if len(text) <= 60 else f"{text[:59]}…"
