"""Read index (thesis 6.4): which reads wait for which heartbeat round. Pure bookkeeping for replication.py.

A read may be served at the commit index of its request once a quorum has answered a heartbeat round that
began after it. Reads share rounds: while one round is out, new reads gather for the next.
"""

from __future__ import annotations

from collections import deque

from dqlite_py.model import LogIndex


class ReadQueue:
    __slots__ = ("_gathering", "_waiting")

    def __init__(self) -> None:
        self._gathering: list[int] = []
        self._waiting: deque[tuple[int, LogIndex, list[int]]] = deque()

    def add(self, read_id: int) -> None:
        self._gathering.append(read_id)

    @property
    def wants_round(self) -> bool:
        return bool(self._gathering) and not self._waiting

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def round_begins(self, round_number: int, read_index: LogIndex) -> None:
        """Round `round_number` starts now; the reads gathered until here ride on it."""
        if self._gathering:
            self._waiting.append((round_number, read_index, self._gathering))
            self._gathering = []

    def round_confirmed(self, round_number: int) -> list[tuple[int, LogIndex]]:
        """A quorum answered `round_number`: the reads that may be served."""
        ready: list[tuple[int, LogIndex]] = []
        while self._waiting and self._waiting[0][0] <= round_number:
            _, index, read_ids = self._waiting.popleft()
            ready.extend((read_id, index) for read_id in read_ids)
        return ready

    def fail_all(self) -> list[int]:
        failed = [read_id for _, _, read_ids in self._waiting for read_id in read_ids]
        failed.extend(self._gathering)
        self._waiting.clear()
        self._gathering = []
        return failed
