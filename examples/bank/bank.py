"""The bank: accounts, transfers, and the one transaction that moves money. Plain SQLAlchemy; knows no HTTP, no cluster.

A transfer carries an id that its sender has made up. It is the primary key: whoever sends a transfer again, because no
answer came, gets the first one back, and the money moves once.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import CheckConstraint, Engine, ForeignKey, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

ACCOUNTS = 20
OPENING_BALANCE = 1_000


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int] = mapped_column(CheckConstraint("balance >= 0"))


class Transfer(Base):
    __tablename__ = "transfer"

    id: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[int] = mapped_column(ForeignKey("account.id"))
    target: Mapped[int] = mapped_column(ForeignKey("account.id"))
    amount: Mapped[int] = mapped_column(CheckConstraint("amount > 0"))


class Order(NamedTuple):
    """A transfer as it is asked for."""

    id: str
    source: int
    target: int
    amount: int


class Refused(Exception):
    """The transfer cannot be made, now or ever; nothing happened."""


def open_bank(engine: Engine) -> None:
    """Make the tables and the accounts, unless another member of the cluster has."""
    Base.metadata.create_all(engine)
    accounts = [{"id": number, "balance": OPENING_BALANCE} for number in range(1, ACCOUNTS + 1)]
    with engine.begin() as connection:
        connection.execute(insert(Account).on_conflict_do_nothing(), accounts)


def transfer(engine: Engine, order: Order) -> bool:
    """Move money, once per order; returns False when that had been done before. Raises Refused.

    The transaction begins with BEGIN IMMEDIATE (the dialect's default): what it reads cannot change before it commits.
    """
    with Session(engine) as session, session.begin():
        done = session.get(Transfer, order.id)
        if done is not None:
            if Order(done.id, done.source, done.target, done.amount) != order:
                raise Refused(f"transfer {order.id} was another one")
            return False
        source, target = session.get(Account, order.source), session.get(Account, order.target)
        if source is None or target is None or source is target:
            raise Refused("a transfer needs two accounts")
        if source.balance < order.amount:
            raise Refused(f"account {order.source} holds {source.balance} only")
        source.balance -= order.amount
        target.balance += order.amount
        session.add(Transfer(id=order.id, source=order.source, target=order.target, amount=order.amount))
    return True


def balance(engine: Engine, account: int, read_level: str) -> int | None:
    """Read one balance: `stale` asks only this node, `linearizable` is never behind an acknowledged transfer."""
    with engine.connect().execution_options(read_level=read_level) as connection:
        found: int | None = connection.scalar(select(Account.balance).where(Account.id == account))
        return found


def statement(engine: Engine) -> dict[str, object]:
    """All accounts and transfers at one moment."""
    with engine.connect().execution_options(begin_mode="DEFERRED") as connection:
        balances = connection.execute(select(Account.id, Account.balance).order_by(Account.id)).all()
        transfers = connection.execute(
            select(Transfer.id, Transfer.source, Transfer.target, Transfer.amount).order_by(Transfer.id)
        ).all()
        total = connection.scalar(select(func.sum(Account.balance)))
    return {
        "total": total,
        "balances": {str(account): held for account, held in balances},
        "transfers": [list(row) for row in transfers],
    }
