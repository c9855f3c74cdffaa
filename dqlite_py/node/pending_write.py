"""One unit on its way into the log, from the call of a user to its answer.

Made on the caller's thread; afterwards the loop's, but for `give_up`.
"""

from __future__ import annotations

from itertools import starmap
from typing import Any, Final

from dqlite_py.errors import Error, OutcomeUnknown
from dqlite_py.gateway import StatementResult, UnitResult
from dqlite_py.model import WriteKey
from dqlite_py.node.database_worker import unit_error
from dqlite_py.node.proposals import Queued, UnitCallback
from dqlite_py.node.tickets import Deadline
from dqlite_py.units import fence_unit

_SUMMARY_FIELDS: Final = 4


class PendingWrite:
    """`body` is stamped with a key of the node's own sessions when `once`; `unit` is given ready otherwise.

    `callback` hears exactly once: (log index, result), or an error whose outcome is true.
    """

    __slots__ = (
        "body",
        "callback",
        "database",
        "deadline",
        "is_abandoned",
        "is_over",
        "is_uncertain",
        "key",
        "once",
        "queued",
        "unit",
        "was_refused",
        "was_reissued",
    )

    def __init__(
        self,
        database: str,
        body: bytes,
        callback: UnitCallback,
        deadline: Deadline,
        *,
        once: bool = True,
        key: WriteKey | None = None,
        unit: bytes | None = None,
        is_uncertain: bool = False,
    ) -> None:
        self.database = database
        self.body = body
        self.callback = callback
        self.deadline = deadline
        self.once = once
        self.key = key
        self.unit = unit
        self.queued: Queued | None = None
        self.is_uncertain = is_uncertain  # an attempt may have happened: only the log's answer is certain now
        self.was_reissued = False
        self.was_refused = False
        self.is_abandoned = False
        self.is_over = False

    def unknown(self, why: str, missing_database: str | None = None) -> OutcomeUnknown:
        """What the caller hears when its time is over; with the key, by which it may ask again.

        missing_database: the log has answered that it is gone, and with it what is known of the write.
        """
        if self.key is not None and missing_database is not None:
            return OutcomeUnknown(
                f"{why}; whether the write took effect before cannot be told any more",
                missing_database=missing_database,
                **self.key._asdict(),
            )
        if self.key is None:
            return OutcomeUnknown(f"{why}: the write may or may not take effect")
        return OutcomeUnknown(
            f"{why}: the write may or may not take effect; its key tells later",
            session=self.key.session,
            sequence=self.key.sequence,
        )

    def end(self) -> UnitCallback:
        """Over. Returns the callback, to be told; lets go of what knows this one, and of the unit: else only a
        collection of cycles would free it, and there may be MiBs of it."""
        callback, self.callback = self.callback, _heard
        self.is_over, self.queued, self.body, self.unit = True, None, b"", None
        return callback

    def give_up(self) -> Error:
        """On the caller's thread: it waits no longer, and its session is not used again."""
        self.is_abandoned = True  # BEFORE the loop ends the write, or it is over anyway
        return self.unknown(f"no answer within {self.deadline.timeout_s:g} s")


def _heard(_outcome: Any, _error: Error | None) -> None:
    """The callback of a write that is over."""


def unit_result(outcome: tuple[int, Any]) -> UnitResult:
    """The records of a unit's outcome; raises the unit's own error."""
    log_index, result = outcome
    error = unit_error(result)
    if error is not None:
        raise error
    if len(result) == _SUMMARY_FIELDS:  # it took effect before; its results were too large to be kept
        return UnitResult(log_index, None, result[2])
    return UnitResult(log_index, list(starmap(StatementResult, result[1])))


def fence(database: str, key: WriteKey, callback: UnitCallback, deadline: Deadline) -> PendingWrite:
    """Asks what became of the key's write. Whatever stands in the way of that says nothing of the write."""
    return PendingWrite(
        database, b"", callback, deadline, once=False, key=key, unit=fence_unit(key), is_uncertain=True
    )
