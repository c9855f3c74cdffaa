"""After the faults: bring every node back, wait until the cluster works through each of them, compare the replicas.

Once faults stop the cluster must become live again within a bound: when it does not, that is a violation, not an
excuse. Runs on the runner's thread; every wait ends at the deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from jepsen.checkers.roles import check_roles
from jepsen.cluster.api import Cluster, ClusterNode
from jepsen.cluster.client import Failed, Unknown
from jepsen.errors import JepsenError
from jepsen.run.session import NodeSession
from jepsen.verdict import Verdict

REPLICAS_S: Final = 30.0
SETTLE_S: Final = 30.0
RESTS_S: Final = 3  # looks, a second apart: longer than a member must be back to be chosen
_POLL_S: Final = 0.1
_TAIL_BYTES: Final = 2000


def heal(cluster: Cluster, timeout_s: float, request_timeout_s: float) -> list[Verdict]:
    """Verdicts "recovery" (every node runs and takes writes in time), "roles" (where they are kept: settled) and
    "replicas" (equal state hashes)."""
    begin = time.monotonic()
    deadline = begin + timeout_s
    notes: dict[str, Any] = {}
    try:
        cluster.network.heal()
        cluster.network.delay(None)
    except Exception as error:  # noqa: BLE001 - the recovery below shows whether it mattered
        notes["network"] = f"{type(error).__name__}: {error}"
    problems = {node.name: _bring_back(node, deadline, request_timeout_s) for node in cluster.nodes}
    problems = {name: problem for name, problem in problems.items() if problem}
    if not problems:
        try:
            cluster.wait_healthy(max(1.0, deadline - time.monotonic()))
        except (JepsenError, OSError) as error:
            problems = {"cluster": str(error)}
    notes["seconds"] = round(time.monotonic() - begin, 2)
    if problems:
        name, problem = next(iter(problems.items()))
        summary = f"not back within {timeout_s:g} s after the last fault: {name}: {problem}"
        tails = {node.name: _tail(node.log_path) for node in cluster.nodes}
        return [Verdict("recovery", False, summary, {**notes, "problems": problems, "logs": tails})]
    recovery = Verdict(
        "recovery", True, f"all nodes took a write {notes['seconds']} s after the last fault", notes
    )
    settled = [] if cluster.wanted_roles is None else [settle(cluster, SETTLE_S)]
    return [recovery, *settled, compare_replicas(cluster, REPLICAS_S)]


def settle(cluster: Cluster, timeout_s: float) -> Verdict:
    """Roles that the leader keeps must come to rest as they are wanted, and stay so while nothing happens."""
    wanted = cluster.wanted_roles
    assert wanted is not None
    begin = time.monotonic()
    while cluster.unsettled() and time.monotonic() - begin < timeout_s:
        time.sleep(_POLL_S)
    waited_s = time.monotonic() - begin
    looks = [cluster.statuses()]
    for _ in range(RESTS_S):
        time.sleep(1.0)
        looks.append(cluster.statuses())
    return check_roles(looks, [node.name for node in cluster.nodes], wanted, waited_s)


def _bring_back(node: ClusterNode, deadline: float, request_timeout_s: float) -> str | None:
    """Start it if need be and write through it; None when that worked, else what was the last trouble."""
    session = NodeSession(node, request_timeout_s)
    trouble = "no time was left"
    try:
        while time.monotonic() < deadline:
            try:
                if not node.is_running:
                    node.start()
                node.resume()
                session.execute(
                    "CREATE TABLE IF NOT EXISTS probe(id INTEGER PRIMARY KEY, node TEXT, at TEXT)"
                )
                session.execute("INSERT INTO probe(node, at) VALUES (?, datetime('now'))", [node.name])
            except Exception as error:  # noqa: BLE001 - repeated until the deadline, then reported
                session.close()
                trouble = f"{type(error).__name__}: {error}"
                time.sleep(_POLL_S)
            else:
                return None
    finally:
        session.close()
    return trouble


def compare_replicas(cluster: Cluster, timeout_s: float) -> Verdict:
    """All nodes, once idle at one log index, must have equal state hashes and equal contents."""
    try:
        states = cluster.final_states(timeout_s)
    except (JepsenError, OSError) as error:
        return Verdict("replicas", None, f"the nodes did not settle: {type(error).__name__}: {error}")
    details = {name: asdict(state) for name, state in states.items()}
    distinct = {(state.applied_index, state.state_hash, state.content) for state in states.values()}
    if len(distinct) == 1:
        [(index, digest, _content)] = distinct
        return Verdict("replicas", True, f"state {digest} after log index {index} on every node", details)
    shown = ", ".join(
        f"{name}: {state.state_hash}/{state.content[:12]} at {state.applied_index}"
        for name, state in states.items()
    )
    return Verdict("replicas", False, f"the nodes' states differ: {shown}", details)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - _TAIL_BYTES))
            return log.read().decode("utf-8", "replace")
    except OSError as error:
        return f"(no log: {error})"


def retry(action: Callable[[], None], timeout_s: float) -> str | None:
    """Repeat until it works or the time is over; None, or the last trouble."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            action()
        except (Failed, Unknown, OSError) as error:
            if time.monotonic() > deadline:
                return f"{type(error).__name__}: {error}"
            time.sleep(_POLL_S)
        else:
            return None
