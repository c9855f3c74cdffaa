"""One run: a cluster, workloads and a nemesis together; then healing, final reads, checks, report.

Several workloads may share the cluster and the nemesis, each with its own tables, history, verdict and folder.
Whatever ends a run, the cluster is removed. The seed fixes the operations and the nemesis' choices and waits,
not the threads' timing: two runs of one seed are alike, not equal.
"""

from __future__ import annotations

import os
import platform
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from jepsen.cluster.api import Cluster, ServerSettings
from jepsen.errors import HistoryError, MissingTool, SetupError
from jepsen.history.op import OpType
from jepsen.history.recorder import Recorder
from jepsen.report.folder import write_run
from jepsen.run.clients import ClientThread, Source, perform
from jepsen.run.healing import heal, retry
from jepsen.run.judging import check_logs, count, judge
from jepsen.run.nemesis import Nemesis, NemesisThread, NoFaults
from jepsen.run.options import Options, Result
from jepsen.run.session import NodeSession
from jepsen.verdict import Verdict
from jepsen.workloads import WORKLOADS
from jepsen.workloads.base import Workload

SETUP_S: Final = 30.0
NEMESIS_STOP_S: Final = 90.0  # a removal or a join under way may take this long
JOIN_SLACK_S: Final = 5.0
FINAL_S: Final = 60.0
# So little that runs of seconds compact their logs, and nodes that were away need snapshots.
SERVERS: Final = ServerSettings(
    compact_log_bytes=192 * 1024, log_tail_bytes=32 * 1024, segment_bytes=48 * 1024
)

Say = Callable[[str], None]
MakeCluster = Callable[[str, Path, int], AbstractContextManager[Cluster]]


def run(workload: str, nemesis: str, options: Options, out: Path, say: Say = print) -> Result:
    """One workload under one nemesis; the folder is made below `out`. Raises as `run_together`."""
    return run_together([workload], nemesis, options, out, say)[0]


def run_together(
    workloads: Sequence[str],
    nemesis: str,
    options: Options,
    out: Path,
    say: Say = print,
    make_cluster: MakeCluster | None = None,
    make_nemesis: Callable[[str], Nemesis] | None = None,
) -> list[Result]:
    """Workloads side by side on one cluster under one nemesis; one result each, in the order given.

    Raises SetupError for unknown names or a cluster that does not come up, MissingTool where the machine lacks
    what the nemesis needs. Takes about time_s + 15 s; at most time_s, the heal timeout and 3 minutes.
    """
    kinds = [_find(WORKLOADS, name, "workload") for name in workloads]
    fault = (make_nemesis or _make_nemesis)(nemesis)
    started = datetime.now()
    folders = [_make_folder(out, started, name, nemesis) for name in workloads]
    work = folders[0] / "nodes"
    recorders: list[Recorder] = []
    try:
        make = make_cluster or partial(_make_cluster, with_faults=_takes_faults(fault))
        with make(options.kind, work, options.nodes) as cluster:
            missing = fault.missing(cluster)
            if missing:
                raise MissingTool(f"nemesis {nemesis}: {missing}")
            running = [kind(random.Random(f"{options.seed}/{kind.name}")) for kind in kinds]
            _set_up(cluster, running, options)
            recorders += [Recorder(folder / "history.edn") for folder in folders]
            sources = [
                Source(workload, recorder, options.clients)
                for workload, recorder in zip(running, recorders, strict=True)
            ]
            say(
                f"{nemesis}: {', '.join(workloads)} on {options.nodes} nodes ({cluster.kind}) for {options.time_s:g} s"
            )
            common = _load(cluster, fault, sources, options)
            common += _heal(cluster, fault, sources, options)
            own = _finish(cluster, sources, options) if common[-1].valid is not None else {}
            cluster_kind = cluster.kind
            logs = [node.log_path for node in cluster.nodes]
            common.append(check_logs(logs, nemesis))
            common += _check_damaged_nodes(fault)
            _keep_logs(logs, folders)
    except BaseException:
        for recorder in recorders:
            recorder.close()
        if recorders:  # broken off: what the clients saw and the nodes said is kept
            _keep_logs(sorted(work.glob("*.log")), folders)
            shutil.rmtree(work, ignore_errors=True)
        else:  # nothing was tested: no folder that looks like a run
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        raise
    results = []
    for source, folder in zip(sources, folders, strict=True):
        source.recorder.close()
        workload = source.workload
        history = source.recorder.history()
        result = Result(workload.name, nemesis, folder, started.isoformat(timespec="seconds"))
        result.verdicts = [*judge(workload.check, history), *own.get(workload.name, []), *common]
        result.counts = count(history)
        result.test = _describe(result, options, cluster_kind, workload, list(workloads))
        write_run(result, history, pictures=options.pictures)
        results.append(result)
    if not any(result.valid is False for result in results):
        shutil.rmtree(work, ignore_errors=True)  # after a violation the nodes' data are evidence
    return results


def _load(cluster: Cluster, fault: Nemesis, sources: Sequence[Source], options: Options) -> list[Verdict]:
    """Clients and nemesis for `time_s`; returns the verdict "faults"."""
    stop_clients, stop_nemesis = threading.Event(), threading.Event()
    nodes = cluster.nodes
    clients = [
        ClientThread(
            source,
            lambda node=node: NodeSession(node, options.request_timeout_s),  # type: ignore[misc]
            process,
            node.name,
            random.Random(f"{options.seed}/{source.workload.name}/{process}"),
            options.rate / options.clients,
            stop_clients,
        )
        for source in sources
        for process in range(options.clients)
        for node in [nodes[process % len(nodes)]]
    ]
    recorders = [source.recorder for source in sources]
    nemesis = NemesisThread(
        fault, cluster, random.Random(f"{options.seed}/{fault.name}"), recorders, stop_nemesis, options.time_s
    )
    try:
        for thread in (*clients, nemesis):
            thread.start()
        time.sleep(options.time_s)
    finally:
        stop_nemesis.set()
        nemesis.join(NEMESIS_STOP_S)
        stop_clients.set()
        deadline = time.monotonic() + 2 * options.request_timeout_s + JOIN_SLACK_S
        for client in clients:
            client.join(max(0.0, deadline - time.monotonic()))
    stuck = [thread.name for thread in (*clients, nemesis) if thread.is_alive()]
    details: dict[str, Any] = {"starts": nemesis.starts, "errors": nemesis.errors, "stuck": stuck}
    if fault.violations:
        summary = f"the nemesis saw {len(fault.violations)}: {fault.violations[0]}"
        return [Verdict("faults", False, summary, {**details, "violations": fault.violations})]
    if stuck:
        return [Verdict("faults", None, f"threads did not end in time: {', '.join(stuck)}", details)]
    if isinstance(fault, NoFaults):
        return [Verdict("faults", True, "none, as asked", details)]
    if not nemesis.starts:
        reason = nemesis.errors[0] if nemesis.errors else "the time was too short for one"
        return [Verdict("faults", None, f"no fault was ever started: {reason}", details)]
    return [
        Verdict("faults", True, f"{nemesis.starts} faults, {len(nemesis.errors)} that did not work", details)
    ]


def _check_damaged_nodes(fault: Nemesis) -> list[Verdict]:
    """What the nemesis itself saw a node do that it must not do, such as serving from a damaged folder."""
    violations: list[str] = list(getattr(fault, "violations", ()))
    if not violations:
        return []
    return [Verdict("damaged-nodes", False, violations[0], {"violations": violations})]


def _heal(cluster: Cluster, fault: Nemesis, sources: Sequence[Source], options: Options) -> list[Verdict]:
    """Undo the faults, wait for health, then every node's final operations."""
    error: str | None = None
    try:
        fault.final(cluster)
    except Exception as trouble:  # noqa: BLE001 - recorded; `heal` tries on and judges
        error = f"{type(trouble).__name__}: {trouble}"
    for source in sources:
        source.recorder.nemesis(f"final-{fault.name}", {"error": error} if error else None)
    verdicts = heal(cluster, options.heal_timeout_s, options.request_timeout_s)
    for source in sources:
        source.recorder.nemesis("healed", {verdict.checker: verdict.summary for verdict in verdicts})
    return verdicts


def _finish(cluster: Cluster, sources: Sequence[Source], options: Options) -> dict[str, list[Verdict]]:
    """Every node's final operations, all workloads at once; per workload the verdict "final-operations"."""
    verdicts: dict[str, list[Verdict]] = {}

    def work(source: Source) -> None:
        verdicts[source.workload.name] = [_final_operations(cluster, source, options)]

    threads = [threading.Thread(target=work, args=(source,), daemon=True) for source in sources]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + FINAL_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = [Verdict("final-operations", None, f"not done within {FINAL_S:g} s")]
    return {source.workload.name: verdicts.get(source.workload.name, late) for source in sources}


def _final_operations(cluster: Cluster, source: Source, options: Options) -> Verdict:
    requests = source.workload.final()
    missed: list[str] = []
    for node in cluster.nodes:
        session = NodeSession(node, options.request_timeout_s * 2)
        for request in requests:
            try:
                kind = perform(source, session, source.new_process(), request, node.name)
            except HistoryError:
                kind = OpType.INFO  # too late: the run did not wait for it
            if kind is not OpType.OK:
                missed.append(f"{request.f} on {node.name}")
        session.close()
    if missed:
        summary = (
            f"{len(missed)} of {len(requests) * len(cluster.nodes)} failed on the healed cluster: {missed[0]}"
        )
        return Verdict("final-operations", None, summary, {"missed": missed})
    return Verdict("final-operations", True, f"every node answered all {len(requests)}")


def _set_up(cluster: Cluster, workloads: Sequence[Workload], options: Options) -> None:
    session = NodeSession(cluster.nodes[0], options.request_timeout_s * 4)
    try:
        for workload in workloads:
            trouble = retry(lambda workload=workload: workload.setup(session), SETUP_S)  # type: ignore[misc]
            if trouble:
                raise SetupError(
                    f"workload {workload.name} could not make its tables within {SETUP_S:g} s: {trouble}"
                )
    finally:
        session.close()


def _takes_faults(fault: Nemesis) -> bool:
    """The fault library is needed, or (mixed) used where it is to be had."""
    return fault.name == "mixed" or getattr(fault, "needs_faults", False)


@contextmanager
def _make_cluster(kind: str, folder: Path, nodes: int, *, with_faults: bool) -> Iterator[Cluster]:
    """`with_faults`: nodes run with the fault library, which costs time; without it only when none is asked for."""
    from jepsen.cluster.make import make_cluster
    from jepsen.faults.kit import FaultKit

    with FaultKit(folder / "faults") if with_faults else nullcontext() as kit:
        options = {} if kit is None else kit.options()
        with make_cluster(kind, folder, nodes, settings=SERVERS, **options) as cluster:
            yield cluster


def _make_nemesis(name: str) -> Nemesis:
    if name == NoFaults.name:
        return NoFaults()
    from jepsen.nemeses import NEMESES

    return cast(Nemesis, _find(NEMESES, name, "nemesis")())


def _find(registry: Any, name: str, what: str) -> Any:
    if name not in registry:
        raise SetupError(f"there is no {what} {name!r}; choose one of {', '.join(sorted(registry))}")
    return registry[name]


def _make_folder(out: Path, started: datetime, workload: str, nemesis: str) -> Path:
    stamp = started.strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        folder = out / f"{stamp}-{workload}-{nemesis}{f'-{attempt}' if attempt else ''}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise SetupError(f"cannot make the folder {folder}: {error}; choose another --out") from None
        return folder
    raise SetupError(f"{out} holds a thousand runs of {stamp}; choose another --out")


def _keep_logs(logs: Sequence[Path], folders: Sequence[Path]) -> None:
    """Every run's folder is complete in itself; runs that shared a cluster share the bytes (hard links)."""
    first: dict[Path, Path] = {}
    for folder in folders:
        target = folder / "logs"
        target.mkdir(exist_ok=True)
        for log in logs:
            copy = target / log.name
            if not log.exists():
                continue
            try:
                os.link(first[log], copy)
            except (KeyError, OSError):
                shutil.copyfile(log, copy)
                first[log] = copy


def _describe(
    result: Result, options: Options, kind: str, workload: Workload, together: list[str]
) -> dict[str, Any]:
    import apsw

    return {
        "workload": result.workload,
        "nemesis": result.nemesis,
        "started": result.started,
        "options": asdict(options),
        "kind": kind,
        "workload-options": workload.options(),
        "together-with": [name for name in together if name != result.workload],
        "versions": {
            "python": platform.python_version(),
            "sqlite": apsw.sqlite_lib_version(),
            "kernel": platform.release(),
        },
        "repeat": (
            f"python -m jepsen run --workload {','.join(together)} --nemesis {result.nemesis}"
            f" --time {options.time_s:g} --seed {options.seed} --kind {kind} --nodes {options.nodes}"
            f" --clients {options.clients} --rate {options.rate:g}"
        ),
    }
