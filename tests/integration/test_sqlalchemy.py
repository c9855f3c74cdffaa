"""SQLAlchemy on embedded nodes: every member, many threads and tasks, fail-over, a node that stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

import dqlite_py
from dqlite_py.errors import NodeStopped
from dqlite_py.sqlalchemy import async_engine_for, create_engine, engine_for
from tests.integration.cluster import wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of
from tests.unit.sqlalchemy.bookshop import Author, Base


def run(engine: Engine, work: Callable[[Session], None]) -> None:
    """docs/sqlalchemy.md: again, when it certainly was not applied."""
    while True:
        try:
            with Session(engine) as session, session.begin():
                return work(session)
        except DBAPIError as error:
            origin = error.orig
            if not (isinstance(origin, dqlite_py.Error) and origin.retryable):
                raise
            assert origin.outcome is dqlite_py.Outcome.NOT_APPLIED


def sell(session: Session) -> None:
    author = session.get_one(Author, 1)
    author.sales = author.sales + 1


def test_all_members_read_and_write(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        engines = [engine_for(node, "app") for node in nodes]
        with ThreadPoolExecutor(len(engines)) as pool:
            list(pool.map(Base.metadata.create_all, engines))  # who comes later finds the tables
        with Session(engines[1]) as session, session.begin():
            session.add(Author(name="Le Guin"))
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda number: [run(engines[number % 3], sell) for _again in range(5)], range(6)))
        for engine in engines:
            with Session(engine) as session:
                assert session.get_one(Author, 1).sales == 30
            with engine.connect().execution_options(
                begin_mode="DEFERRED", read_level="session"
            ) as connection:
                assert connection.scalar(select(func.count()).select_from(Author)) == 1
            engine.dispose()
        check_same_state(nodes)


def test_fail_over(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        leader = leader_of(nodes)
        staying = engine_for(next(node for node in nodes if node is not leader), "app")
        going = engine_for(leader, "app")
        Base.metadata.create_all(staying)
        with Session(going) as session, session.begin():
            session.add(Author(name="Le Guin"))
        with Session(going) as session:
            sell(session)
            session.flush()
            leader.stop(hand_over=False)
            with pytest.raises(DBAPIError) as caught:
                session.commit()
            origin = caught.value.orig
            assert isinstance(origin, dqlite_py.Error)
            assert origin.outcome is dqlite_py.Outcome.NOT_APPLIED, repr(origin)
        with pytest.raises(DBAPIError) as caught, going.connect() as connection:
            connection.scalar(select(Author.sales))
        assert isinstance(caught.value.orig, NodeStopped)
        run(staying, sell)
        with Session(staying) as session:
            assert session.get_one(Author, 1).sales == 1
        staying.dispose()
        going.dispose()


async def test_tasks(tmp_path: Path) -> None:
    with dqlite_py.Node(tmp_path / "n1") as node:
        node.wait_ready()
        engine = async_engine_for(node, "app", pool_size=20)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        make = async_sessionmaker(engine)
        async with make.begin() as session:
            session.add(Author(name="Le Guin"))

        async def work() -> None:
            for _again in range(3):
                async with make.begin() as session:
                    await session.run_sync(sell)

        async with asyncio.TaskGroup() as group:
            for _number in range(20):
                group.create_task(work())
        async with make() as session:
            assert (await session.get_one(Author, 1)).sales == 60
        await engine.dispose()
        wait_until(lambda: node.status()["is_leader"], "the node still leads")


async def test_programs_that_are_no_members(tmp_path: Path) -> None:
    """By URL: a list of members, through the death of the leader; sync and asyncio."""
    with embedded_cluster(tmp_path) as nodes:
        addresses = [node.address for node in nodes]
        engine = create_engine(f"dqlitepy://{','.join(addresses)}/app?timeout=20")
        Base.metadata.create_all(engine)
        with Session(engine) as session, session.begin():
            session.add(Author(name="Le Guin"))
        run(engine, sell)
        leader_of(nodes).stop(hand_over=False)
        run(engine, sell)
        more = "&".join(f"host={address}" for address in addresses[1:])
        tasks = create_async_engine(f"dqlitepy+aio://{addresses[0]}/app?{more}")
        async with AsyncSession(tasks) as found:
            assert (await found.get_one(Author, 1)).sales == 2
        await tasks.dispose()
        with engine.connect().execution_options(read_level="stale", max_staleness=60.0) as connection:
            assert connection.scalar(select(func.count()).select_from(Author)) == 1
        engine.dispose()
