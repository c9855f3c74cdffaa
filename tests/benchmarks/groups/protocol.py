"""The targets of dqlite's protocol on a node; the new voter of a large database only with --big."""

from __future__ import annotations

from tests.benchmarks import protocol as measured
from tests.benchmarks.session import Session

GROUP = "protocol"


def protocol(session: Session) -> None:
    """dqlite and ours take turns, each round with new clusters."""
    if why := measured.missing():
        session.say(f"{GROUP}: left out: {why}")
        session.failures.append(f"{GROUP}: left out: {why}")
        return
    folder = session.folder / GROUP
    seconds = max(1, round(2 * session.effort.seconds))
    turns: dict[str, list[dict[int, measured.Load]]] = {name: [] for name in measured.OPENERS}
    with session.tolerant(GROUP):
        for number in range(session.effort.rounds):
            for name, done in turns.items():
                session.say(f"{GROUP}: round {number + 1} of {session.effort.rounds}, {name}")
                done.append(measured.turn(name, folder / f"{name}{number}", seconds))
        session.figures += measured.figures(turns)
    with session.tolerant(f"{GROUP}: idle connections"):
        session.say(f"{GROUP}: {measured.IDLE_COUNT:,} idle connections")
        session.figures.append(measured.idle_mib(folder / "idle"))


def new_voter(session: Session, mib: int) -> None:
    if not measured.missing():
        with session.tolerant(f"{GROUP}: a new voter"):
            session.say(f"{GROUP}: a voter is added to {mib:,} MiB under load")
            session.figures += measured.new_voter(session.folder / "voter", mib)
