"""Client sessions, so that a write sent again takes effect once: sessions.c, where the table and the rules are told.

An entry is planned once, before its first pass; a pass fills in results; `write` takes part in the transaction.
Until `commit` the plan is beside the state, so that nothing needs to be undone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

import apsw

from dqlite_py.limits import (
    SESSION_AHEAD_US,
    SESSION_EVICTIONS_MAX,
    SESSION_KEEP_US,
    SESSION_RESULT_BYTES_MAX,
    SESSION_ROW_BYTES_MAX,
    SESSION_ROWS_BYTES_MAX,
    SESSIONS_MAX,
)
from dqlite_py.resultcodes import NEVER_APPLIED, SESSION_EXPIRED, SESSION_SUPERSEDED
from dqlite_py.storage.python_engine.msgpack import ItemReader, ItemWriter, Kind
from dqlite_py.storage.python_engine.payload import SESSION_BYTES, Payload, Unit
from dqlite_py.storage.python_engine.session_rows import Damaged, SessionRows
from dqlite_py.storage.python_engine.statements import SqlError

_HEAD_BYTES: Final = SESSION_BYTES + 12  # session, sequence, size
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_SUPERSEDED: Final = (
    b"the session has gone on to a newer write: whether this one happened is not known any more"
)
_VOID: Final = b"the write has not happened and never will: its key is void"
_EXPIRED: Final = (
    b"the write's key is out of the time for which keys are remembered (log time %d us)"  # of the entry
)


class Fate(IntEnum):
    """What becomes of a unit."""

    PLAIN = 0  # has no session: executed
    EXECUTED = 1  # executed, its result kept
    VOID = 2  # a fence of a write that has not come: its refusal is kept
    KEPT = 3  # was there before: the result in the table is the answer
    REPEATED = 4  # the same, and it was in this entry
    SUPERSEDED = 5
    EXPIRED = 6


_KEPT_FATES: Final = (Fate.EXECUTED, Fate.VOID)


class _Newest(NamedTuple):
    """The newest write of a session, and where its result is. In a plan: `row` 0, `offset` the unit's position."""

    sequence: int
    row: int
    offset: int
    size: int


@dataclass(slots=True)
class _Row:
    now_us: int
    size: int
    sessions: set[bytes] = field(default_factory=set)  # whose newest result is in this row


class Plan:
    """Of one entry."""

    def __init__(self, payload: Payload) -> None:
        self.now_us = payload.now_us
        self.units = payload.units
        self.fates: list[Fate] = []
        self.answers: dict[int, _Newest] = {}  # by position: where the answer of KEPT and REPEATED is
        self.newest: dict[bytes, _Newest] = {}  # of the sessions that go on
        self.left: dict[int, int] = {}  # sessions that leave a row
        self.dead: list[int] = []  # rows that all leave
        self.added = 0  # new sessions
        self.row = bytearray()
        self.places: dict[int, tuple[int, int]] = {}  # by position: offset and size of the result in the row
        self.dropped: list[int] = []
        self.horizon = 0

    def is_kept(self, position: int) -> bool:
        return self.fates[position] in _KEPT_FATES

    @property
    def has_row(self) -> bool:
        """Whether the entry leaves a row, which then shows its index."""
        return bool(self.newest)


class Sessions:
    """The sessions of one database; `load` before anything else."""

    def __init__(self, db: int) -> None:
        self._table = SessionRows(db)
        self._newest: dict[bytes, _Newest] = {}
        self._rows: dict[int, _Row] = {}  # in log order
        self._size = 0
        self._horizon = 0

    # -- at open --------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the table of a database that was just opened; raises SqlError and Damaged."""
        for index, now_us, results in self._table.load():
            self._load_row(index, now_us, results)
        if not all(row.sessions for row in self._rows.values()):
            raise Damaged("a row that no session needs")

    def _load_row(self, index: int, now_us: int, results: bytes) -> None:
        if index == 0:
            self._horizon = int.from_bytes(results, "big", signed=True) if len(results) == 8 else 0
            if self._horizon <= 0:
                raise Damaged("a horizon that is no sequence")
            return
        if index < 0:
            raise Damaged("a negative log index")
        if not results:
            raise Damaged("a row without results")
        if len(self._rows) == SESSIONS_MAX:
            raise Damaged("more rows than there may be")
        self._rows[index] = _Row(now_us, len(results))
        self._size += len(results)
        at = 0
        while at < len(results):
            head = results[at : at + _HEAD_BYTES]
            at += _HEAD_BYTES
            size = int.from_bytes(head[-4:], "big")
            if len(head) < _HEAD_BYTES or size == 0 or len(results) - at < size:
                raise Damaged("a result that is cut off")
            sequence = int.from_bytes(head[SESSION_BYTES:-4], "big")
            self._load_result(head[:SESSION_BYTES], _Newest(sequence, index, at, size))
            at += size

    def _load_result(self, session: bytes, newest: _Newest) -> None:
        known = self._newest.get(session)
        if known is None:
            if len(self._newest) == SESSIONS_MAX:
                raise Damaged("more sessions than there may be")
        else:
            self._rows[known.row].sessions.discard(session)
        if not (known.sequence if known else 0) < newest.sequence <= _INT64_MAX:
            raise Damaged("a session whose sequence does not grow")
        self._newest[session] = newest
        self._rows[newest.row].sessions.add(session)

    @property
    def is_new(self) -> bool:
        """The transaction at hand creates the table."""
        return self._table.is_new

    def close(self) -> None:
        self._table.close()

    # -- planning -------------------------------------------------------------------------------------

    def plan(self, payload: Payload) -> Plan:
        """Decide the fate of each unit, which depends on the state and on the units before it only."""
        plan = Plan(payload)
        for position, unit in enumerate(payload.units):
            plan.fates.append(self._plan_unit(plan, position, unit))
        return plan

    def _plan_unit(self, plan: Plan, position: int, unit: Unit) -> Fate:
        if unit.session is None:
            return Fate.PLAIN
        known = plan.newest.get(unit.session) or self._newest.get(unit.session)
        if known is not None and unit.sequence < known.sequence:
            return Fate.SUPERSEDED
        if known is not None and unit.sequence == known.sequence:
            plan.answers[position] = known
            return Fate.KEPT if known.row else Fate.REPEATED
        if (known is None and unit.sequence <= self._horizon) or unit.sequence > min(
            plan.now_us + SESSION_AHEAD_US, _INT64_MAX
        ):
            return Fate.EXPIRED
        if known is None:
            plan.added += 1
        elif known.row:
            plan.left[known.row] = plan.left.get(known.row, 0) + 1
            if plan.left[known.row] == len(self._rows[known.row].sessions):
                plan.dead.append(known.row)
        plan.newest[unit.session] = _Newest(unit.sequence, 0, position, 0)
        return Fate.VOID if unit.digest is None and not unit.body else Fate.EXECUTED

    # -- a pass ---------------------------------------------------------------------------------------

    def answer(self, plan: Plan, position: int, results: ItemWriter) -> None:
        """Put the result of a unit whose fate is not to be executed; raises SqlError."""
        fate = plan.fates[position]
        if fate is Fate.KEPT:
            if not results.discard:
                results.put_raw(self._find(plan.units[position], plan.answers[position]))
        elif fate is Fate.REPEATED:
            offset, size = plan.places[plan.answers[position].offset]
            results.put_raw(plan.row[offset : offset + size])
        elif fate is Fate.SUPERSEDED:
            _put_refusal(results, SESSION_SUPERSEDED, _SUPERSEDED)
        elif fate is Fate.EXPIRED:
            _put_refusal(results, SESSION_EXPIRED, _EXPIRED % plan.now_us)
        else:
            _put_refusal(results, NEVER_APPLIED, _VOID)

    def _find(self, unit: Unit, newest: _Newest) -> bytes:
        """The answer that an earlier entry gave. The table is read: memory has only the place."""
        row = self._table.find(newest.row)
        start, end = newest.offset - _HEAD_BYTES, newest.offset + newest.size
        if row is None or len(row) < end or not row[start:].startswith(_key_of(unit)):
            raise SqlError(apsw.SQLITE_CORRUPT, b"_dqlite_sessions lacks a result")
        return row[newest.offset : end]

    def keep(self, plan: Plan, position: int, result: bytes) -> None:
        """Keep the result of a unit."""
        start = len(plan.row)
        is_large = (
            len(result) > SESSION_RESULT_BYTES_MAX
            or start + _HEAD_BYTES + len(result) > SESSION_ROW_BYTES_MAX
        )
        if is_large and result[1] == 0:  # not an error
            result = _summary(result)
        plan.row += _key_of(plan.units[position]) + len(result).to_bytes(4, "big") + result
        plan.places[position] = (start + _HEAD_BYTES, len(result))

    # -- the end of a pass ----------------------------------------------------------------------------

    def write(self, plan: Plan, index: int) -> int:
        """Write what the entry leaves; an SQLite code."""
        self._choose_dropped(plan)
        code = apsw.SQLITE_OK
        for dropped in plan.dropped:  # first what goes, so that what comes takes its pages
            code = code or self._table.remove(dropped)
        if plan.horizon != self._horizon:
            code = code or self._table.insert(0, 0, plan.horizon.to_bytes(8, "big"))
        if plan.has_row:
            code = code or self._table.insert(index, plan.now_us, bytes(plan.row))
        return code

    def _choose_dropped(self, plan: Plan) -> None:
        """Rows left by their sessions; what is forgotten for its age, or for those that came after it."""
        keep_from_us = max(plan.now_us - SESSION_KEEP_US, _INT64_MIN)
        sessions = len(self._newest) + plan.added
        size = self._size + len(plan.row) - sum(self._rows[index].size for index in plan.dead)
        plan.dropped = list(plan.dead)
        plan.horizon = self._horizon
        for index, row in self._rows.items():
            staying = row.sessions - plan.newest.keys()
            if not staying:
                continue
            if len(plan.dropped) - len(plan.dead) == SESSION_EVICTIONS_MAX or (
                row.now_us >= keep_from_us and sessions <= SESSIONS_MAX and size <= SESSION_ROWS_BYTES_MAX
            ):
                return
            plan.horizon = max(plan.horizon, *(self._newest[session].sequence for session in staying))
            sessions -= len(staying)
            size -= row.size
            plan.dropped.append(index)

    def commit(self, plan: Plan, index: int) -> None:
        """COMMIT returned."""
        self._table.commit()
        self._horizon = plan.horizon
        for session in plan.newest:
            known = self._newest.get(session)
            if known is not None:
                self._rows[known.row].sessions.discard(session)
        for dropped in plan.dropped:
            row = self._rows.pop(dropped)
            self._size -= row.size
            for session in row.sessions:
                del self._newest[session]
        if plan.has_row:
            self._rows[index] = _Row(plan.now_us, len(plan.row), set(plan.newest))
            self._size += len(plan.row)
        for session, newest in plan.newest.items():
            self._newest[session] = _Newest(newest.sequence, index, *plan.places[newest.offset])

    def undo(self) -> None:
        """The transaction was rolled back."""
        self._table.undo()


def _key_of(unit: Unit) -> bytes:
    return (unit.session or b"") + unit.sequence.to_bytes(8, "big")


def _put_refusal(results: ItemWriter, code: int, message: bytes) -> None:
    results.put_array(3)
    results.put_int(code)
    results.put_text(message)
    results.put_int(0)


def _skip(reader: ItemReader) -> None:
    left = 1
    while left:
        kind, value = reader.read()
        left -= 1
        if kind in (Kind.ARRAY, Kind.MAP):
            assert isinstance(value, int)
            left += value if kind is Kind.ARRAY else 2 * value


def _summary(result: bytes) -> bytes:
    """[0, nil, rows changed by all statements (-1: none of them counts rows), last_insert_rowid]."""
    reader = ItemReader(result)  # [0, [[rowcount, rowid, columns, rows], ...]]
    reader.read()
    reader.read()
    count = reader.read().value
    assert isinstance(count, int)
    rowcount, rowid = -1, 0
    for _ in range(count):
        reader.read()
        changed, inserted = reader.read().value, reader.read().value
        assert isinstance(changed, int)
        assert isinstance(inserted, int)
        if changed >= 0:
            rowcount = max(rowcount, 0) + changed
        rowid = inserted
        _skip(reader)
        _skip(reader)
    summary = ItemWriter()
    summary.put_array(4)
    summary.put_int(0)
    summary.put_nil()
    summary.put_int(rowcount)
    summary.put_int(rowid)
    return summary.content()
