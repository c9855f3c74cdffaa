"""The compliance suite's connections: to one embedded node, that lives as long as the run.

SQLAlchemy's pytest plugin takes the run over: it has a process of its own, by test_sqlalchemy_suite.py one level up.
"""

from __future__ import annotations

import tempfile
from typing import Any

import pytest

pytest.register_assert_rewrite("sqlalchemy.testing.assertions")

from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.testing import provision
from sqlalchemy.testing.plugin.pytestplugin import *  # noqa: F403
from sqlalchemy.testing.plugin.pytestplugin import pytest_sessionfinish as sqlalchemy_sessionfinish
from sqlalchemy.testing.plugin.pytestplugin import pytest_sessionstart as sqlalchemy_sessionstart

import dqlite_py
from dqlite_py import aio
from dqlite_py.sqlalchemy.dialect import DqliteDialect

folder = tempfile.TemporaryDirectory(prefix="sqlalchemy-suite-")
node = dqlite_py.Node(folder.name)


def pytest_sessionstart(session: pytest.Session) -> None:
    node.start()
    node.wait_ready()
    sqlalchemy_sessionstart(session)


def pytest_sessionfinish(session: pytest.Session) -> None:
    sqlalchemy_sessionfinish(session)
    node.stop()
    folder.cleanup()


@event.listens_for(DqliteDialect, "do_connect")
def connect(dialect: DqliteDialect, _record: object, arguments: Any, _options: object) -> Any:
    database = arguments[0].database
    if dialect.is_async:
        return dialect.loaded_dbapi.connect(
            async_creator_fn=lambda: aio.connect(node, database, busy_timeout=1.0)
        )
    return node.connect(database, check_same_thread=False, busy_timeout=1.0)


@provision.generate_driver_url.for_db("dqlitepy")
def generate_driver_url(url: URL, _driver: str, _query: str | None) -> URL:
    return url


@provision.upsert.for_db("dqlitepy")
def upsert(
    _config: object,
    table: Any,
    returning: Any,
    *,
    set_lambda: Any = None,
    sort_by_parameter_order: bool = False,
    index_elements: Any = None,
) -> Any:
    from sqlalchemy.dialects.sqlite import insert

    statement = insert(table)
    if set_lambda is None:
        statement = statement.on_conflict_do_nothing()
    else:
        statement = statement.on_conflict_do_update(set_=set_lambda(statement.excluded))
    return statement.returning(*returning, sort_by_parameter_order=sort_by_parameter_order)
