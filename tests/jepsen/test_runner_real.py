"""Real clusters on loopback: a good one passes; one whose clients are promised too much does not."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jepsen.history.history import read_history
from jepsen.history.op import OpType
from jepsen.run.options import Options
from jepsen.run.runner import run_together
from jepsen.run.session import NodeSession
from jepsen.workloads import WORKLOADS
from jepsen.workloads.base import STALE, Rejected, Request, Rows, Session
from jepsen.workloads.register import Register

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

OPTIONS = Options(time_s=6, kind="loopback", nodes=3, clients=3, rate=30, pictures=False)


CANARY = replace(OPTIONS, clients=9, rate=120)


class StaleRegister(Register):
    """The canary: registers that are read at the level "stale" and judged as if they were linearizable."""

    name = "stale-register"

    def apply(self, session: Session, request: Request) -> Any:
        assert isinstance(session, NodeSession)
        if not request.is_read and getattr(session.node, "name", "") == "n3":
            raise Rejected("clients of n3 only read: a write there would block until the partition is over")
        return super().apply(_StaleReads(session), request)


class _StaleReads:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.execute = session.execute
        self.unit = session.unit

    def query(self, sql: str, params: Any = (), level: str = "linearizable") -> Rows:
        return self.session.query(sql, params, STALE)


class CutOff:
    """One node is cut off from the others, and its clients with it: what it then reads gets old."""

    name = "cut-off"
    violations: tuple[str, ...] = ()

    def missing(self, cluster: Any) -> str | None:
        return None

    def start(self, cluster: Any, rng: random.Random) -> Any:
        for other in ("n1", "n2"):
            cluster.network.cut("n3", other)
            cluster.network.cut(other, "n3")
        return ["n3"]

    def stop(self, cluster: Any) -> Any:
        cluster.network.heal()

    def final(self, cluster: Any) -> Any:
        cluster.network.heal()


def test_a_real_cluster_under_a_partition_is_valid(tmp_path: Path) -> None:
    results = run_together(
        ["register", "append", "set"], "cut-off", OPTIONS, tmp_path, make_nemesis=lambda _name: CutOff()
    )
    for result in results:
        assert result.valid is True, result.verdicts
        history = read_history(result.folder / "history.edn")
        assert {op.node for op in history if op.type is OpType.OK} == {"n1", "n2", "n3"}


def test_the_canary_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKLOADS, StaleRegister.name, StaleRegister)
    [result] = run_together(
        [StaleRegister.name], "cut-off", CANARY, tmp_path, make_nemesis=lambda _name: CutOff()
    )
    bad = [verdict for verdict in result.verdicts if verdict.valid is False]
    assert [verdict.checker for verdict in bad] == ["linearizable"], result.verdicts
    assert bad[0].counterexample
    assert (result.folder / "counterexample-1.svg").exists()
