"""CPython's own tests of sqlite3, loaded with this package's database API in the place of the module `sqlite3`.

`:memory:` is a new database of the gateway in use, any other name one of the running test's own; `timeout` is
sqlite3's: how long to wait for other writers.
"""

from __future__ import annotations

import importlib
import os
import sqlite3
import sys
import types
import unittest
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from dqlite_py import dbapi
from dqlite_py.dbapi import Connection as RealConnection

MODULES = (
    "test_backup",
    "test_dbapi",
    "test_dump",
    "test_factory",
    "test_hooks",
    "test_regression",
    "test_transactions",
    "test_types",
    "test_userfunctions",
)
PACKAGE = "test.test_sqlite3"


class World:
    """The gateway in use, and the databases of the running test."""

    gateway: Any = None
    test = 0
    databases = 0
    opened: ClassVar[set[str]] = set()

    @classmethod
    def name(cls, database: Any) -> str:
        if isinstance(database, bytes) or database in (":memory:", ""):
            cls.databases += 1
            return f"m{cls.databases}"
        return f"t{cls.test}-{zlib.crc32(os.fsencode(database))}"


class Connection(RealConnection):
    """Takes sqlite3's arguments."""

    def __init__(
        self,
        database: Any,
        timeout: float = 5.0,
        detect_types: int = 0,
        isolation_level: str | None = "",
        check_same_thread: bool = True,
        factory: Any = None,
        cached_statements: int = 128,
        uri: bool = False,
        **options: Any,
    ) -> None:
        if self.is_closed is False:
            self.close()  # __init__ called again
        name = World.name(database)
        World.gateway.open_database(name, 10.0)
        World.opened.add(name)
        super().__init__(
            World.gateway,
            name,
            busy_timeout=timeout,
            detect_types=detect_types,
            isolation_level=isolation_level,
            check_same_thread=check_same_thread,
            cached_statements=cached_statements,
            uri=uri,
            **options,
        )


def connect(database: Any, *args: Any, **options: Any) -> Any:
    factory = args[4] if len(args) > 4 else options.get("factory", Connection)
    return factory(database, *args, **options)


def _module() -> types.ModuleType:
    shim = types.ModuleType("sqlite3")
    # Constants of functions that are not offered; their tests say so themselves.
    for name in dir(sqlite3):
        if name.startswith("SQLITE_"):
            setattr(shim, name, getattr(sqlite3, name))
    for name in dbapi.__all__:
        setattr(shim, name, getattr(dbapi, name))
    shim.__dict__.update(connect=connect, Connection=Connection, version="", version_info=())
    return shim


def is_there() -> bool:
    """Whether this Python came with its tests."""
    return importlib.util.find_spec("test") is not None and importlib.util.find_spec(PACKAGE) is not None


@contextmanager
def _in_its_place() -> Iterator[None]:
    def ours(name: str) -> bool:
        return name in ("sqlite3", "sqlite3.dbapi2") or name.startswith(PACKAGE)

    before = {name: module for name, module in sys.modules.items() if ours(name)}
    for name in before:
        del sys.modules[name]
    sys.modules["sqlite3"] = sys.modules["sqlite3.dbapi2"] = _module()
    try:
        yield
    finally:
        for name in [name for name in sys.modules if ours(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def load() -> dict[str, Callable[[], unittest.TestCase]]:
    """Every test by name, `test_dbapi.CursorTests.test_rowcount_select`, with what makes it."""
    found: dict[str, Callable[[], unittest.TestCase]] = {}
    with _in_its_place():
        for name in MODULES:
            module = importlib.import_module(f"{PACKAGE}.{name}")
            for case in vars(module).values():
                if isinstance(case, type) and issubclass(case, unittest.TestCase):
                    if case.__module__ != module.__name__:
                        continue
                    for method in unittest.defaultTestLoader.getTestCaseNames(case):
                        found[f"{name}.{case.__name__}.{method}"] = _maker(case, method)
    return found


def _maker(case: type[unittest.TestCase], method: str) -> Callable[[], unittest.TestCase]:
    return lambda: case(method)


def run(make: Callable[[], unittest.TestCase], gateway: Any) -> str:
    """Run one test; returns what went wrong, "" when nothing did, "skipped: …" when it skipped itself."""
    World.gateway = gateway
    World.test += 1
    result = unittest.TestResult()
    try:
        with _in_its_place():
            make().run(result)
    finally:
        World.gateway = None
    for _case, text in [*result.errors, *result.failures]:
        return str(text)
    for _case, reason in result.skipped:
        return f"skipped: {reason}"
    return ""
