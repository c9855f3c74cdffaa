"""What each control request does with the node. One `Session` per control connection, on its thread.

f         arguments               ok
execute   sql, params             {columns, rows, rowcount, lastrowid, token}; BEGIN, COMMIT, ROLLBACK too
unit      statements [[sql, params], ...], key   a list of those, all or nothing; `key` (or null) for repetitions
key       -                       a new key: [session in hex, sequence]
query     sql, params, level, token, max_staleness   as execute, at a read level; see docs/read-levels.md
status    -                       the node's status, as Node.status()
members   -                       [{id, address, role, ...}]
remove    id                      null
transfer  target (id or null)     the new leader's id
change    method, body            null; methods of CHANGES, as programs reach them
compact   -                       the snapshot's log index
shutdown  -                       null; the process then stops cleanly
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import dqlite_py
from jepsen.server.protocol import (
    FAILED,
    TIMEOUT_S_MAX,
    UNKNOWN,
    MalformedRequest,
    decode_params,
    error_answer,
)

DATABASE: Final = "app"
CHANGES: Final = ("assign", "describe", "leave", "roles")
_DEFAULT_TIMEOUT_S: Final = 10.0


class Session:
    """Runs requests of one connection; `answer` never raises."""

    def __init__(self, node: dqlite_py.Node, on_shutdown: Callable[[], None]) -> None:
        self._node = node
        self._on_shutdown = on_shutdown
        self._connection: dqlite_py.Connection | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        try:
            handler, timeout_s = self._find(request)
            connection = self._connect(timeout_s) if handler in _SQL else None
        except MalformedRequest as error:
            return error_answer("MalformedRequest", str(error), FAILED)
        except dqlite_py.Error as error:
            # Only the database was asked for; whatever became of that, the request did not begin.
            return error_answer(type(error).__name__, str(error), FAILED)
        try:
            return {"ok": handler(self, request, timeout_s, connection)}
        except MalformedRequest as error:
            return error_answer("MalformedRequest", str(error), FAILED)
        except dqlite_py.Error as error:
            outcome = FAILED if error.outcome is dqlite_py.Outcome.NOT_APPLIED else UNKNOWN
            return error_answer(type(error).__name__, str(error), outcome)
        except Exception as error:  # noqa: BLE001  # the client must learn that nothing is known
            return error_answer(type(error).__name__, str(error), UNKNOWN)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _find(self, request: Mapping[str, Any]) -> tuple[Handler, float]:
        name = request.get("f")
        handler = HANDLERS.get(name) if isinstance(name, str) else None
        if handler is None:
            raise MalformedRequest(f"f is one of {', '.join(HANDLERS)}, not {name!r:.80}")
        timeout_s = request.get("timeout_s", _DEFAULT_TIMEOUT_S)
        if (
            isinstance(timeout_s, bool)
            or not isinstance(timeout_s, (int, float))
            or not 0 < timeout_s <= TIMEOUT_S_MAX
        ):
            raise MalformedRequest(
                f"timeout_s is a number above 0, at most {TIMEOUT_S_MAX:g}, not {timeout_s!r:.80}"
            )
        return handler, float(timeout_s)

    def _connect(self, timeout_s: float) -> dqlite_py.Connection:
        if self._connection is None:
            self._connection = self._node.connect(DATABASE, isolation_level=None, timeout=timeout_s)
        self._connection.timeout = timeout_s
        return self._connection

    def execute(
        self, request: Mapping[str, Any], _timeout_s: float, connection: dqlite_py.Connection | None
    ) -> Any:
        sql, params = _statement([request.get("sql"), request.get("params", [])])
        assert connection is not None
        return _result(connection, connection.execute(sql, params, read_level="linearizable"))

    def query(
        self, request: Mapping[str, Any], _timeout_s: float, connection: dqlite_py.Connection | None
    ) -> Any:
        sql, params = _statement([request.get("sql"), request.get("params", [])])
        level = request.get("level", "linearizable")
        bound, token = request.get("max_staleness"), request.get("token")
        assert connection is not None
        if level not in [known.value for known in dqlite_py.ReadLevel]:
            names = ", ".join(known.value for known in dqlite_py.ReadLevel)
            raise MalformedRequest(f"level is one of {names}, not {level!r:.80}")
        if token is not None:
            if not isinstance(token, str):
                raise MalformedRequest(f"a token is a string, not {token!r:.80}")
            connection.session_token = token
        cursor = connection.execute(sql, params, read_level=level, max_staleness=bound)
        return _result(connection, cursor)

    def unit(
        self, request: Mapping[str, Any], _timeout_s: float, connection: dqlite_py.Connection | None
    ) -> Any:
        statements = request.get("statements")
        if not isinstance(statements, list):
            raise MalformedRequest("statements is an array of [sql, params]")
        pairs = [_statement(item) for item in statements]
        key = _key(request.get("key"))
        assert connection is not None
        return [_result(connection, cursor) for cursor in connection.execute_atomic(pairs, key=key)]

    def key(
        self, _request: Mapping[str, Any], _timeout_s: float, connection: dqlite_py.Connection | None
    ) -> Any:
        assert connection is not None
        key = connection.new_key()
        return [key.session.hex(), key.sequence]

    def status(self, _request: Mapping[str, Any], _timeout_s: float, _connection: object) -> Any:
        return self._node.status()

    def members(self, _request: Mapping[str, Any], _timeout_s: float, _connection: object) -> Any:
        return self._node.members()

    def remove(self, request: Mapping[str, Any], timeout_s: float, _connection: object) -> Any:
        self._node.remove_member(_node_id(request.get("id"), "id"), timeout=timeout_s)
        return None

    def transfer(self, request: Mapping[str, Any], timeout_s: float, _connection: object) -> Any:
        target = request.get("target")
        chosen = None if target is None else _node_id(target, "target")
        return self._node.transfer_leadership(chosen, timeout=timeout_s)

    def change(self, request: Mapping[str, Any], timeout_s: float, _connection: object) -> Any:
        name, body = request.get("method"), request.get("body")
        if name not in CHANGES or not isinstance(body, dict):
            raise MalformedRequest(
                f"method is one of {', '.join(CHANGES)} and body an object, not {name!r:.80}"
            )
        method = self._node._running().programs.get(name)
        if method is None:
            raise dqlite_py.NodeStopped("the node is starting")
        # A coroutine, as these handlers are; no public method of the node, as few programs want it.
        asked: Any = method.handler(None, {**body, "timeout_s": timeout_s})
        self._node._run(asked, timeout_s + 1.0)
        return None

    def compact(self, _request: Mapping[str, Any], timeout_s: float, _connection: object) -> Any:
        return self._node.compact(timeout=timeout_s)

    def shutdown(self, _request: Mapping[str, Any], _timeout_s: float, _connection: object) -> Any:
        self._on_shutdown()
        return None


Handler = Callable[[Session, Mapping[str, Any], float, "dqlite_py.Connection | None"], Any]
HANDLERS: Final[dict[str, Handler]] = {
    "execute": Session.execute,
    "unit": Session.unit,
    "key": Session.key,
    "query": Session.query,
    "status": Session.status,
    "members": Session.members,
    "remove": Session.remove,
    "transfer": Session.transfer,
    "change": Session.change,
    "compact": Session.compact,
    "shutdown": Session.shutdown,
}
_SQL: Final[tuple[Handler, ...]] = (Session.execute, Session.unit, Session.key, Session.query)


def _statement(item: Any) -> tuple[str, Any]:
    if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str):
        raise MalformedRequest(f"a statement is sql (a string) and params, not {item!r:.80}")
    return item[0], decode_params(item[1])


def _node_id(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MalformedRequest(f"{name} is a node id (an integer), not {value!r:.80}")
    return value


def _key(value: Any) -> dqlite_py.WriteKey | None:
    if value is None:
        return None
    try:
        session, sequence = value
        return dqlite_py.WriteKey(bytes.fromhex(session), int(sequence))
    except (TypeError, ValueError):
        raise MalformedRequest(f"a key is [session in hex, sequence], not {value!r:.80}") from None


def _result(connection: dqlite_py.Connection, cursor: dqlite_py.Cursor) -> dict[str, Any]:
    columns = None if cursor.description is None else [column[0] for column in cursor.description]
    return {
        "columns": columns,
        "rows": [] if columns is None else [list(row) for row in cursor.fetchall()],
        "rowcount": cursor.rowcount,
        "lastrowid": cursor.lastrowid,
        "token": connection.session_token,
    }
