"""The runner with a cluster and a nemesis that are not real: phases, folders, bounds, and what ends a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jepsen.cluster.client import Failed
from jepsen.errors import MissingTool, SetupError
from jepsen.history.history import History, read_history
from jepsen.history.op import Op, OpType
from jepsen.run import runner
from jepsen.run.campaign import BUDGET_S, TIME_MIN_S, run_campaign, share_s
from jepsen.run.judging import check_logs, count
from jepsen.run.options import Options, Result
from jepsen.verdict import Verdict
from jepsen.workloads import WORKLOADS
from tests.jepsen.fakeruns import OPTIONS, Case, FakeKill, shorten_faults, verdict_of


@pytest.fixture(autouse=True)
def _short_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_faults(monkeypatch)


def test_a_run_has_faults_a_healing_and_final_reads_on_every_node(tmp_path: Path) -> None:
    case = Case(tmp_path)
    [result] = case.run("set")
    assert result.valid is True, result.verdicts
    history = read_history(result.folder / "history.edn")
    steps = [op.f for op in history.nemesis()]
    assert steps[0] == "start-fake-kill"
    assert steps[-2:] == ["final-fake-kill", "healed"]
    healed = next(op.index for op in history if op.f == "healed")
    finals = [op for op in history if op.index > healed and op.type is OpType.OK]
    assert sorted(str(op.node) for op in finals) == ["n1", "n2", "n3"]
    assert len({tuple(op.value) for op in finals}) == 1
    assert case.clusters[0].is_removed
    assert case.nemesis.finals == 1
    killed = [op for op in history.clients() if op.type is OpType.FAIL]
    assert all("is dead" in (op.error or "") for op in killed)
    assert any("set" in line for line in case.said)


def test_workloads_share_the_cluster_but_not_the_history(tmp_path: Path) -> None:
    case = Case(tmp_path)
    results = case.run(*WORKLOADS, options=Options(**{**vars_of(OPTIONS), "time_s": 1.0, "rate": 100}))
    assert [result.workload for result in results] == list(WORKLOADS)
    assert len(case.clusters) == 1
    assert False not in {result.valid for result in results}, [result.verdicts for result in results]
    for result in results:
        history = read_history(result.folder / "history.edn")
        assert {op.f for op in history.clients()} <= {
            "read",
            "write",
            "cas",
            "txn",
            "transfer",
            "add",
            "generate",
            "bump",
        }
        assert history.nemesis()[0].f == "start-fake-kill"
        assert len(list((result.folder / "logs").iterdir())) == 3
        assert not (result.folder / "nodes").exists()


def vars_of(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__slots__}


def test_the_folder_says_what_was_run_and_how_to_repeat_it(tmp_path: Path) -> None:
    [result] = Case(tmp_path).run("register")
    test = json.loads((result.folder / "test.json").read_text())
    assert test["options"]["seed"] == 1
    assert test["kind"] == "fake"
    assert {"python", "sqlite", "kernel"} <= set(test["versions"])
    assert "--workload register --nemesis fake-kill --time 0.7 --seed 1 --kind fake" in test["repeat"]


def test_a_violation_keeps_the_nodes_data(tmp_path: Path) -> None:
    [result] = Case(tmp_path, "lost-writes").run("set")
    assert result.valid is False
    assert (result.folder / "nodes").is_dir()
    assert (result.folder / "counterexample-1.edn").exists()
    assert (result.folder / "verdict.txt").read_text().startswith("INVALID")


def test_replicas_that_differ_are_a_violation(tmp_path: Path) -> None:
    [result] = Case(tmp_path, "differing-replicas").run("set")
    assert verdict_of(result, "replicas").valid is False
    assert result.valid is False


def test_a_cluster_that_does_not_come_back_is_a_violation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> None:
        raise SetupError("it does not start")

    monkeypatch.setattr("tests.jepsen.fakecluster.FakeNode.start", refuse)
    [result] = Case(tmp_path, nemesis=FakeKill(revives=False)).run("set")
    assert verdict_of(result, "recovery").valid is False
    assert "it does not start" in verdict_of(result, "recovery").summary
    assert result.valid is False


def test_a_nemesis_that_never_worked_proves_nothing(tmp_path: Path) -> None:
    [result] = Case(tmp_path, nemesis=FakeKill(broken=True)).run("set")
    faults = verdict_of(result, "faults")
    assert faults.valid is None
    assert "no such fault" in faults.summary
    assert result.valid is None


def test_what_the_nemesis_itself_saw_is_a_violation(tmp_path: Path) -> None:
    nemesis = FakeKill()
    nemesis.violations.append("n2 served damaged data")
    [result] = Case(tmp_path, nemesis=nemesis).run("set")
    assert verdict_of(result, "faults").valid is False
    assert "n2 served damaged data" in verdict_of(result, "faults").summary


def test_what_the_machine_lacks_is_said_before_anything_is_tested(tmp_path: Path) -> None:
    case = Case(tmp_path, nemesis=FakeKill(lacks="needs strace: apt install strace"))
    with pytest.raises(MissingTool, match="strace"):
        case.run("set")
    assert case.clusters[0].is_removed
    assert list(tmp_path.iterdir()) == [], "no folder that looks like a run"


def test_a_cluster_in_which_nothing_can_be_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SETUP_S", 0.2)
    case = Case(tmp_path, "dead")
    with pytest.raises(SetupError, match="workload set could not make its tables"):
        case.run("set")
    assert case.clusters[0].is_removed


def test_an_interrupt_removes_the_cluster_and_leaves_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_heal", interrupt)
    case = Case(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        case.run("set")
    assert case.clusters[0].is_removed
    [folder] = tmp_path.iterdir()
    assert len(read_history(folder / "history.edn")) > 10


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(
        SetupError, match=r"there is no workload 'sets'; choose one of append, append-txn, bank"
    ):
        Case(tmp_path).run("sets")


@pytest.mark.parametrize(
    ("name", "value"),
    [("time_s", 0), ("time_s", float("nan")), ("nodes", 0), ("nodes", 99), ("clients", 0), ("kind", "cloud")],
)
def test_impossible_options(name: str, value: Any) -> None:
    with pytest.raises(SetupError, match=str(value)):
        Options(**{name: value})


def test_a_campaign_goes_on_after_what_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def together(workloads: Any, nemesis: str, options: Options, out: Path, say: Any) -> list[Result]:
        if nemesis == "strange":
            raise MissingTool("no strace")
        if nemesis == "stuck":
            raise SetupError("no cluster")
        return [Result("set", nemesis, out, "now", [Verdict("x", True, "fine")])]

    monkeypatch.setattr("jepsen.run.campaign.run_together", together)
    campaign = run_campaign(["set"], ["strange", "stuck", "kill"], OPTIONS, tmp_path, lambda _text: None)
    assert campaign.skipped == {"strange": "no strace"}
    assert campaign.failed == {"stuck": "no cluster"}
    assert [result.nemesis for result in campaign.results] == ["kill"]
    assert campaign.valid is True


@pytest.mark.parametrize("overhead_s", [10.0, 20.0, 35.0])
def test_the_matrix_fits_into_twenty_minutes(overhead_s: float) -> None:
    for nemeses in range(1, 26):
        left_s = BUDGET_S
        for waiting in range(nemeses, 0, -1):
            left_s -= share_s(left_s, waiting, overhead_s) + overhead_s
        assert 1200 - BUDGET_S + left_s > 0, f"{nemeses} nemeses"
    assert share_s(BUDGET_S, 24, 15.0) >= 30
    assert share_s(0.0, 24, 15.0) == TIME_MIN_S


def test_alarming_lines_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "n1.log"
    log.write_text("all is well\n")
    assert check_logs([log]).valid is True
    assert check_logs([log, tmp_path / "none.log"]).valid is None, "nobody has read it"
    log.write_text("well\nAssertionError: commit moved back\n")
    verdict = check_logs([log])
    assert verdict.valid is False
    assert "commit moved back" in verdict.summary
    log.write_text("ERROR quarantined, to be rebuilt from a snapshot of the leader: database app\n")
    assert check_logs([log]).valid is False
    assert check_logs([log], may_differ=True).valid is True
    log.write_text("Traceback (most recent call last):\nOSError: [Errno 5] Input/output error\n")
    assert check_logs([log]).valid is False
    assert check_logs([log], may_fail=True).valid is True


def test_counts() -> None:
    ops = [
        Op(0, OpType.INVOKE, 0, "add", 1, 0),
        Op(1, OpType.OK, 0, "add", 1, 1),
        Op(2, OpType.INVOKE, 0, "add", 2, 2),
    ]
    assert count(History(ops)) == {"add": {"ok": 1, "fail": 0, "info": 1}}


def test_failed_is_a_client_error() -> None:
    assert str(Failed("Connection", "gone")) == "Connection: gone"
