"""Engines for a node in this process, and `create_engine` for URLs that list several members.

Engines are made on any thread. Each of their connections is one of `node.connect(…)`; a pool hands it from thread to
thread, which is why it does not check for its thread.
"""

from __future__ import annotations

from typing import Any, Protocol

import sqlalchemy
from sqlalchemy.engine import URL, Engine
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from dqlite_py import aio
from dqlite_py.command import check_database_name
from dqlite_py.sqlalchemy.urls import make_url


class EmbeddedNode(Protocol):
    """What is asked of a node (dqlite_py.Node)."""

    def connect(self, database: str, **options: Any) -> Any: ...


def engine_for(
    node: EmbeddedNode, database: str, *, connect_args: dict[str, Any] | None = None, **options: Any
) -> Engine:
    """An engine on a node in this process. The database is created with the first connection if it does not exist.

    `connect_args` go to `node.connect` (timeout, read_level, …), `options` to `create_engine` (begin_mode,
    isolation_level, pool_size, …). Dispose of the engine BEFORE the node is stopped. Raises InterfaceError for a bad
    database name.
    """
    arguments = {"check_same_thread": False, **(connect_args or {})}
    return sqlalchemy.create_engine(
        _url("dqlitepy", database), creator=lambda: node.connect(database, **arguments), **options
    )


def async_engine_for(
    node: aio.HasAsyncGateway, database: str, *, connect_args: dict[str, Any] | None = None, **options: Any
) -> AsyncEngine:
    """As `engine_for`, for asyncio; used on one event loop. `await engine.dispose()` BEFORE the node is stopped."""
    arguments = dict(connect_args or {})
    return sqlalchemy_asyncio.create_async_engine(
        _url("dqlitepy+aio", database),
        async_creator=lambda: aio.connect(node, database, **arguments),
        **options,
    )


def create_engine(url: str | URL, **options: Any) -> Engine:
    """`sqlalchemy.create_engine`, for URLs that list several members as well: `dqlitepy://h1:9001,h2:9001/app`."""
    return sqlalchemy.create_engine(make_url(url), **options)


def create_async_engine(url: str | URL, **options: Any) -> AsyncEngine:
    """As `create_engine`, for asyncio."""
    return sqlalchemy_asyncio.create_async_engine(make_url(url), **options)


def _url(dialect: str, database: str) -> URL:
    return URL.create(dialect, database=check_database_name(database))
