"""The load: clients and a nemesis on one cluster, until it serves again after the last fault.

The verdicts of this module say whether the run was what it claims to be: clients and nemesis lived to the end, faults
happened, every node was asked and answered, and no node ended by itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from jepsen.cluster.api import Cluster
from jepsen.run.clients import ClientThread, Source
from jepsen.run.judging import SERVES_AGAIN_S
from jepsen.run.nemesis import Nemesis, NemesisThread, NoFaults
from jepsen.run.options import Options
from jepsen.run.session import NodeSession
from jepsen.verdict import Verdict

NEMESIS_STOP_S: Final = 90.0  # a removal or a join under way may take this long
JOIN_SLACK_S: Final = 5.0
_POLL_S: Final = 0.02
_TRIES_MIN: Final = 10  # on a node; fewer may all have fallen into one fault


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it: verdicts "faults" and "clients", operations and successes by node, nodes that were not back."""

    verdicts: list[Verdict]
    asked: Counter[str]
    served: Counter[str]
    gone: list[str]


def load(cluster: Cluster, fault: Nemesis, sources: Sequence[Source], options: Options) -> Load:
    """Load for `time_s`; then the last fault is undone, and clients go on until each workload is served again.

    Whatever interrupts it, no thread is waited for.
    """
    stop_clients, stop_nemesis = threading.Event(), threading.Event()
    clients = _clients(cluster, sources, options, stop_clients)
    nemesis = NemesisThread(
        fault,
        cluster,
        random.Random(f"{options.seed}/{fault.name}"),
        [source.recorder for source in sources],
        stop_nemesis,
        options.time_s,
    )
    try:
        for thread in (*clients, nemesis):
            thread.start()
        time.sleep(options.time_s)
        stop_nemesis.set()
        nemesis.join(NEMESIS_STOP_S)
        gone = _gone(cluster, nemesis)
        _undo(cluster, fault, sources)
        _wait_served(sources, min(SERVES_AGAIN_S, options.heal_timeout_s))
    finally:
        stop_nemesis.set()
        stop_clients.set()
    deadline = time.monotonic() + 2 * options.request_timeout_s + JOIN_SLACK_S
    for client in clients:
        client.join(max(0.0, deadline - time.monotonic()))
    stuck = [thread.name for thread in (*clients, nemesis) if thread.is_alive()]
    return Load(
        [_check_faults(fault, nemesis, stuck), _check_clients(clients)],
        sum((source.asked for source in sources), Counter()),
        sum((source.served for source in sources), Counter()),
        gone,
    )


def _clients(
    cluster: Cluster, sources: Sequence[Source], options: Options, stop: threading.Event
) -> list[ClientThread]:
    nodes = cluster.nodes
    return [
        ClientThread(
            source,
            lambda node=node, process=process: NodeSession(  # type: ignore[misc]
                node, options.request_timeout_s, nodes, random.Random(f"{options.seed}/session/{process}")
            ),
            process,
            node.name,
            random.Random(f"{options.seed}/{source.workload.name}/{process}"),
            options.rate / options.clients,
            stop,
        )
        for source in sources
        for process in range(options.clients)
        for node in [nodes[process % len(nodes)]]
    ]


def _undo(cluster: Cluster, fault: Nemesis, sources: Sequence[Source]) -> None:
    value: Any
    try:
        value = fault.final(cluster)
    except Exception as trouble:  # noqa: BLE001 - recorded; the healing tries on and judges
        value = {"error": f"{type(trouble).__name__}: {trouble}"}
    for source in sources:
        source.recorder.nemesis(f"final-{fault.name}", value)


def _wait_served(sources: Sequence[Source], timeout_s: float) -> None:
    """Until each workload had a success that was invoked from now on; the checker of availability says how it went."""
    since = [source.recorder.now_ns() for source in sources]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if all(source.served_ns >= now for source, now in zip(sources, since, strict=True)):
            return
        time.sleep(_POLL_S)


def _gone(cluster: Cluster, nemesis: NemesisThread) -> list[str]:
    """Nodes that do not run although the last fault was undone."""
    if nemesis.is_alive() or not nemesis.is_undone:
        return []
    return [node.name for node in cluster.nodes if not node.is_running]


def _check_faults(fault: Nemesis, nemesis: NemesisThread, stuck: list[str]) -> Verdict:
    details: dict[str, Any] = {"starts": nemesis.starts, "errors": nemesis.errors, "stuck": stuck}
    if fault.violations:
        summary = f"the nemesis saw {len(fault.violations)}: {fault.violations[0]}"
        return Verdict("faults", False, summary, {**details, "violations": list(fault.violations)})
    if stuck:
        return Verdict("faults", None, f"threads did not end in time: {', '.join(stuck)}", details)
    if isinstance(fault, NoFaults):
        return Verdict("faults", True, "none, as asked", details)
    if nemesis.trouble:
        return Verdict("faults", None, f"the nemesis ended before its time: {nemesis.trouble}", details)
    if nemesis.starts < 1:
        reason = nemesis.errors[0] if nemesis.errors else "the time was too short for one"
        return Verdict("faults", None, f"no fault ever happened: {reason}", details)
    return Verdict(
        "faults", True, f"{nemesis.starts} faults, {len(nemesis.errors)} that did not work", details
    )


def _check_clients(clients: Sequence[ClientThread]) -> Verdict:
    dead = {client.name: client.trouble for client in clients if client.trouble}
    if not dead:
        return Verdict("clients", True, f"all {len(clients)} went on to the end")
    name, trouble = next(iter(dead.items()))
    summary = f"{len(dead)} of {len(clients)} ended before their time, first {name}: {trouble}"
    return Verdict("clients", None, summary, {"ended": dead})


def check_nodes(cluster: Cluster, fault: Nemesis, done: Load) -> Verdict:
    """Every node served somebody, and none ended by itself but for codes that the nemesis provokes (`own_exits`)."""
    allowed: frozenset[int] = getattr(fault, "own_exits", frozenset())
    exits: dict[str, list[int]] = {}
    for node in cluster.nodes:
        node.note_exit()
        exits[node.name] = [code for code in node.own_exits if code not in allowed]
    details = {
        "asked": dict(done.asked),
        "served": dict(done.served),
        "own-exits": exits,
        "not-back": done.gone,
    }
    ended = [f"{name} with {codes[0]}" for name, codes in exits.items() if codes]
    if ended:
        return Verdict("nodes", False, f"ended by itself: {', '.join(ended)}; see its log", details)
    if done.gone:
        summary = f"{', '.join(done.gone)} did not run though the last fault was undone; see its log"
        return Verdict("nodes", False, summary, details)
    unasked = [node.name for node in cluster.nodes if not done.asked[node.name]]
    if unasked:
        summary = f"nobody asked {', '.join(unasked)}: give --clients {len(cluster.nodes)}, or more time"
        return Verdict("nodes", None, summary, details)
    silent = [
        node.name
        for node in cluster.nodes
        if not done.served[node.name] and done.asked[node.name] >= _TRIES_MIN
    ]
    if silent:
        return Verdict("nodes", None, f"no operation ever succeeded on {', '.join(silent)}", details)
    return Verdict("nodes", True, "each served its clients, none ended by itself", details)
