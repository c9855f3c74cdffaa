"""The error tree: PEP 249 classes, each with `code`, `retryable` and `outcome`.

Used everywhere. Every error survives pickling and crosses the wire by its
class name (`to_wire` / `from_wire`), so that a follower's caller sees exactly what the leader raised.
"""

from __future__ import annotations

import enum
from typing import Any

from dqlite_py.sqlite_codes import code_name


class Outcome(enum.Enum):
    """What is now true of the write that failed."""

    NOT_APPLIED = "NOT_APPLIED"
    UNKNOWN = "UNKNOWN"
    APPLIED = "APPLIED"  # it took effect, and only its result is gone


class Warning(Exception):
    """PEP 249 Warning."""


class Error(Exception):
    """Root of all errors of this package (PEP 249).

    `code`: SQLite's extended result code for SQL errors, else None.
    `retryable`: True when the same call may succeed later without a change by the caller.
    `outcome`: NOT_APPLIED when the write certainly left no trace, UNKNOWN when it may have happened, APPLIED when
    it did.
    """

    retryable: bool = False
    outcome: Outcome = Outcome.NOT_APPLIED

    def __init__(self, message: str, *, code: int | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = details

    @property
    def sqlite_errorcode(self) -> int | None:
        """As of sqlite3's exceptions: SQLite's extended result code; None where SQLite was not asked."""
        return self.code

    @property
    def sqlite_errorname(self) -> str | None:
        """The name of `sqlite_errorcode`: SQLITE_CONSTRAINT_UNIQUE, …"""
        return None if self.code is None else code_name(self.code)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.code, self.details))

    def to_wire(self) -> list[Any]:
        """[class name, message, code, details] for msgpack; details hold only str, int, float, bytes, None."""
        return [type(self).__name__, self.message, self.code, self.details]


def _rebuild(cls: type[Error], message: str, code: int | None, details: dict[str, Any]) -> Error:
    return cls(message, code=code, **details)


class InterfaceError(Error):
    """The API was used wrongly (closed connection, bad parameter type)."""


class DatabaseError(Error):
    """Root of what a database reports (PEP 249)."""


class DataError(DatabaseError):
    """A value is out of range or of a type that cannot be stored."""


class OperationalError(DatabaseError):
    """The database could not do it now."""


class IntegrityError(DatabaseError):
    """A constraint failed."""


class InternalError(DatabaseError):
    """An invariant of this package is broken; please report it."""


class ProgrammingError(DatabaseError):
    """The SQL or its parameters are wrong."""


class NotSupportedError(DatabaseError):
    """The statement cannot be replicated, or is not supported by this release; the message says what to do."""


# -- the cluster cannot serve it here or now; certainly not applied -------------------------------------


class NotLeader(OperationalError):
    """This node is not the leader; `details["leader_id"]`, `details["leader_address"]` if known."""

    retryable = True


class NoLeader(OperationalError):
    """No leader was known within the time allowed; nothing was sent."""

    retryable = True


class TooStale(OperationalError):
    """This node's state is older than the read allows, and was not fresh enough in time; the message says how old."""

    retryable = True


class Busy(OperationalError):
    """A bound on queued work is reached; nothing was queued."""

    retryable = True


class StorageFull(OperationalError):
    """The disk's reserve is reached: writes are refused, reads go on; free space to resume."""

    retryable = True


class NodeStopped(OperationalError):
    """The node is stopping or has failed; the message holds the reason."""


class RequestTooLarge(DataError):
    """A statement, unit or message is over a limit of limits.py."""


class IntegerTooLarge(DataError, OverflowError):
    """An integer parameter is outside SQLite's 64 bits; an OverflowError too, which sqlite3 raises."""


class Overwritten(OperationalError):
    """Another entry was committed at the write's log index: it certainly did not happen."""

    retryable = True


class SnapshotUnavailable(OperationalError):
    """The source does not offer that snapshot any more, or could not make one; the message says why."""

    retryable = True


class SnapshotDamaged(OperationalError):
    """A received snapshot is not what its source announced; it was thrown away. Details file, expected, found."""

    retryable = True


# -- changes as a stream --------------------------------------------------------------------------------


class ChangesCompacted(OperationalError):
    """This node does not have the changes asked for: read the tables anew, then follow from the state that was read.

    Details `oldest`: the smallest log index to follow from, `newest`: that of the newest change here.
    """


# -- transactions and client sessions ---------------------------------------------------------------------


class DatabaseLocked(OperationalError):
    """Another transaction writes to the database, and did not end within the time allowed (SQLITE_BUSY)."""

    retryable = True


class SnapshotConflict(OperationalError):
    """The database was changed since this transaction read it, so that it cannot write (SQLITE_BUSY_SNAPSHOT)."""

    retryable = True


class TransactionEnded(OperationalError):
    """The node rolled the transaction back: a time limit, lost leadership, a stop; the message says which."""

    retryable = True


class SessionExpired(OperationalError):
    """The write's key is older than what the cluster remembers: whether it happened before cannot be told any more."""

    outcome = Outcome.UNKNOWN


class NeverApplied(OperationalError):
    """The write did not happen and never will: the cluster has noted its key as void."""

    retryable = True


class ResultNotKept(OperationalError):
    """The write took effect once, before; its result was too large to be kept for retries."""

    outcome = Outcome.APPLIED


# -- outcome unknown -----------------------------------------------------------------------------------


class OutcomeUnknown(OperationalError):
    """The write was sent or appended and no answer came: it may have happened. Do not blindly retry."""

    outcome = Outcome.UNKNOWN


# -- disk and cluster identity; a node with one of these does not start, or stops ------------------------


class ClusterSuperseded(OperationalError):
    """This node's cluster was recovered without it (dqlite-py cluster recover); it joins that one anew."""


class CorruptJournal(InternalError):
    """Journal damage: details file, offset (bytes), expected, found."""


class CorruptState(InternalError):
    """Damage of hard state, identity, manifest or a database file: details file, expected, found."""


class UnknownFormat(InternalError):
    """A format version that this release does not know, by name; details file or source, version."""


class JournalFailed(OperationalError):
    """A write or fsync failed: final for this process (pages may be lost after a failed fsync)."""

    outcome = Outcome.UNKNOWN


class DirectoryLocked(OperationalError):
    """Another process holds this data folder."""


class WrongCluster(OperationalError):
    """The peer or folder belongs to another cluster."""


class MemberRefused(OperationalError):
    """The cluster refuses this member (removed, wiped disk, address taken); the message says how to mend it."""


class DivergenceDetected(InternalError):
    """This node's state differs from the majority's: details database, index, ours, theirs."""


class MalformedMessage(DataError):
    """Bytes that are not a valid message; details what."""


class RaftInvariantBroken(InternalError):
    """A broken consensus invariant: the node stops; all values are in the message."""


class MembershipRefused(OperationalError):
    """A configuration change is unsafe or not possible now; the message says why."""

    retryable = True


def no_such_database(name: str) -> OperationalError:
    """The log's answer to what came for a database that is not there: it had no effect."""
    return OperationalError(
        f"database {name} does not exist (it was dropped, or never opened): connect to it anew",
        missing_database=name,
    )


def is_database_missing(error: Error) -> bool:
    """Whether it goes back to `no_such_database`: asking again tells no more."""
    return "missing_database" in error.details


def _tree(cls: type[Error]) -> dict[str, type[Error]]:
    found = {cls.__name__: cls}
    for sub in cls.__subclasses__():
        found.update(_tree(sub))
    return found


def from_wire(value: Any) -> Error:
    """Rebuild an error from `to_wire`'s list; anything else is a MalformedMessage (returned, not raised)."""
    if (
        isinstance(value, (list, tuple))
        and len(value) == 4
        and isinstance(value[0], str)
        and isinstance(value[1], str)
        and (value[2] is None or isinstance(value[2], int))
        and isinstance(value[3], dict)
        and all(isinstance(key, str) for key in value[3])
    ):
        # A newer release's error says nothing that this one can promise.
        cls = _tree(Error).get(value[0], OutcomeUnknown)
        details = {key: item for key, item in value[3].items() if key not in ("code", "message", "self")}
        return cls(value[1], code=value[2], **details)
    return MalformedMessage("malformed error value", what=repr(value)[:80])
