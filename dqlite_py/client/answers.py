"""What nodes answer to sql.* and tx.* requests, checked and made into the records of gateway.py. Pure.

  sql.execute, sql.resolve  [log index, results, log time (us)]
  sql.open                  log time (us); nil of earlier releases
  tx.begin                  [session, sequence], the key of its COMMIT
  tx.run                    [results, is open, decltypes|nil]
  tx.commit, sql.begin_read log index
  sql.query                 [columns, decltypes, rows, log index, has more]
  sql.fetch                 [rows, is last]
`results` are packed as in the log's sessions (docs/ARCHITECTURE.md): [0, [[rowcount, rowid, columns|nil, rows|nil],
...]], or [0, nil, rowcount, rowid] when they were too large to be kept, or [code, message, position].
All raise MalformedMessage.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from dqlite_py.errors import Error, MalformedMessage
from dqlite_py.gateway import QueryResult, Row, StatementResult, UnitResult
from dqlite_py.model import WriteKey
from dqlite_py.resultcodes import error_from_code
from dqlite_py.units import SESSION_BYTES

_TEXT: Final[set[Any]] = {str}
_TEXT_OR_NONE: Final[set[Any]] = {str, type(None)}


def unit_answer(answer: Any) -> tuple[UnitResult, int]:
    """The result and the node's log time. Raises the unit's own error, too."""
    index, packed, log_time_us = _fields(answer, (int, bytes, int), "write")
    result = _unpack(packed)
    if len(result) == 4:
        return UnitResult(index, None, result[2]), log_time_us
    return UnitResult(index, _statements(result)), log_time_us


def open_answer(answer: Any) -> int:
    """The node's log time, 0 when it does not tell."""
    if answer is None:
        return 0
    if type(answer) is not int or not 0 <= answer < 2**63:
        raise MalformedMessage("the node's answer to sql.open is no log time", what="sql.open")
    return answer


def key_answer(answer: Any) -> WriteKey:
    session, sequence = _fields(answer, (bytes, int), "tx.begin")
    if len(session) != SESSION_BYTES or not 0 < sequence < 2**63:
        raise MalformedMessage("the node's answer to tx.begin is no key", what="tx.begin")
    return WriteKey(session, sequence)


def group_answer(answer: Any) -> tuple[list[StatementResult] | Error, bool]:
    """The results or the error of its statements, and whether the transaction is open."""
    decltypes = answer.pop() if type(answer) is list and answer else None
    packed, is_open = _fields(answer, (bytes, bool), "tx.run")
    names = None if decltypes is None else _texts(decltypes, _TEXT_OR_NONE, "decltypes")
    try:
        statements = _statements(_unpack(packed))
    except MalformedMessage:
        raise
    except Error as error:
        return error, is_open
    if names is not None:
        for position in range(len(statements) - 1, -1, -1):  # they are of the last one with rows
            if statements[position].rows is not None:
                statements[position] = statements[position]._replace(decltypes=names)
                break
    return statements, is_open


def query_answer(answer: Any) -> tuple[QueryResult, bool]:
    """The result without its rest, and whether there is one."""
    columns, decltypes, found, index, has_more = _fields(answer, (list, list, list, int, bool), "sql.query")
    names = _texts(columns, _TEXT, "columns")
    return QueryResult(names, _texts(decltypes, _TEXT_OR_NONE, "decltypes"), _rows(found), index), has_more


def piece_answer(answer: Any) -> tuple[list[Row], bool]:
    """Rows, and whether they are the last ones."""
    found, is_last = _fields(answer, (list, bool), "sql.fetch")
    return _rows(found), is_last


def index_answer(answer: Any) -> int:
    """A log index."""
    if type(answer) is not int or not 0 <= answer < 2**63:
        raise MalformedMessage("the node's answer is no log index", what="log index")
    return answer


def bool_answer(answer: Any) -> bool:
    if type(answer) is not bool:
        raise MalformedMessage("the node's answer is neither true nor false", what="answer")
    return answer


def _fields(answer: Any, kinds: tuple[type, ...], what: str) -> Any:
    if type(answer) is not list or tuple(map(type, answer)) != kinds:
        raise MalformedMessage(f"the node's answer ({what}) has the wrong shape", what=what)
    return answer


def _unpack(packed: bytes) -> Any:
    """A unit's results; raises the error in them."""
    try:
        result = msgpack.unpackb(packed, raw=False, use_list=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedMessage(f"a result is not valid: {error}", what="results") from None
    kinds = tuple(map(type, result)) if type(result) is tuple else ()
    if kinds == (int, str, int) and result[0]:
        raise error_from_code(result[0], result[1], statement=result[2])
    if kinds not in ((int, tuple), (int, type(None), int, int)) or result[0]:
        raise MalformedMessage("a result has the wrong shape", what="results")
    return result


def _statements(result: Any) -> list[StatementResult]:
    return [_statement(item) for item in result[1]]


def _statement(item: Any) -> StatementResult:
    if type(item) is tuple and len(item) == 4 and type(item[0]) is int and type(item[1]) is int:
        rowcount, rowid, columns, found = item
        if columns is None and found is None:
            return StatementResult(rowcount, rowid)
        if type(columns) is tuple and type(found) is tuple and all(type(row) is tuple for row in found):
            return StatementResult(rowcount, rowid, _texts([*columns], _TEXT, "columns"), found)
    raise MalformedMessage("a statement's result has the wrong shape", what="results")


def _rows(found: list[Any]) -> list[Row]:
    if not {list}.issuperset(map(type, found)):
        raise MalformedMessage("the node's answer has rows that are none", what="rows")
    return [*map(tuple, found)]


def _texts(found: Any, kinds: set[Any], what: str) -> tuple[Any, ...]:
    if type(found) is not list or not kinds.issuperset(map(type, found)):
        raise MalformedMessage(f"the node's answer has {what} that are no texts", what=what)
    return tuple(found)
