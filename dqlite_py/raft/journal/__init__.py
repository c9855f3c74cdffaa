"""The durable Raft journal: log, hard state, identity and lock of a data folder. Entries are opaque bytes
here.

Built and driven by the Raft host; format.py describes the bytes, recovery.py the verdicts at start.
"""

from dqlite_py.raft.journal.batch import JournalBatch
from dqlite_py.raft.journal.hardstate import HardStateFile
from dqlite_py.raft.journal.identity import Identity
from dqlite_py.raft.journal.journal import Journal
from dqlite_py.raft.journal.lock import FolderLock, lock_folder
from dqlite_py.raft.journal.table import NotInJournal
from dqlite_py.raft.journal.thread import JournalStats, JournalThread

__all__ = [
    "FolderLock",
    "HardStateFile",
    "Identity",
    "Journal",
    "JournalBatch",
    "JournalStats",
    "JournalThread",
    "NotInJournal",
    "lock_folder",
]
