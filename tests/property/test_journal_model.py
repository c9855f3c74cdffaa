"""Random calls, restarts, kills and power losses: the journal holds what a plain list would."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dqlite_py.errors import StorageFull
from dqlite_py.raft.journal import Journal, JournalBatch
from tests.support.faultdisk import FaultDisk, Loss, PowerLoss
from tests.support.journals import FOLDER, entries, hard, open_journal
from tests.support.journalscript import Oracle, matches, outcomes

shapes = st.fixed_dictionaries(
    {
        "truncate_back": st.none() | st.integers(0, 40),
        "count": st.integers(0, 12),
        "size": st.sampled_from([0, 1, 100, 700, 3000]),
        "vote": st.none() | st.integers(0, 5),
        "reset_ahead": st.none() | st.none() | st.none() | st.integers(0, 50),
    }
)


class JournalMachine(RuleBasedStateMachine):
    disk: FaultDisk
    journal: Journal
    oracle: Oracle

    @initialize()
    def start(self) -> None:
        self.disk = FaultDisk(FOLDER)
        self.oracle = Oracle()
        self.terms = itertools.count(1)
        self.journal = open_journal(self.disk)

    def build(self, shapes: list[dict[str, Any]]) -> list[JournalBatch]:
        """Turn shapes into batches that are legal one after the other."""
        state, batches = self.oracle.promised, []
        for shape in shapes:
            term = next(self.terms)
            last = state.log[-1].index if state.log else state.start
            reset = None if shape["reset_ahead"] is None else (last + shape["reset_ahead"], term)
            if reset is not None:
                last = reset[0]
            truncate_from = None
            if shape["truncate_back"] is not None:
                base = reset[0] if reset else max(state.start, state.floor)
                truncate_from = max(base + 1, last + 1 - shape["truncate_back"])
                last = min(last, truncate_from - 1)
            batches.append(
                JournalBatch(
                    reset=reset,
                    hard_state=None if shape["vote"] is None else hard(term, shape["vote"]),
                    truncate_from=truncate_from,
                    entries=entries(last + 1, last + shape["count"], term, shape["size"]),
                )
            )
            state = outcomes(state, batches[-1])[-1]
        return batches

    @rule(shapes=st.lists(shapes, min_size=1, max_size=4))
    def write(self, shapes: list[dict[str, Any]]) -> None:
        self.oracle.write(self.journal, *self.build(shapes))

    @rule(shapes=st.lists(shapes, min_size=1, max_size=4), spare=st.integers(0, 12_000))
    def write_on_a_full_disk(self, shapes: list[dict[str, Any]], spare: int) -> None:
        batches = self.build(shapes)
        self.disk.capacity_bytes = self.disk.used_bytes() + spare
        try:
            self.oracle.write(self.journal, *batches)
        except StorageFull:
            self.disk.capacity_bytes = None
            self.oracle.write(self.journal, *batches)
        self.disk.capacity_bytes = None

    @rule(back=st.integers(0, 60))
    def compact(self, back: int) -> None:
        self.oracle.compact(self.journal, max(0, self.journal.last_index - back))

    @rule()
    def mark_and_prepare(self) -> None:
        self.journal.mark()
        assert self.journal.prepare()

    @rule()
    def restart(self) -> None:
        self.journal.close()
        assert self.disk.open_count == 0
        self.journal = open_journal(self.disk, create=False)

    @rule()
    def kill(self) -> None:
        self.disk.after_kill()
        self.journal = open_journal(self.disk, create=False)

    @rule(loss=st.sampled_from(Loss), seed=st.integers(0, 999))
    def lose_power_between_calls(self, loss: Loss, seed: int) -> None:
        self.disk = self.disk.after_power_loss(loss, seed)
        self.journal = open_journal(self.disk, create=False)

    @rule(
        shapes=st.lists(shapes, min_size=1, max_size=4),
        changes=st.integers(1, 12),
        loss=st.sampled_from(Loss),
        seed=st.integers(0, 999),
    )
    def lose_power_during_a_write(
        self, shapes: list[dict[str, Any]], changes: int, loss: Loss, seed: int
    ) -> None:
        batches = self.build(shapes)
        self.disk.power_fails_at = self.disk.change_count + changes
        try:
            self.oracle.write(self.journal, *batches)
        except PowerLoss:
            self.lose_power_between_calls(loss, seed)
            self.oracle.check(self.journal)
        self.disk.power_fails_at = None

    @invariant()
    def holds_what_was_promised(self) -> None:
        if hasattr(self, "journal"):
            assert matches(self.journal, self.oracle.promised)


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
