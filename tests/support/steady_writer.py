"""A program outside the cluster that writes all the time, and accounts for each write and for the longest pause."""

from __future__ import annotations

import threading
import time
from typing import Any

import dqlite_py
from dqlite_py.errors import Error, Outcome


class SteadyWriter(threading.Thread):
    """Knows the addresses it was given and what the cluster tells it; `INSERT INTO rows VALUES (label, number)`."""

    def __init__(self, target: str, label: str) -> None:
        super().__init__(name=f"writer-{label}")
        self.target, self.label = target, label
        self.acknowledged: set[int] = set()
        self.unsure: set[int] = set()
        self.refused: dict[int, str] = {}
        self.longest_gap_s = 0.0
        self.stopping = threading.Event()

    def run(self) -> None:
        with dqlite_py.connect(self.target, isolation_level=None, timeout=20.0) as conn:
            number, last = 0, time.monotonic()
            while not self.stopping.is_set():
                try:
                    conn.execute("INSERT INTO rows VALUES (?, ?)", (self.label, number))
                except Error as error:
                    if error.outcome is Outcome.UNKNOWN:
                        self.unsure.add(number)
                    else:
                        self.refused[number] = str(error)
                else:
                    self.acknowledged.add(number)
                    now = time.monotonic()
                    self.longest_gap_s = max(self.longest_gap_s, now - last)
                    last = now
                number += 1

    def check(self, rows: list[tuple[Any, ...]]) -> None:
        """Acknowledged rows once, refused rows never, unsure rows at most once."""
        mine = [number for label, number in rows if label == self.label]
        held = set(mine)
        assert len(mine) == len(held), "doubled rows"
        assert self.acknowledged <= held, f"lost: {sorted(self.acknowledged - held)}"
        assert not self.refused.keys() & held, f"refused but applied: {self.refused}"
        assert held <= self.acknowledged | self.unsure
