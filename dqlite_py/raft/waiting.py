"""Who waits for which log index, in PySyncObj's own table, and what they are told (RF-12, RF-13). Loop thread.

An answer is true or it is OutcomeUnknown: a proposal is decided by what is committed at its index, never by a
truncation or a change of leader.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from dqlite_py.errors import Error, OutcomeUnknown, Overwritten
from dqlite_py.logs import event
from dqlite_py.model import Entry, LogIndex, Term

log = logging.getLogger("dqlite_py.raft")

ProposalCallback = Callable[[Any, Error | None], None]


class WaitingProposals:
    """`table`: log index to [(term, callback), ...], SyncObj's commandsWaitingCommit."""

    def __init__(self, table: defaultdict[int, list[tuple[Term, ProposalCallback]]]) -> None:
        self._table = table
        self._applied_term = Term(0)

    def add(self, term: Term, index: LogIndex, callback: ProposalCallback) -> None:
        self._table[index].append((term, callback))

    def __len__(self) -> int:
        return len(self._table)

    def is_awaited(self, index: int) -> bool:
        return index in self._table

    def entry_applied(self, entry: Entry, result: Any, error: Error | None) -> None:
        """Answer who waits for this index, and whom a newer term overtook."""
        if entry.term > self._applied_term:
            self._applied_term = entry.term
            self._fail_older_terms(entry)
        for term, callback in self._table.pop(entry.index, ()):
            if term == entry.term:
                answer(callback, result, error)
            else:  # ours of a newer term lost to an older one that a later leader brought along (paper 5.4.2)
                answer(callback, None, _overwritten(term, entry))

    def _fail_older_terms(self, entry: Entry) -> None:
        """Terms never fall along a log: what was proposed in an older term at this index or later cannot be
        committed any more, so its writers need not wait for somebody else's entry at their index."""
        for index in [i for i in self._table if i >= entry.index]:
            kept = []
            for term, callback in self._table.pop(index):
                if term >= entry.term:
                    kept.append((term, callback))
                else:
                    answer(callback, None, _overwritten(term, entry))
            if kept:
                self._table[index] = kept

    def forget_through(self, index: LogIndex) -> None:
        """A snapshot jumped over these indexes: their writers cannot learn the outcome here."""
        for passed in [i for i in self._table if i <= index]:
            for _term, callback in self._table.pop(passed):
                answer(callback, None, OutcomeUnknown(f"a snapshot replaced the log at index {passed}"))

    def fail_all(self, error: Error) -> None:
        for index in list(self._table):
            for _term, callback in self._table.pop(index):
                answer(callback, None, error)


def answer(callback: ProposalCallback, result: Any, error: Error | None) -> None:
    """Call back; a callback's bug must not touch consensus (RF-14)."""
    try:
        callback(result, error)
    except Exception:  # noqa: BLE001 - logged
        event(log, logging.ERROR, "a proposal's callback failed", exc_info=True)


def _overwritten(term: Term, entry: Entry) -> Overwritten:
    return Overwritten(
        f"entry {entry.index} of term {entry.term} was committed; what was proposed in term {term} at or after that "
        "index cannot be"
    )
