"""Every error of the tree has a code and a text for clients, and the outcome is never told wrongly."""

from __future__ import annotations

import pytest

from dqlite_py import errors
from dqlite_py.errors import Error, Outcome, no_such_database
from dqlite_py.server.dqlite.failures import failure_of
from dqlite_py.wire.dqlite.responses import Failure

NOT_DONE = (10250, "not leader: why")
SENT_AGAIN = frozenset({0, 5, 12, 8202, 8458, 10250, 10506})
"""By go-dqlite and programs that use it, outside a transaction; and whatever says "database is locked"."""


def classes(cls: type[Error] = Error) -> set[type[Error]]:
    return {cls}.union(*(classes(sub) for sub in cls.__subclasses__()))


@pytest.mark.parametrize("cls", sorted(classes(), key=lambda cls: cls.__name__))
def test_what_may_have_happened_is_never_called_undone(cls: type[Error]) -> None:
    code, text = failure_of(cls("why"))
    assert (code == 10506) == (cls.outcome is Outcome.UNKNOWN)
    assert "why" in text
    assert code != 0  # clients take it for a broken connection


@pytest.mark.parametrize("cls", sorted(classes(), key=lambda cls: cls.__name__))
def test_what_may_have_happened_by_itself_is_sent_again_by_nobody(cls: type[Error]) -> None:
    code, text = failure_of(cls("why: database is locked"), is_alone=True)
    assert code != 10506
    if cls.outcome is not Outcome.NOT_APPLIED:
        assert code not in SENT_AGAIN
        assert "database is locked" not in text


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (errors.NotLeader("why"), Failure(*NOT_DONE)),
        (errors.NoLeader("why"), Failure(*NOT_DONE)),
        (errors.NodeStopped("why"), Failure(*NOT_DONE)),
        (errors.Overwritten("why"), Failure(*NOT_DONE)),
        (errors.OutcomeUnknown("why"), Failure(10506, "leadership lost: why")),
        (errors.ResultNotKept("why"), Failure(10, "why")),
        (
            errors.IntegrityError("UNIQUE constraint failed: t.a", code=2067),
            Failure(2067, "UNIQUE constraint failed: t.a"),
        ),
        (errors.DatabaseLocked("database is locked", code=5), Failure(5, "database is locked")),
        (errors.SnapshotConflict("database is locked", code=517), Failure(517, "database is locked")),
        (errors.Busy("queue"), Failure(5, "queue")),
        (errors.StorageFull("disk"), Failure(13, "disk")),
        (errors.RequestTooLarge("large"), Failure(18, "large")),
        (errors.TransactionEnded("idle"), Failure(516, "idle")),
        (errors.NotSupportedError("no"), Failure(23, "no")),
        (errors.ProgrammingError("near"), Failure(1, "near")),
        (no_such_database("app"), Failure(12, "no database opened")),
    ],
)
def test_codes(error: Error, failure: Failure) -> None:
    assert failure_of(error) == failure
