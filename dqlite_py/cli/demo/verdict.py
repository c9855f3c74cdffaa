"""Compare what was acknowledged with what every node holds. Pure; judges the demo and the benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dqlite_py.cli.demo.ledger import RowKey


@dataclass(frozen=True, slots=True)
class NodeContent:
    """One node's answers when the writers had stopped: `rows` start with writer and number."""

    applied_index: int
    state_hash: str
    rows: Sequence[Sequence[Any]]


@dataclass(slots=True)
class Verdict:
    """`facts` are true sentences; `faults` say what is wrong (none: all is well)."""

    facts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.faults


def judge(
    contents: Mapping[str, NodeContent], acknowledged: Collection[RowKey], unknown: Collection[RowKey]
) -> Verdict:
    """Every acknowledged row exactly once on every node, nothing uninvited, all nodes alike."""
    verdict = Verdict()
    for name, content in contents.items():
        _judge_rows(verdict, name, content, acknowledged, unknown)
    _judge_equality(verdict, contents)
    if verdict.is_good:
        _say_what_holds(verdict, contents, acknowledged, unknown)
    return verdict


def _judge_rows(
    verdict: Verdict,
    name: str,
    content: NodeContent,
    acknowledged: Collection[RowKey],
    unknown: Collection[RowKey],
) -> None:
    counts = Counter(RowKey(row[0], row[1]) for row in content.rows)
    lost = [row for row in acknowledged if not counts[row]]
    if lost:
        verdict.faults.append(f"{name} LOST {len(lost)} acknowledged rows, {_example(lost)}")
    twice = [row for row, count in counts.items() if count > 1]
    if twice:
        verdict.faults.append(f"{name} holds {len(twice)} rows more than once, {_example(twice)}")
    expected = set(acknowledged) | set(unknown)
    uninvited = [row for row in counts if row not in expected]
    if uninvited:
        verdict.faults.append(f"{name} holds {len(uninvited)} rows that were refused, {_example(uninvited)}")


def _judge_equality(verdict: Verdict, contents: Mapping[str, NodeContent]) -> None:
    first_name, first = next(iter(contents.items()))
    for name, content in contents.items():
        if content.applied_index != first.applied_index:
            verdict.faults.append(
                f"{name} applied the log to {content.applied_index}, {first_name} to {first.applied_index}"
            )
        elif content.state_hash != first.state_hash:
            verdict.faults.append(
                f"DIVERGENCE at log index {first.applied_index}: the state hash is {first.state_hash} on "
                f"{first_name}, {content.state_hash} on {name}"
            )
        if list(map(list, content.rows)) != list(map(list, first.rows)):
            verdict.faults.append(f"the rows of {name} and {first_name} are not the same")


def _say_what_holds(
    verdict: Verdict,
    contents: Mapping[str, NodeContent],
    acknowledged: Collection[RowKey],
    unknown: Collection[RowKey],
) -> None:
    first = next(iter(contents.values()))
    everywhere = "all nodes" if len(contents) > 1 else "the node"
    verdict.facts.append(f"{len(acknowledged):,} acknowledged rows: each exactly once on {everywhere}")
    if unknown:
        stored = {RowKey(row[0], row[1]) for row in first.rows}
        present = sum(row in stored for row in unknown)
        verdict.facts.append(
            f"{len(unknown)} writes had no answer when the leader died (outcome UNKNOWN): "
            f"{present} happened, {len(unknown) - present} did not, the same on {everywhere}"
        )
    verdict.facts.append("timestamps and random numbers that SQLite filled in: the same in every row")
    verdict.facts.append(
        f"state hash after log index {first.applied_index:,}: {first.state_hash} on {everywhere}"
    )


def _example(rows: Sequence[RowKey]) -> str:
    return f"for example number {rows[0].number} of {rows[0].writer}"
