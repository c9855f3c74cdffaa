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

from jepsen.checkers.availability import HEALED
from jepsen.cluster.api import Cluster, ServerSettings
from jepsen.errors import HistoryError, MissingTool, SetupError
from jepsen.history.op import OpType
from jepsen.history.recorder import Recorder
from jepsen.report.folder import write_run
from jepsen.run.clients import Source, perform
from jepsen.run.healing import heal, retry
from jepsen.run.judging import check_logs, count, judge, leaves_majority
from jepsen.run.load import check_nodes, load
from jepsen.run.nemesis import Nemesis, NoFaults
from jepsen.run.options import Options, Result
from jepsen.run.session import NodeSession
from jepsen.verdict import Verdict
from jepsen.workloads import WORKLOADS
from jepsen.workloads.base import Workload

SETUP_S: Final = 30.0
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
            done = load(cluster, fault, sources, options)
            common = [*done.verdicts, *_heal(cluster, sources, options)]
            own = _finish(cluster, sources, options) if common[-1].valid is not None else {}
            cluster_kind = cluster.kind
            logs = [node.log_path for node in cluster.nodes]
            common.append(check_nodes(cluster, fault, done))
            common.append(
                check_logs(
                    logs,
                    may_differ=getattr(fault, "has_damaged_database", False),
                    may_fail=bool(getattr(fault, "own_exits", ())),
                )
            )
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
        judged = judge(
            workload.check,
            history,
            planned=options.rate * options.time_s,
            must_serve=getattr(fault, "spares_majority", False) and leaves_majority(options.nodes),
        )
        result.verdicts = [*judged, *own.get(workload.name, []), *common]
        result.counts = count(history)
        result.test = _describe(result, options, cluster_kind, workload, list(workloads))
        write_run(result, history, pictures=options.pictures)
        results.append(result)
    if not any(result.valid is False for result in results):
        shutil.rmtree(work, ignore_errors=True)  # after a violation the nodes' data are evidence
    return results


def _heal(cluster: Cluster, sources: Sequence[Source], options: Options) -> list[Verdict]:
    """Bring back what is not back yet, wait for health, compare the replicas."""
    verdicts = heal(cluster, options.heal_timeout_s, options.request_timeout_s)
    for source in sources:
        source.recorder.nemesis(HEALED, {verdict.checker: verdict.summary for verdict in verdicts})
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
