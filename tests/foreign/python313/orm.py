"""sqlalchemy-dqlite: DDL, ORM sessions of several threads, inspection; the leader is killed."""

import datetime
import threading
import time

from common import DATABASE, IS_STOCK, PATIENCE_S, SERVERS, equal, pause, raises
from sqlalchemy import ForeignKey, create_engine, func, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

THREADS, ROUNDS = 6, 6


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owner"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    is_active: Mapped[bool | None]
    since: Mapped[datetime.datetime | None]
    accounts: Mapped[list["Account"]] = relationship(back_populates="owner")


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("owner.id"), index=True)
    balance: Mapped[int]
    owner: Mapped[Owner] = relationship(back_populates="accounts")


def engine(address: str):
    return create_engine(
        f"dqlite://{address}/{DATABASE}?timeout=10&busy_timeout=20&check_same_thread=false", pool_size=THREADS
    )


def main() -> None:
    found = engine(SERVERS[0])
    Base.metadata.create_all(found)
    Base.metadata.create_all(found)  # asks what exists
    objects(found)
    inspected(found)
    concurrent(found)
    found.dispose()
    killed()
    print("done")


def objects(found) -> None:
    when = datetime.datetime(2026, 2, 3, 4, 5, 6)
    with Session(found) as session:
        ada = Owner(
            name="Ada", is_active=True, since=when, accounts=[Account(balance=100), Account(balance=5)]
        )
        session.add_all([ada, Owner(name="Bob")])
        session.commit()
        equal(ada.id, 1, "a generated key")
    with Session(found) as session:
        ada = session.scalars(select(Owner).where(Owner.name == "Ada")).one()
        equal((ada.is_active, ada.since, len(ada.accounts)), (True, when, 2), "an object")
        bob = session.scalars(select(Owner).where(Owner.name == "Bob")).one()
        equal(bob.since, None, "NULL in a DATETIME column")
        if not IS_STOCK:
            equal(bob.is_active, None, "NULL in a BOOLEAN column")
        equal(session.scalar(select(func.sum(Account.balance))), 105, "a sum")
        session.add(Owner(name="Ada"))
        raises(IntegrityError, session.commit, "UNIQUE")
        session.rollback()
        ada.accounts[0].balance -= 1
        session.flush()
        session.rollback()
        equal(session.scalar(select(func.sum(Account.balance))), 105, "after rollback")
        with session.begin_nested():
            ada.accounts[1].balance = 6
        session.commit()
        equal(session.scalar(select(func.sum(Account.balance))), 106, "after a savepoint")
        session.delete(bob)
        session.commit()
        equal(session.scalar(select(func.count()).select_from(Owner)), 1, "after a deletion")


def inspected(found) -> None:
    about = inspect(found)
    names = {name for name in about.get_table_names() if not name.startswith("_dqlite_")}  # the node's own
    equal(names, {"owner", "account"}, "tables")
    equal([c["name"] for c in about.get_columns("account")], ["id", "owner_id", "balance"], "columns")
    equal(about.get_foreign_keys("account")[0]["referred_table"], "owner", "foreign keys")
    equal([i["column_names"] for i in about.get_indexes("account")], [["owner_id"]], "indexes")
    equal(about.get_pk_constraint("owner")["constrained_columns"], ["id"], "primary key")


def concurrent(found) -> None:
    """Every session begins IMMEDIATE: they queue; all make headway and none of their changes is lost."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(ROUNDS):
                with Session(found) as session, session.begin():
                    account = session.get(Account, 1)
                    account.balance += 1
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    with Session(found) as session:
        equal(session.get(Account, 1).balance, 100 + THREADS * ROUNDS, "increments")


def survivor():
    """An engine that reaches the leader through a node that lives."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for address in SERVERS:
            found = engine(address)
            try:
                with found.connect() as connection:
                    connection.execute(text("SELECT 1"))
            except DBAPIError:
                found.dispose()
            else:
                return found
        assert time.monotonic() < deadline, "nobody to connect to"
        time.sleep(0.05)


def killed() -> None:
    found = survivor()
    session = Session(found)
    account = session.get(Account, 1)
    before = account.balance
    account.balance = -1
    session.flush()
    pause()
    error = raises(DBAPIError, session.commit)
    assert error.connection_invalidated, error
    session.close()
    found.dispose()
    found = survivor()
    with Session(found) as session, session.begin():
        account = session.get(Account, 1)
        equal(account.balance, before, "what the failed transaction changed")
        account.balance += 1
    with Session(found) as session:
        equal(session.get(Account, 1).balance, before + 1, "written afterwards")
    found.dispose()


main()
