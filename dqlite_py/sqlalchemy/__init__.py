"""SQLAlchemy 2 on a replicated database: dialects `dqlitepy` and `dqlitepy+aio`, and engines for an embedded node.

    engine = dqlite_py.sqlalchemy.engine_for(node, "app")                       # this process is a member
    engine = sqlalchemy.create_engine("dqlitepy://h1:9001/app?host=h2:9001")    # it is not

Registered with SQLAlchemy by the package's entry points, so that `create_engine` finds them by the URL alone.
docs/sqlalchemy.md tells what differs from SQLAlchemy's sqlite dialect.
"""

from __future__ import annotations

from dqlite_py.sqlalchemy.engines import async_engine_for, create_async_engine, create_engine, engine_for
from dqlite_py.sqlalchemy.urls import make_url

__all__ = ["async_engine_for", "create_async_engine", "create_engine", "engine_for", "make_url"]
