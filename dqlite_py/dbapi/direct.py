"""The usual statement, one call of the gateway and nothing else: without steps, which cost as much again.

For sync connections; what a statement does is Core's. Anything else goes through Core.execute.
"""

from __future__ import annotations

from typing import Any

from dqlite_py.command import encode_statements
from dqlite_py.dbapi.core import Core, only
from dqlite_py.dbapi.parameters import bind
from dqlite_py.dbapi.results import Result
from dqlite_py.dbapi.statements import Known
from dqlite_py.gateway import QueryResult, UnitResult
from dqlite_py.sqltext import StatementKind


def is_direct(core: Core, known: Known) -> bool:
    """A read, or a write that is not in a transaction and begins none."""
    return (
        known.is_plain
        and core.transaction is None
        and core.trace is None
        and not (known.is_dml and core.begins_implicitly())
    )


def execute(core: Core, known: Known, sql: str, params: Any) -> Result | None:
    """As Core.execute for what `is_direct`, with the connection's settings."""
    values = bind(known.parameters, params)
    gateway: Any = core.gateway
    settings = core.settings
    if known.kind is StatementKind.READ:
        found: QueryResult = gateway.query(
            core.database, sql, values, core.freshness(), settings.timeout_s, core.interrupt
        )
        return core.found(found, None)
    body = encode_statements(((sql, values),))
    unit: UnitResult = gateway.execute_unit(core.database, body, settings.timeout_s, once=settings.once)
    core.saw(unit.log_index)
    return core.result(known, only(sql, unit))
