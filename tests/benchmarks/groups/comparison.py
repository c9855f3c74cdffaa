"""Every workload on every driver that runs here, by number of clients; and latency at fixed rates (open loop)."""

from __future__ import annotations

from tests.benchmarks import drivers
from tests.benchmarks.session import Session
from tests.benchmarks.workloads import KNOWN

OPEN_CLIENTS = 256
OPEN_DRIVERS = ("ours", "ours-network", "sqlite-apsw", "etcd", "rqlite")
CHOSEN = {  # where not every workload can run, or is worth the time
    "ours-network-python": ("insert", "kv1k", "batch1000"),
    "dqlite": ("kv100", "kv1k", "kvreadwrite"),
    "etcd": tuple(name for name in KNOWN if name != "batch1000"),
    "hiqlite": ("insert",),
}


def workloads(session: Session) -> None:
    """Ours in process: the C implementation with every number of clients, the Python one with fewer."""
    for driver in ("ours", "ours-python"):
        if session.can(driver):
            effort = session.effort
            clients = effort.clients if driver == "ours" else effort.peer_clients[:2]
            _all(session, "workloads", driver, tuple(KNOWN), clients)


def peers(session: Session) -> None:
    """The same workloads over the network, and on other databases."""
    for driver in drivers.OPENERS:
        if driver in ("ours", "ours-spread", "ours-python") or not session.can(driver):
            continue
        names = CHOSEN.get(driver, tuple(KNOWN))
        is_short = driver.startswith("sqlite") or driver.endswith("python")
        clients = session.effort.peer_clients[: 2 if is_short else None]
        _all(session, "peers", driver, names, clients)


def _all(
    session: Session,
    group: str,
    driver: str,
    names: tuple[str, ...],
    clients: tuple[int, ...],
) -> None:
    with session.tolerant(f"{group}: {driver}"), session.cluster(driver) as host:
        for name in names:
            for count in clients:
                with session.tolerant(f"{group}: {driver}: {name}, {count} clients"):
                    session.measure(host, group, name, count, seconds=session.effort.short_s)


def open_loop(session: Session) -> None:
    """Single-row INSERT at shares of what 64 closed-loop clients reach: latency from the moment each was due."""
    group, effort = "open-loop", session.effort
    for driver in OPEN_DRIVERS:
        if not session.can(driver):
            continue
        with session.tolerant(f"{group}: {driver}"), session.cluster(driver) as host:
            closed = session.measure(host, group, "insert", 64, series="closed loop", seconds=effort.short_s)
            for share in effort.rate_shares:
                rate = max(10.0, round(closed.rate * share, -1))
                session.measure(
                    host,
                    group,
                    "insert",
                    OPEN_CLIENTS,
                    rate=rate,
                    x=rate,
                    series=driver,
                    seconds=effort.short_s,
                )
