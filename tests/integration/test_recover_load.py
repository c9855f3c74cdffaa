"""Every node killed under writes and one disk lost: the best of the others is recovered, with all that was promised."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from dqlite_py.cli.demo.processes import NodeProcess
from dqlite_py.cli.main import main
from tests.integration.cluster import DATABASE, Cluster, wait_until
from tests.support.steady_writer import SteadyWriter

WRITES = 40


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@contextmanager
def writing(target: str, labels: str) -> Iterator[list[SteadyWriter]]:
    """Writers that have written some, and go on; ended at the exit."""
    writers = [SteadyWriter(target, label) for label in labels]
    for writer in writers:
        writer.start()
    try:
        wait_until(lambda: all(len(w.acknowledged) >= WRITES for w in writers), "they write")
        yield writers
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join(120)
            assert not writer.is_alive()


def reach(node: NodeProcess, place: Path) -> tuple[int, int]:
    """(term, index) of its folder's end; its report is left beside."""
    result = run("verify", node.folder, "--json")
    assert result.exit_code == 0, result.output
    place.write_text(result.stdout)
    report = json.loads(result.stdout)
    return report["last_term"], report["last_index"]


def test_what_was_acknowledged_is_on_the_best_of_a_majority(tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster") as cluster:
        address = cluster.nodes[0].address
        cluster.client.write(address, "CREATE TABLE rows(label TEXT, number INTEGER)")
        target = ",".join(node.address for node in cluster.nodes) + f"/{DATABASE}"
        with writing(target, "abc") as before:
            lost = cluster.leader()
            left = [node for node in cluster.nodes if node is not lost]
            for node in (lost, *left):
                node.kill()
        # The lost node's disk is gone. Of the two others, a majority, the one with the longer log has all.
        left.sort(key=lambda node: reach(node, tmp_path / f"{node.name}.json"))
        behind, best = left
        done = run("cluster", "recover", "--dir", best.folder, "--compare", tmp_path / f"{behind.name}.json",
                   "--yes", "--json")  # fmt: skip
        assert done.exit_code == 0, done.output
        cluster.client.drop_connections()
        best.start()
        wait_until(lambda: cluster.status(best)["is_leader"], f"it leads: {best.log_tail()}")
        target = f"{best.address},{behind.address}/{DATABASE}"  # not the link of those before: it is the old cluster's
        with writing(target, "def") as after:
            behind.start()
            assert behind.process is not None
            assert behind.process.wait(60) == 4, behind.log_tail(40)
            behind.start()

            def is_voter() -> bool:
                members = cluster.status(best)["members"]
                return [m["role"] for m in members if m["address"] == behind.address] == ["voter"]

            wait_until(is_voter, f"the other one is a voter: {behind.log_tail()}")
            wait_until(lambda: all(len(w.acknowledged) >= 2 * WRITES for w in after), "they went on")
        cluster.check_equal()
        rows = [tuple(row) for row in cluster.client.read(best.address, "SELECT label, number FROM rows")]
        for writer in (*before, *after):
            writer.check(rows)
            assert len(writer.acknowledged) >= WRITES
