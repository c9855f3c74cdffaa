"""`dqlite-py bench`: what is measured, what is refused, and what it says of failures."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from click.testing import CliRunner

from dqlite_py import client
from dqlite_py.cli import bench_load
from dqlite_py.cli.bench_load import CREATE, Load, Tally, percentile, run, summarize
from dqlite_py.cli.main import main
from dqlite_py.dbapi import connect
from dqlite_py.errors import NoLeader, OutcomeUnknown
from tests.support.fakegateway import FakeGateway
from tests.support.fakepeer import FakePeer


class Clock:
    """Each look is a millisecond after the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now_ms = 0

    def __call__(self) -> float:
        with self._lock:
            self._now_ms += 1
            return self._now_ms / 1000


@pytest.mark.parametrize(("wanted", "found"), [(50.0, 5), (90.0, 9), (99.0, 10), (99.9, 10), (1.0, 1)])
def test_percentiles(wanted: float, found: int) -> None:
    assert percentile(list(range(1, 11)), wanted) == found


def test_a_summary() -> None:
    one, two = Tally([0.001, 0.003]), Tally([0.002])
    two.errors["NoLeader (NOT_APPLIED)"] += 2
    found = summarize([one, two], 2.0)
    assert (found.done_count, found.per_s, found.max_ms) == (3, 1.5, 3.0)
    assert found.percentiles_ms[50.0] == 2.0
    assert found.to_json()["errors"] == {"NoLeader (NOT_APPLIED)": 2}
    assert summarize([Tally()], 1.0).to_json() == {"count": 0, "per_s": 0.0, "max_ms": 0.0, "errors": {}}


def test_the_load_ends_with_its_time_and_leaves_nothing_running() -> None:
    before = threading.active_count()
    with FakeGateway() as gateway:

        def connected() -> Any:
            return connect(gateway, "load", isolation_level=None, check_same_thread=False)

        first = connected()
        first.execute(CREATE)
        seen: list[float] = []
        found = run(Load(2, 1, 0.5, 10), connected, seen.append, clock=Clock())
        rows = first.execute("SELECT count(*), min(length(value)), max(length(value)) FROM bench").fetchone()
        first.close()
    assert found.writes.done_count > 0
    assert rows == (found.writes.done_count, 10, 10)
    assert found.reads.done_count > 0
    assert seen
    assert threading.active_count() == before


def test_errors_are_counted_by_what_is_true() -> None:
    class Broken:
        def __init__(self) -> None:
            self.count = 0

        def execute(self, _sql: str, _params: Any) -> Any:
            self.count += 1
            raise NoLeader("none") if self.count % 2 else OutcomeUnknown("perhaps")

        def close(self) -> None:
            """Nothing is held."""

    found = run(Load(1, 0, 0.2, 1), Broken, lambda _over_s: None)
    assert found.writes.done_count == 0
    assert found.writes.errors["NoLeader (NOT_APPLIED)"] >= 1


def bench(peer: FakePeer, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    def connected(_target: str, database: str, *, tls: Any, **options: Any) -> Any:
        return connect(gateway, database, **options)

    monkeypatch.setattr(client, "connect", connected)
    command = ["bench", "-s", peer.address, "--duration", "0.2", *arguments]
    return CliRunner().invoke(main, command)


async def dropped(_body: Any) -> None:
    """It is gone."""


def test_the_command_drops_what_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeGateway() as gateway, FakePeer(11, methods={"sql.drop": dropped}).running() as peer:
        peer.status = {"databases": {"app": {}}}
        done = bench(peer, gateway, monkeypatch, "--json", "--writers", "1", "--readers", "0")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert found["writes"]["count"] > 0
        assert found["writers"] == 1
        assert peer.asked == [("sql.drop", {"database": "dqlite_py_bench"})]


def test_a_database_that_exists_is_refused_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeGateway() as gateway, FakePeer(11, methods={"sql.drop": dropped}).running() as peer:
        peer.status = {"databases": {"app": {}}}
        refused = bench(peer, gateway, monkeypatch, "--database", "app")
        assert refused.exit_code == 1
        assert "there is a database 'app' already" in refused.stderr
        assert peer.asked == []
        kept = bench(peer, gateway, monkeypatch, "--keep", "--readers", "0")
        assert kept.exit_code == 0, kept.output
        assert kept.output.splitlines()[0].split()[:3] == ["count", "per", "second"]
        assert peer.asked == []
        again = bench(peer, gateway, monkeypatch)  # not in the status, but made meanwhile
        assert again.exit_code == 1
        assert "already exists" in again.stderr
        assert peer.asked == []


@pytest.mark.parametrize("reason", [NoLeader("gone"), KeyboardInterrupt()])
def test_what_was_made_is_dropped_whatever_ended_the_load(
    reason: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_load: Any) -> Any:
        raise reason

    monkeypatch.setattr(bench_load, "run", ended)
    with FakeGateway() as gateway, FakePeer(11, methods={"sql.drop": dropped}).running() as peer:
        peer.status = {"databases": {}}
        result = bench(peer, gateway, monkeypatch)
        assert result.exit_code == 1
        assert peer.asked == [("sql.drop", {"database": "dqlite_py_bench"})]


def test_what_was_measured_is_shown_though_the_database_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(_body: Any) -> None:
        raise NoLeader("nobody leads\x1b[31m")

    with FakeGateway() as gateway, FakePeer(11, methods={"sql.drop": refused}).running() as peer:
        peer.status = {"databases": {}}
        result = bench(peer, gateway, monkeypatch, "--json", "--readers", "0")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["writes"]["count"] > 0
    assert "'dqlite_py_bench' was not dropped: nobody leads\\x1b" in result.stderr


def test_a_load_of_nothing() -> None:
    result = CliRunner().invoke(main, ["bench", "-s", "127.0.0.1:1", "--writers", "0", "--readers", "0"])
    assert result.exit_code == 2
    assert "nothing to measure" in result.stderr
