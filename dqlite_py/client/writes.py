"""Writes of a program: each has a key, so that a repeated one takes effect once. Loop thread.

The keys are of sessions that this process opened, not of a node's: they outlive the node that was asked first.
"""

from __future__ import annotations

from typing import Any

from dqlite_py.client.attempts import Attempts
from dqlite_py.client.link import Link
from dqlite_py.errors import Error, NeverApplied, Outcome, OutcomeUnknown, SessionExpired
from dqlite_py.gateway import Once, UnitResult
from dqlite_py.model import WriteKey
from dqlite_py.resultcodes import SESSION_EXPIRED


async def execute(link: Link, database: str, statements: bytes, timeout_s: float, once: Once) -> UnitResult:
    """See Gateway.execute_unit. Cancelled: the outcome is not known."""
    body = {"database": database, "body": statements, "once": False}
    attempts = Attempts(link, timeout_s, writes=True, repeats=bool(once))
    if not once:
        return await attempts.ask("sql.execute", body, link.read_unit)
    if isinstance(once, WriteKey):
        try:
            return await attempts.ask("sql.execute", {**body, "key": [*once]}, link.read_unit)
        except OutcomeUnknown as error:
            raise with_key(error, once) from None
    key = link.sessions.take(database)
    try:
        return await _execute(link, attempts, key, body)
    except SessionExpired as error:
        if attempts.is_uncertain or error.code != SESSION_EXPIRED:
            raise
        # The key is new, and so is the write: certainly not applied.
        key = link.sessions.fresh(_log_time_us(error))
    try:
        return await _execute(link, attempts, key, body)
    except SessionExpired as error:
        if attempts.is_uncertain:
            raise
        raise NeverApplied(f"the write did not happen: {error.message}") from None


async def _execute(link: Link, attempts: Attempts, key: WriteKey, body: dict[str, Any]) -> UnitResult:
    """Ask by the key, and give it back when the outcome is known."""
    try:
        result = await attempts.ask("sql.execute", {**body, "key": [*key]}, link.read_unit)
    except Error as error:
        if isinstance(error, OutcomeUnknown):
            raise with_key(error, key) from None
        if error.outcome is not Outcome.UNKNOWN:
            link.sessions.give_back(body["database"], key)
        raise
    link.sessions.give_back(body["database"], key)
    return result


async def resolve(link: Link, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
    """See Gateway.resolve. Whatever stands in the way of an answer leaves the outcome unknown."""
    attempts = Attempts(link, timeout_s, writes=True)
    attempts.is_uncertain = True
    try:
        return await attempts.ask("sql.resolve", {"database": database, "key": [*key]}, link.read_unit)
    except OutcomeUnknown as error:
        raise with_key(error, key) from None


def _log_time_us(error: SessionExpired) -> int:
    told = error.details.get("log_time_us")
    return told if type(told) is int and 0 <= told < 2**62 else 0


def with_key(error: OutcomeUnknown, key: WriteKey) -> OutcomeUnknown:
    """What the caller hears when nothing is known; with the key, by which it may ask again."""
    return OutcomeUnknown(error.message, **{**error.details, **key._asdict()})
