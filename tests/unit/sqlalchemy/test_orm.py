"""ORM sessions: units of work, rollback, savepoints, many threads, a transaction that the node ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, selectinload, sessionmaker
from sqlalchemy.orm.exc import StaleDataError

from dqlite_py.errors import TransactionEnded
from tests.unit.sqlalchemy.bookshop import Author, Base, Book, Versioned
from tests.unit.sqlalchemy.conftest import FakeNode


@pytest.fixture
def shop(make_engine: Callable[..., Engine]) -> Engine:
    engine = make_engine(pool_size=8)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(
            Author(name="Le Guin", books=[Book(title="The Dispossessed"), Book(title="Rocannon's World")])
        )
    return engine


def author_names(engine: Engine) -> set[str]:
    with Session(engine) as session:
        return set(session.scalars(select(Author.name)))


def test_a_unit_of_work(shop: Engine) -> None:
    with Session(shop) as session, session.begin():
        author = session.scalars(select(Author).options(selectinload(Author.books))).one()
        assert [book.title for book in author.books] == ["The Dispossessed", "Rocannon's World"]
        author.name = "Ursula K. Le Guin"
        author.books.append(Book(title="Tehanu"))
        del author.books[1]
        session.add_all([Author(name=f"author {number}") for number in range(300)])
    with Session(shop) as session:
        author = session.scalars(select(Author).where(Author.id == 1)).one()
        assert author.name == "Ursula K. Le Guin"
        assert {book.title for book in author.books} == {"The Dispossessed", "Tehanu"}
        assert session.scalar(select(func.count()).select_from(Author)) == 301
        assert session.scalar(select(func.count()).select_from(Book)) == 2


def test_rollback_leaves_nothing(shop: Engine) -> None:
    with Session(shop) as session:
        session.add(Author(name="Lem"))
        session.flush()
        assert session.scalar(select(func.count()).select_from(Author)) == 2
        session.rollback()
        assert session.scalar(select(func.count()).select_from(Author)) == 1


def test_an_error_in_the_flush_leaves_nothing(shop: Engine) -> None:
    with Session(shop) as session:
        session.add(Author(name="Lem"))
        session.flush()
        session.add(Author(name="Le Guin"))
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()
        session.add(Author(name="Butler"))
        session.commit()
    assert author_names(shop) == {"Le Guin", "Butler"}


def test_savepoints(shop: Engine) -> None:
    with Session(shop) as session:
        for name in ("Lem", "Le Guin", "Butler"):
            try:
                with session.begin_nested():
                    session.add(Author(name=name))
            except IntegrityError:
                continue
        inner = session.begin_nested()
        session.add(Author(name="Nobody"))
        session.flush()
        inner.rollback()
        session.commit()
    assert author_names(shop) == {"Le Guin", "Lem", "Butler"}


def test_a_session_on_an_outer_transaction(shop: Engine) -> None:
    """SQLAlchemy's recipe for tests: what the session commits is a savepoint, and all of it is undone."""
    with shop.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.add(Author(name="Lem"))
            session.commit()
            session.add(Author(name="Butler"))
            session.rollback()
            assert session.scalar(select(func.count()).select_from(Author)) == 2
        outer.rollback()
    assert author_names(shop) == {"Le Guin"}


def test_many_threads_read_and_write_what_they_have_read(shop: Engine) -> None:
    """Read, compute, write: by the default no update is lost, and nobody fails."""
    make = sessionmaker(shop)

    def work(_number: int) -> None:
        for _again in range(5):
            with make.begin() as session:
                author = session.get_one(Author, 1)
                author.sales = author.sales + 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    with make() as session:
        assert session.get_one(Author, 1).sales == 40


def test_stale_versions_are_found(shop: Engine) -> None:
    engine = shop.execution_options(isolation_level="READ COMMITTED")
    with Session(engine) as session, session.begin():
        session.add(Versioned(id=1, value=0))
    with Session(engine) as mine, Session(engine) as theirs:
        mine.get_one(Versioned, 1).value = 1
        theirs.get_one(Versioned, 1).value = 2
        theirs.commit()
        with pytest.raises(StaleDataError):
            mine.commit()


def test_a_transaction_that_the_node_has_ended(shop: Engine, node: FakeNode) -> None:
    with Session(shop) as session:
        session.add(Author(name="lost"))
        session.flush()
        node.gateway.end_transactions("app")
        session.add(Author(name="torn"))
        with pytest.raises(OperationalError) as caught:
            session.flush()
        assert isinstance(caught.value.orig, TransactionEnded)
        assert not caught.value.connection_invalidated
        session.rollback()
        session.add(Author(name="kept"))
        session.commit()
    assert author_names(shop) == {"Le Guin", "kept"}


def test_a_transaction_that_was_ended_is_not_committed(shop: Engine, node: FakeNode) -> None:
    with shop.connect() as connection:
        connection.execute(update(Author).values(sales=5))
        node.gateway.end_transactions("app")
        with pytest.raises(OperationalError):
            connection.execute(update(Author).values(sales=6))
        with pytest.raises(OperationalError):
            connection.commit()
        connection.rollback()
        assert connection.scalar(select(Author.sales)) == 0
    with shop.connect() as connection:
        connection.execute(update(Author).values(sales=5))
        node.gateway.end_transactions("app")
        with pytest.raises(OperationalError) as caught:
            connection.commit()
        assert isinstance(caught.value.orig, TransactionEnded)
