"""The asyncio dialect: Core and ORM, streams, many tasks, cancellation, isolation levels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import sqlalchemy
from sqlalchemy import func, insert, inspect, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.ext.asyncio import create_async_engine as create_plain_async_engine
from sqlalchemy.orm import selectinload

from dqlite_py.errors import TransactionEnded
from dqlite_py.sqlalchemy import async_engine_for, create_async_engine
from dqlite_py.sqlalchemy.aio import AioDqliteDialect
from tests.unit.sqlalchemy.bookshop import Author, Base, Book
from tests.unit.sqlalchemy.conftest import FakeNode


@pytest_asyncio.fixture
async def shop(node: FakeNode) -> AsyncIterator[AsyncEngine]:
    engine = async_engine_for(node, "app", pool_size=4, max_overflow=0)  # the gateway has few threads
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Author), [{"name": "Le Guin"}, {"name": "Lem"}])
    yield engine
    await engine.dispose()


async def author_names(engine: AsyncEngine) -> list[str]:
    async with AsyncSession(engine) as session:
        return list(await session.scalars(select(Author.name).order_by(Author.id)))


async def test_sessions(shop: AsyncEngine) -> None:
    async with AsyncSession(shop) as session, session.begin():
        author = await session.get_one(Author, 1, options=[selectinload(Author.books)])
        author.books.append(Book(title="Tehanu"))
        async with session.begin_nested():
            session.add(Author(name="Butler"))
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                session.add(Author(name="Lem"))
    async with AsyncSession(shop) as session:
        session.add(Author(name="undone"))
        await session.flush()
        await session.rollback()
        books = await session.scalars(select(Book.title).join(Author).where(Author.name == "Le Guin"))
        assert books.all() == ["Tehanu"]
    assert await author_names(shop) == ["Le Guin", "Lem", "Butler"]


async def test_many_tasks(shop: AsyncEngine) -> None:
    make = async_sessionmaker(shop)

    async def work() -> None:
        for _again in range(4):
            async with make.begin() as session:
                author = await session.get_one(Author, 1)
                author.sales = author.sales + 1

    async with asyncio.TaskGroup() as group:
        for _number in range(16):
            group.create_task(work())
    async with make() as session:
        assert (await session.get_one(Author, 1)).sales == 64


async def test_streams(shop: AsyncEngine) -> None:
    numbers = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i FROM n"
    )
    async with shop.connect() as connection:
        result = await connection.stream(numbers)
        assert [row.i async for row in result] == list(range(1, 5001))
        parts = (await connection.stream(numbers)).partitions(1000)
        assert [len(part) async for part in parts] == [1000] * 5
        stopped = await connection.stream(numbers)
        assert (await stopped.fetchone()) == (1,)
        await stopped.close()


async def test_reflection_and_levels(shop: AsyncEngine) -> None:
    async with shop.connect() as connection:
        assert await connection.get_isolation_level() == "SERIALIZABLE"
        names = await connection.run_sync(lambda plain: inspect(plain).get_table_names())
        assert names == ["author", "book", "versioned"]
    async with shop.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(insert(Author).values(name="Butler"))
        await connection.rollback()
    async with shop.connect() as connection:
        assert await connection.get_isolation_level() == "SERIALIZABLE"
        await connection.execution_options(read_level="stale")
        assert await connection.scalar(select(func.count()).select_from(Author)) == 3


async def test_a_transaction_that_the_node_has_ended(shop: AsyncEngine, node: FakeNode) -> None:
    async with AsyncSession(shop) as session:
        session.add(Author(name="lost"))
        await session.flush()
        node.gateway.end_transactions("app")
        session.add(Author(name="torn"))
        with pytest.raises(OperationalError) as caught:
            await session.flush()
        assert isinstance(caught.value.orig, TransactionEnded)
        await session.rollback()
        session.add(Author(name="kept"))
        await session.commit()
    assert await author_names(shop) == ["Le Guin", "Lem", "kept"]


async def test_a_task_that_is_cancelled_leaves_nothing(shop: AsyncEngine) -> None:
    started = asyncio.Event()

    async def work() -> None:
        async with AsyncSession(shop) as session, session.begin():
            session.add(Author(name="half"))
            await session.flush()
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await author_names(shop) == ["Le Guin", "Lem"]


async def test_a_cancelled_statement(shop: AsyncEngine) -> None:
    forever = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")
    async with shop.connect() as connection:
        with pytest.raises((TimeoutError, DBAPIError)):
            async with asyncio.timeout(0.2):
                await connection.execute(forever)
    assert await author_names(shop) == ["Le Guin", "Lem"]


async def test_urls() -> None:
    for url in ("dqlitepy+aio:///app", "dqlitepy:///app"):
        engine = create_plain_async_engine(url)
        assert isinstance(engine.dialect, AioDqliteDialect)
        with pytest.raises(ArgumentError, match="names no member"):
            await engine.connect()
    engine = create_async_engine("dqlitepy+aio://h1:9001,h2:9002/app")
    assert sqlalchemy.make_url(str(engine.url)).query["host"] == "h2:9002"
