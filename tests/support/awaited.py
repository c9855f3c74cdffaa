"""An async connection used as if it were a sync one, so that one test holds both to the same behaviour."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from dqlite_py import aio, dbapi
from tests.support.fakegateway import AsyncFakeGateway


class Awaited:
    """Wraps an AsyncConnection or AsyncCursor; each call runs the loop until it is over."""

    def __init__(self, runner: asyncio.Runner, inner: Any) -> None:
        object.__setattr__(self, "_runner", runner)
        object.__setattr__(self, "inner", inner)

    def _wrapped(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            value = self._runner.run(_of(value))
        if value is self.inner:
            return self
        if isinstance(value, list):
            return [self._wrapped(item) for item in value]
        return Awaited(self._runner, value) if isinstance(value, aio.AsyncCursor) else value

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if name.startswith("_") or not inspect.ismethod(value):
            return self._wrapped(value)
        return lambda *args, **options: self._wrapped(value(*args, **options))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("isolation_level", "autocommit"):
            self._wrapped(getattr(self.inner, f"set_{name}")(value))
        else:
            setattr(self.inner, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.inner, name)

    def __enter__(self) -> Any:
        return self._wrapped(self.inner.__aenter__())

    def __exit__(self, *exception: Any) -> None:
        self._wrapped(self.inner.__aexit__(*exception))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self._wrapped(self.inner.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def iterdump(self, **options: Any) -> list[str]:
        async def lines() -> list[str]:
            return [line async for line in self.inner.iterdump(**options)]

        found: list[str] = self._runner.run(lines())
        return found

    def __repr__(self) -> str:
        return repr(self.inner)


async def _of(value: Any) -> Any:
    try:
        return await value
    except StopAsyncIteration as error:
        raise StopAsyncIteration from error


def connector(kind: str, runner: asyncio.Runner) -> Callable[..., Any]:
    """`connect` of dbapi, or of aio over a sync gateway."""
    if kind == "sync":
        return dbapi.connect

    def connect(gateway: Any, database: str, **options: Any) -> Awaited:
        async def connected() -> Any:
            return await aio.connect(AsyncFakeGateway(gateway), database, **options)

        return Awaited(runner, runner.run(connected()))

    return connect
