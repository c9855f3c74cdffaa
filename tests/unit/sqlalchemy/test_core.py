"""Core: values, results, upserts, errors, isolation levels, savepoints, what reflection shows."""

from __future__ import annotations

import datetime
import decimal
import uuid
import warnings
from collections.abc import Callable

import pytest
import sqlalchemy
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Date,
    DateTime,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Time,
    Uuid,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError

from dqlite_py.errors import DatabaseLocked, TransactionEnded
from dqlite_py.gateway import Freshness, ReadLevel
from tests.unit.sqlalchemy.conftest import FakeNode

metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(50), unique=True),
    Column("count", Integer, server_default="0"),
)


@pytest.fixture
def filled(engine: Engine) -> Engine:
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(things), [{"name": "a", "count": 1}, {"name": "b", "count": 2}])
    return engine


def names(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(select(things.c.name).order_by(things.c.id)))


# -- values and statements ------------------------------------------------------------------------------------


def test_values_come_back_as_they_went_in(engine: Engine) -> None:
    values = {
        "day": datetime.date(2026, 2, 28),
        "moment": datetime.datetime(2026, 2, 28, 13, 5, 59, 999_999),
        "time": datetime.time(13, 5, 59, 1),
        "flag": True,
        "key": uuid.UUID("12345678-1234-5678-1234-567812345678"),
        "blob": b"\x00\xff" * 300,
        "document": {"a": [1, None, "ü"], "b": {"c": 1.5}},
        "price": decimal.Decimal("12.30"),
        "big": 2**63 - 1,
    }
    table = Table(
        "values_of_all_types",
        MetaData(),
        Column("day", Date),
        Column("moment", DateTime),
        Column("time", Time),
        Column("flag", Boolean),
        Column("key", Uuid),
        Column("blob", LargeBinary),
        Column("document", JSON),
        Column("price", Numeric(10, 2)),
        Column("big", Integer),
    )
    table.create(engine)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does \\*not\\* support Decimal objects natively.*")
        with engine.begin() as connection:
            connection.execute(insert(table), [values])
        with engine.connect() as connection:
            assert connection.execute(select(table)).mappings().one() == values
            assert connection.scalar(select(table.c.document["a"][2])) == "ü"
            assert connection.scalar(select(table.c.key).where(table.c.key == values["key"])) == values["key"]


def test_returning(filled: Engine) -> None:
    with filled.begin() as connection:
        made = connection.execute(
            insert(things).returning(things.c.id, things.c.count),
            [{"name": f"n{i}", "count": i} for i in range(5)],
        ).all()
        assert [row.count for row in made] == [0, 1, 2, 3, 4]
        changed = connection.execute(
            update(things).where(things.c.count > 3).values(count=9).returning(things.c.name)
        )
        assert changed.scalars().all() == ["n4"]
        gone = connection.execute(delete(things).where(things.c.count == 9).returning(things.c.name))
        assert gone.scalars().all() == ["n4"]
        assert connection.execute(insert(things).values(name="x")).inserted_primary_key == (7,)


def test_rowcounts(filled: Engine) -> None:
    with filled.begin() as connection:
        assert connection.execute(update(things).values(count=5)).rowcount == 2
        many = connection.execute(
            update(things).where(things.c.name == sqlalchemy.bindparam("which")).values(count=6),
            [{"which": "a"}, {"which": "b"}, {"which": "c"}],
        )
        assert many.rowcount == 2


def test_upserts(filled: Engine) -> None:
    statement = upsert(things)
    statement = statement.on_conflict_do_update(
        index_elements=[things.c.name], set_={"count": things.c.count + statement.excluded.count}
    )
    with filled.begin() as connection:
        connection.execute(statement, [{"name": "a", "count": 10}, {"name": "c", "count": 3}])
        connection.execute(upsert(things).on_conflict_do_nothing(), {"name": "a", "count": 0})
        found = connection.execute(select(things.c.name, things.c.count).order_by(things.c.name)).all()
    assert found == [("a", 11), ("b", 2), ("c", 3)]


def test_a_large_result_is_read_while_it_comes(filled: Engine) -> None:
    numbers = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n"
    )
    with filled.connect() as connection:
        seen = 0
        for part in connection.execution_options(yield_per=500).execute(numbers).partitions():
            seen += len(part)
        assert seen == 20_000


# -- transactions ---------------------------------------------------------------------------------------------


def test_rollback_and_commit(filled: Engine) -> None:
    with filled.connect() as connection:
        connection.execute(insert(things).values(name="c"))
        connection.rollback()
        connection.execute(insert(things).values(name="d"))
        connection.commit()
        connection.execute(insert(things).values(name="e"))
    assert names(filled) == ["a", "b", "d"]


def test_schema_changes_belong_to_the_transaction(engine: Engine) -> None:
    with engine.connect() as connection:
        assert not inspect(connection).has_table("things")
        metadata.create_all(connection)
        assert inspect(connection).has_table("things"), "reads in a transaction see its schema"
        assert [column["name"] for column in inspect(connection).get_columns("things")] == [
            "id",
            "name",
            "count",
        ]
        connection.execute(insert(things).values(name="a"))
        connection.rollback()
    assert not inspect(engine).has_table("things")


def test_savepoints(filled: Engine) -> None:
    with filled.begin() as connection:
        outer = connection.begin_nested()
        connection.execute(insert(things).values(name="outer"))
        inner = connection.begin_nested()
        connection.execute(insert(things).values(name="inner"))
        with pytest.raises(IntegrityError):
            connection.execute(insert(things).values(name="outer"))
        inner.rollback()
        connection.execute(insert(things).values(name="after"))
        outer.commit()
        dropped = connection.begin_nested()
        connection.execute(insert(things).values(name="dropped"))
        dropped.rollback()
    assert names(filled) == ["a", "b", "outer", "after"]


def test_a_savepoint_that_comes_first(filled: Engine) -> None:
    with filled.connect() as connection, connection.begin():
        with connection.begin_nested():
            connection.execute(insert(things).values(name="c"))
        connection.rollback()
    assert names(filled) == ["a", "b"], "the outer transaction decides"


def test_isolation_levels(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    with engine.connect() as connection:
        assert connection.get_isolation_level() == "SERIALIZABLE"
        assert connection.default_isolation_level == "SERIALIZABLE"
    for level in ("AUTOCOMMIT", "READ COMMITTED"):
        with engine.connect().execution_options(isolation_level=level) as connection:
            assert connection.get_isolation_level() == level
        assert make_engine(isolation_level=level).connect().get_isolation_level() == level
    with engine.connect() as connection:
        assert connection.get_isolation_level() == "SERIALIZABLE", "the pool has set it back"
    with pytest.raises(ArgumentError, match="READ UNCOMMITTED"):
        engine.connect().execution_options(isolation_level="READ UNCOMMITTED")


def test_autocommit(filled: Engine) -> None:
    with filled.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(insert(things).values(name="c"))
        connection.rollback()
        assert not connection.connection.dbapi_connection.in_transaction
    assert names(filled) == ["a", "b", "c"]


def test_the_drivers_own_autocommit_is_refused(make_engine: Callable[..., Engine]) -> None:
    for value in (True, False):
        with pytest.raises(ArgumentError, match="AUTOCOMMIT"):
            make_engine(connect_args={"autocommit": value}).connect()


def test_a_serializable_transaction_owns_what_it_has_read(filled: Engine) -> None:
    """The default: two who read, then write what they have computed, come one after the other."""
    with filled.connect() as first, filled.connect() as second:
        assert first.scalar(select(things.c.count).where(things.c.name == "a")) == 1
        with pytest.raises(OperationalError) as caught:
            second.scalar(select(things.c.count).where(things.c.name == "a"))
        assert isinstance(caught.value.orig, DatabaseLocked)
        first.execute(update(things).values(count=7))
        first.commit()
        second.rollback()
        assert second.scalar(select(things.c.count).where(things.c.name == "a")) == 7


def test_read_committed_holds_nothing_until_it_writes(filled: Engine) -> None:
    engine = filled.execution_options(isolation_level="READ COMMITTED")
    with engine.connect() as reader, engine.connect() as writer:
        assert reader.scalar(select(func.count()).select_from(things)) == 2
        writer.execute(insert(things).values(name="c"))
        writer.commit()
        assert reader.scalar(select(func.count()).select_from(things)) == 3
        reader.execute(insert(things).values(name="d"))
        reader.rollback()
    assert names(filled) == ["a", "b", "c"]


def test_a_deferred_transaction_keeps_its_snapshot(filled: Engine) -> None:
    with filled.connect().execution_options(begin_mode="DEFERRED") as reader, filled.connect() as writer:
        assert reader.scalar(select(func.count()).select_from(things)) == 2
        writer.execute(insert(things).values(name="c"))
        writer.commit()
        assert reader.scalar(select(func.count()).select_from(things)) == 2
        with pytest.raises(OperationalError) as caught:
            reader.execute(insert(things).values(name="d"))
        assert type(caught.value.orig).__name__ == "SnapshotConflict"
        reader.rollback()
        assert reader.scalar(select(func.count()).select_from(things)) == 3


def test_begin_mode_of_an_engine(make_engine: Callable[..., Engine], filled: Engine) -> None:
    engine = make_engine(begin_mode="deferred")
    with engine.connect() as first, engine.connect() as second:
        assert first.scalar(select(func.count()).select_from(things)) == 2
        assert second.scalar(select(func.count()).select_from(things)) == 2
    with pytest.raises(ArgumentError, match="begin_mode"):
        make_engine(begin_mode="LATER")


def test_a_transaction_that_a_constraint_ended_is_not_continued(filled: Engine) -> None:
    with filled.connect() as connection:
        connection.execute(insert(things).values(name="lost"))
        with pytest.raises(IntegrityError):
            connection.execute(text("INSERT OR ROLLBACK INTO things (name) VALUES ('a')"))
        for _again in range(2):
            with pytest.raises(OperationalError) as caught:
                connection.execute(insert(things).values(name="torn"))
            assert isinstance(caught.value.orig, TransactionEnded)
        with pytest.raises(OperationalError) as caught:
            connection.commit()
        assert isinstance(caught.value.orig, TransactionEnded)
        connection.rollback()
        connection.execute(insert(things).values(name="c"))
        connection.commit()
    assert names(filled) == ["a", "b", "c"]


def test_a_commit_that_deferred_foreign_keys_refuse(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
        connection.execute(
            text("CREATE TABLE child (parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        )
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO child VALUES (1)"))
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            connection.commit()
        connection.rollback()
        assert connection.scalar(text("SELECT count(*) FROM child")) == 0
        connection.execute(text("INSERT INTO child VALUES (1)"))
        connection.execute(text("INSERT INTO parent VALUES (1)"))
        connection.commit()
        assert connection.scalar(text("SELECT count(*) FROM child")) == 1


def test_begin_and_commit_by_hand(filled: Engine) -> None:
    with filled.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.execute(insert(things).values(name="c"))
        connection.exec_driver_sql("ROLLBACK")
    assert names(filled) == ["a", "b"]


# -- read levels ----------------------------------------------------------------------------------------------


def test_read_level_of_a_connection_and_of_a_statement(
    filled: Engine, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Freshness] = []
    begin_read, query = node.gateway.begin_read, node.gateway.query

    def note_begin(database, freshness, *rest):  # type: ignore[no-untyped-def]
        asked.append(freshness)
        return begin_read(database, freshness, *rest)

    def note_query(database, sql, params, freshness, *rest):  # type: ignore[no-untyped-def]
        asked.append(freshness)
        return query(database, sql, params, freshness, *rest)

    monkeypatch.setattr(node.gateway, "begin_read", note_begin)
    monkeypatch.setattr(node.gateway, "query", note_query)
    with filled.connect().execution_options(read_level="stale") as connection:
        connection.scalar(select(func.count()).select_from(things))
    with filled.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.scalar(select(func.count()).select_from(things))
        connection.scalar(
            select(func.count()).select_from(things), execution_options={"read_level": "leader"}
        )
        connection.scalar(select(func.count()).select_from(things))
        options = {"read_level": "stale", "max_staleness": 2.5}
        connection.scalar(select(func.count()).select_from(things), execution_options=options)
        connection.scalar(select(func.count()).select_from(things))
    assert asked == [
        Freshness(ReadLevel.STALE),
        Freshness(ReadLevel.LINEARIZABLE),
        Freshness(ReadLevel.LEADER),
        Freshness(ReadLevel.LINEARIZABLE),
        Freshness(ReadLevel.STALE, 0, 2.5),
        Freshness(ReadLevel.LINEARIZABLE),
    ]
    for bad in (
        {"read_level": "fresh"},
        {"max_staleness": 1.0},
        {"read_level": "leader", "max_staleness": 1.0},
    ):
        with pytest.raises(ArgumentError, match=r"fresh|max_staleness"), filled.connect() as connection:
            connection.execute(select(things), execution_options=bad)


# -- errors ---------------------------------------------------------------------------------------------------


def test_errors_have_sqlalchemys_classes(filled: Engine) -> None:
    with filled.connect() as connection:
        with pytest.raises(IntegrityError) as caught:
            connection.execute(insert(things).values(name="a"))
        assert caught.value.orig.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE"
        assert not caught.value.connection_invalidated
        with pytest.raises(OperationalError, match="no such table"):
            connection.execute(text("SELECT * FROM missing"))


def test_a_connection_that_is_gone_is_replaced(filled: Engine) -> None:
    with filled.connect() as connection:
        connection.connection.dbapi_connection.close()
        with pytest.raises(sqlalchemy.exc.DBAPIError) as caught:
            connection.execute(select(things))
        assert caught.value.connection_invalidated
    assert names(filled) == ["a", "b"]


def test_pre_ping(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(pool_pre_ping=True)
    with engine.connect() as connection:
        first = connection.connection.dbapi_connection
    first.close()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
        assert connection.connection.dbapi_connection is not first


# -- reflection -----------------------------------------------------------------------------------------------


def test_the_clusters_own_tables_are_not_shown(filled: Engine) -> None:
    with filled.connect() as connection:
        connection.execute(text("CREATE VIEW names AS SELECT name FROM things"))
        inspector = inspect(connection)
        assert inspector.get_table_names() == ["things"]
        assert inspector.get_view_names() == ["names"]
        assert not inspector.has_table("_dqlite_meta")
        assert inspector.get_temp_table_names() == inspector.get_temp_view_names() == []
        found = MetaData()
        found.reflect(connection)
        assert list(found.tables) == ["things"]
        assert [column.name for column in found.tables["things"].columns] == ["id", "name", "count"]
