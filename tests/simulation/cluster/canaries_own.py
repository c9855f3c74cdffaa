"""Canaries beside the faults of PySyncObj: mistakes that a change of this product could bring in.

Most of them the simulation once did not notice: each stands for a kind of call, fault or check that it has now. The
form is canaries.Canary, without an RF id.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final

from dqlite_py.errors import MembershipRefused, NotLeader, OutcomeUnknown, TransactionEnded
from dqlite_py.model import LogIndex
from dqlite_py.node import compaction as compaction_module
from dqlite_py.node import transaction_calls, transactions
from dqlite_py.node.configuration_change import ConfigurationChange
from dqlite_py.node.proposals import DatabaseProposals
from dqlite_py.raft.host import RaftHost
from dqlite_py.raft.journal.journal import Journal
from dqlite_py.storage.state_folder import StateFolder
from tests.simulation.cluster.canaries import DEPOSED, MEMBERS, Canary
from tests.simulation.cluster.canaries_patches import replaced
from tests.simulation.cluster.plans import Mixture

# -- callers ------------------------------------------------------------------------------------------------


def results_mixed() -> AbstractContextManager[None]:
    """Writers that share an entry hear each other's results."""
    init = DatabaseProposals.__init__

    def mixes(self: DatabaseProposals, database: str, *, propose: Any, **more: Any) -> None:
        def proposes(payload: bytes, finished: Any) -> None:
            propose(payload, lambda results, error: finished(results and results[::-1], error))

        init(self, database, propose=proposes, **more)

    return replaced((DatabaseProposals, "__init__", mixes))


def stopping_means_not_done() -> AbstractContextManager[None]:
    """A node that stops tells its waiting writers that nothing happened."""

    def destroy(self: Any) -> None:
        self._waiting.fail_all(NotLeader("the node stops"))
        ends(self)

    ends = RaftHost._doDestroy
    return replaced((RaftHost, "_doDestroy", destroy))


# -- interactive transactions -------------------------------------------------------------------------------


def conflict_not_noticed() -> AbstractContextManager[None]:
    """A transaction writes although what it has read is history."""
    begin = transactions.Transactions.begin

    def begins(self: Any, beginning: Any) -> None:
        beginning.base_index = None
        begin(self, beginning)

    return replaced((transactions.Transactions, "begin", begins))


def unknown_commit_ended() -> AbstractContextManager[None]:
    """A COMMIT whose answer was lost is said to have been rolled back, without asking."""

    def ended(_writes: Any, _database: str, _key: Any, callback: Any, _deadline: Any) -> None:
        callback(None, TransactionEnded("leadership was lost"))

    return replaced((transactions, "ask_what_became", ended), (transaction_calls, "ask_what_became", ended))


# -- members ------------------------------------------------------------------------------------------------


def change_told_early() -> AbstractContextManager[None]:
    """A change of members counts as done when it is proposed."""
    return replaced((ConfigurationChange, "_is_committed", lambda *_: True))


def change_told_refused() -> AbstractContextManager[None]:
    """A change of members whose leader lost its office is said to have failed."""
    change = ConfigurationChange.carry_out

    async def says_refused(self: ConfigurationChange, *args: Any) -> None:
        try:
            await change(self, *args)
        except OutcomeUnknown as error:
            raise MembershipRefused(error.message) from None

    return replaced((ConfigurationChange, "carry_out", says_refused))


# -- databases and disk -----------------------------------------------------------------------------------------


def file_before_manifest() -> AbstractContextManager[None]:
    """A dropped database's file goes while the manifest still names it."""
    drop = StateFolder.drop_database

    def drops(self: Any, name: str, *more: Any) -> None:
        path = self.database_path(name)
        if self._disk.exists(path):
            self._disk.unlink(path)
            self._disk.fsync_dir(self.generation_path)
        drop(self, name, *more)

    return replaced((StateFolder, "drop_database", drops))


def checkpoint_behind_a_reader() -> AbstractContextManager[None]:
    """A checkpoint that a reader hindered counts as complete."""
    fully = compaction_module._checkpoint_fully

    def always_complete(engine: Any) -> Any:
        return (True, *fully(engine)[1:])

    return replaced((compaction_module, "_checkpoint_fully", always_complete))


def journal_compacted_one_too_far() -> AbstractContextManager[None]:
    """Compaction takes one entry more than the databases hold."""
    compact = Journal.compact

    def one_more(self: Journal, upto: Any) -> None:
        compact(self, LogIndex(upto + 1))

    return replaced((Journal, "compact", one_more))


def point_read_late() -> AbstractContextManager[None]:
    """The compaction point is what was routed when the checkpoints had ended, not when they began."""
    checkpoint = compaction_module.Compaction._checkpoint

    async def late(self: Any, routed: int, workers: Any) -> Any:
        found = await checkpoint(self, routed, workers)
        return None if found is None else (self._applier().dispatched_index, found[1])

    return replaced((compaction_module.Compaction, "_checkpoint", late))


OWN: Final[dict[str, Canary]] = {
    "results mixed": Canary(
        "", "writers that share an entry hear each other's results", results_mixed, operations_per_s=60.0
    ),
    "stopping means not done": Canary(
        "", "a node that stops says that nothing happened", stopping_means_not_done,
        faults=Mixture({"stop": 1.0, "isolate": 0.5}), operations_per_s=60.0
    ),
    "conflict not noticed": Canary(
        "", "a transaction writes although what it has read is history", conflict_not_noticed, transactions_per_s=6.0
    ),
    "unknown commit ended": Canary(
        "", "a COMMIT whose answer was lost counts as rolled back", unknown_commit_ended,
        faults=DEPOSED, transactions_per_s=6.0, seed=33
    ),
    "change told early": Canary(
        "", "a change of members counts as done when it is proposed", change_told_early, faults=MEMBERS
    ),
    "change told refused": Canary(
        "", "a change of members of unknown outcome is said to have failed", change_told_refused,
        faults=Mixture({"remove and rejoin": 0.6, "isolate": 0.8, "transfer": 1.0}, 0.15), seed=18
    ),
    "file before manifest": Canary(
        "", "a dropped database's file goes while the manifest names it", file_before_manifest,
        faults=Mixture({"crash at a disk operation": 2.0, "compact": 2.0}), short_log=True, seed=1
    ),
    "checkpoint behind a reader": Canary(
        "", "a hindered checkpoint counts as complete", checkpoint_behind_a_reader,
        faults=Mixture({"long reader": 2.0, "compact": 4.0, "power loss": 1.0}), short_log=True
    ),
    "journal compacted one too far": Canary(
        "", "compaction takes one entry more than the databases hold", journal_compacted_one_too_far,
        faults=Mixture({"compact": 8.0}), operations_per_s=60.0, short_log=True, seed=3
    ),
    "point read late": Canary(
        "", "a compaction point that the checkpoints do not reach", point_read_late,
        faults=Mixture({"compact": 8.0}), operations_per_s=60.0, short_log=True, seed=1
    ),
}  # fmt: skip
