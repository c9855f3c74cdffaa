"""Roles: what a leader may propose. Looked at when the entry is appended, as it is in force from then on.

A majority of the new voters is there; who gets a vote has the log. Where roles are kept automatically, and unless an
operator asked to take the vote of that very member: voters are replaced before they are demoted, and no leader gives
up a member before it has led for as long as the settings say. Plain facts in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dqlite_py.model import Configuration, Role
from tests.simulation.cluster.checks_consensus import Fail

DEAD_S: Final = 2.0  # longer than any leader takes a follower's last word for a sign of life


class RoleFacts:
    """`down_s`: for how long a member's process has been away; 0 while it runs."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self.down_s: Callable[[int], float] = lambda _node: 0.0
        self._asked: set[int] = set()  # whose vote an operator asked to take, successfully or not
        self._led: dict[int, float] = {}  # node -> since when it leads, by its own clock

    def leads(self, node: int, now_ms: float) -> None:
        self._led[node] = now_ms

    def asked_away(self, node: int) -> None:
        """An operator asks to remove it, to let it leave, or to give it a lower role."""
        self._asked.add(node)

    def proposed(
        self,
        leader: int,
        now_ms: float,
        before: Configuration,
        now: Configuration,
        commit: int,
        lag_max: int,
        log_end: Callable[[int], int],
    ) -> None:
        """`before`: the committed one; `log_end`: of a node's disk; `lag_max`: entries that a voter may be behind."""
        dead = sorted(int(v) for v in now.voters if self.down_s(int(v)) > DEAD_S)
        if (len(now.voters) - len(dead)) * 2 <= len(now.voters):
            self._fail(f"roles: {leader} proposes voters {sorted(now.voters)}, of which {dead} are dead")
        for voter in sorted(now.voters - before.voters):
            end = log_end(int(voter))
            if before.members and (end == 0 or end + lag_max < commit):
                self._fail(
                    f"roles: {leader} gives {voter} a vote, whose log ends at {end}; committed is {commit}"
                )
        settings = before.settings
        if settings is None or not settings.automatic or now.settings != settings:
            return
        for member in before.members:
            kept = now.get(member.id)
            if (
                member.role is not Role.VOTER
                or kept is None
                or kept.role is Role.VOTER
                or int(member.id) in self._asked
            ):
                continue
            count = len(before.voters)
            least = min(settings.voters, count if count <= 2 or count % 2 else count - 1)
            if count - 1 < least:
                self._fail(
                    f"roles: {leader} demotes {member.id}, one of {count} voters, where {settings.voters} are wanted: "
                    "nobody has replaced it"
                )
            led_ms = now_ms - self._led.get(leader, now_ms)
            if kept.role is Role.SPARE and led_ms < settings.gone_after_ms:
                self._fail(
                    f"roles: {leader} gives up {member.id} {led_ms:.0f} ms after it became the leader, not after "
                    f"{settings.gone_after_ms} ms"
                )
