"""`python -m jepsen`: arguments, messages and exit codes. Knows no cluster and no checker itself.

Exit codes: 0 everything valid; 1 a violation was found; 2 wrong usage, or something could not be set up;
3 unknown (nothing proved, not passed); 130 and 143 after an interrupt, with everything removed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from jepsen.errors import JepsenError, SetupError
from jepsen.run.options import KINDS, Options

VALID, VIOLATION, USAGE, UNKNOWN = 0, 1, 2, 3
OUT: Final = Path("results/jepsen")
_CODES: Final[dict[bool | None, int]] = {True: VALID, False: VIOLATION, None: UNKNOWN}

EPILOG: Final = """\
exit codes: 0 valid, 1 a violation, 2 wrong usage or set-up, 3 unknown (proves nothing, counts as not passed)

examples:
  python -m jepsen run --workload register --nemesis partition-halves --time 60
  python -m jepsen all --time 20
  python -m jepsen check append store/latest/history.edn
"""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jepsen",
        description="Real clusters under real faults, and checkers that say what the clients saw.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    one = commands.add_parser("run", help="one workload under one nemesis")
    one.add_argument(
        "--workload", "-w", required=True, metavar="NAME", help="see `list`; several: a,b,c share a cluster"
    )
    one.add_argument("--nemesis", "-n", default="none", metavar="NAME", help="see `list` (default: none)")
    one.add_argument("--time", type=float, default=30.0, metavar="S", help="seconds of load (default: 30)")
    one.add_argument("--clients", type=int, default=10, help="client threads per workload (default: 10)")
    one.add_argument(
        "--rate", type=float, default=100.0, help="operations per second and workload (default: 100)"
    )
    _cluster_options(one)

    everything = commands.add_parser(
        "all",
        help="every workload under every nemesis, under 20 minutes by default",
        description="For each nemesis one fresh cluster, all workloads on it side by side.",
    )
    everything.add_argument(
        "--time", type=float, metavar="S", help="seconds of load per nemesis (default: what fits)"
    )
    everything.add_argument("--workloads", metavar="A,B", help="only these")
    everything.add_argument("--nemeses", metavar="A,B", help="only these")
    _cluster_options(everything)

    ci = commands.add_parser("ci", help="a small fixed subset, under 180 seconds")
    _cluster_options(ci)

    check = commands.add_parser(
        "check", help="judge a history of any origin (EDN as Jepsen writes it, or JSON lines)"
    )
    check.add_argument("checker", metavar="CHECKER", help="see `list`")
    check.add_argument("history", type=Path, metavar="HISTORY")
    check.add_argument("--total", type=int, help="bank: the sum of all balances")
    check.add_argument("--group", type=int, help="long-fork: keys per group")
    check.add_argument(
        "--model", help="append: strict-serializable (default), serializable or snapshot-isolation"
    )
    check.add_argument(
        "--draw", type=Path, metavar="FILE.svg", help="write the violation's timeline to this file"
    )

    commands.add_parser("list", help="workloads, nemeses with what each needs, checkers")

    index = commands.add_parser("index", help="rebuild the index of all runs")
    index.add_argument("--out", type=Path, default=OUT, help=f"folder of the runs (default: {OUT})")
    return parser


def _cluster_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=int, default=1, help="fixes operations and faults, not thread timing (default: 1)"
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="auto",
        help="where nodes run (default: namespaces where the rights allow it)",
    )
    parser.add_argument("--nodes", type=int, default=5, help="nodes of the cluster (default: 5)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the runs (default: {OUT})")
    parser.add_argument("--no-pictures", action="store_true", help="no PNG files (matplotlib is not needed)")


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    try:
        return int(COMMANDS[options.command](options))
    except JepsenError as error:
        print(f"jepsen: {error}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"jepsen: the system refused: {error}", file=sys.stderr)
        return USAGE
    except Exception:  # noqa: BLE001 - Python's own exit code for it would say "violation"
        traceback.print_exc()
        print("jepsen: a mistake of the suite itself, not a verdict", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("jepsen: interrupted; the cluster was removed", file=sys.stderr)
        return 130


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwinds the stack, so that the cluster is removed on the way."""
    print(f"jepsen: ended by signal {number}; the cluster is being removed", file=sys.stderr)
    raise SystemExit(128 + number)


def run(options: argparse.Namespace) -> int:
    from jepsen.report.index import write_index
    from jepsen.run.campaign import one_line
    from jepsen.run.options import combine
    from jepsen.run.runner import run_together

    settings = _settings(options, options.time, clients=options.clients, rate=options.rate)
    results = run_together(_names(options.workload), options.nemesis, settings, options.out)
    for result in results:
        print(one_line(result))
    if all(result.valid for result in results):
        print(f"results in {', '.join(str(result.folder) for result in results)}")
    print(f"index: {write_index(options.out)}")
    return _CODES[combine([result.valid for result in results])]


def nemesis_names() -> list[str]:
    """All nemeses, "none" first."""
    from jepsen.nemeses import NEMESES
    from jepsen.run.nemesis import NoFaults

    return [NoFaults.name, *(name for name in NEMESES if name != NoFaults.name)]


def run_all(options: argparse.Namespace) -> int:
    from jepsen.run.campaign import BUDGET_S, TIME_MIN_S
    from jepsen.workloads import WORKLOADS

    workloads = _known(options.workloads, list(WORKLOADS), "workload")
    nemeses = _known(options.nemeses, nemesis_names(), "nemesis")
    if options.time is None:
        return _campaign(options, workloads, nemeses, TIME_MIN_S, BUDGET_S)
    return _campaign(options, workloads, nemeses, options.time)


def run_ci(options: argparse.Namespace) -> int:
    from jepsen.run.campaign import CI_NEMESES, CI_TIME_S
    from jepsen.workloads import WORKLOADS

    return _campaign(options, list(WORKLOADS), list(CI_NEMESES), CI_TIME_S, may_skip=False)


def _campaign(
    options: argparse.Namespace,
    workloads: list[str],
    nemeses: list[str],
    time_s: float,
    budget_s: float | None = None,
    *,
    may_skip: bool = True,
) -> int:
    """`may_skip`: what this machine cannot do is left out; else it makes the whole unknown."""
    from jepsen.report.index import write_index
    from jepsen.run.campaign import run_campaign

    settings = _settings(options, time_s)
    campaign = run_campaign(workloads, nemeses, settings, options.out, _say, budget_s=budget_s)
    options.out.mkdir(parents=True, exist_ok=True)
    index = write_index(options.out)
    tally = {
        valid: sum(result.valid is valid for result in campaign.results) for valid in (True, False, None)
    }
    print(f"{tally[True]} valid, {tally[False]} invalid, {tally[None]} unknown; index: {index}")
    for name, reason in campaign.skipped.items():
        print(f"skipped {name}: {reason}")
    for name, reason in campaign.failed.items():
        print(f"could not run {name}: {reason}")
    if tally[False]:
        return VIOLATION
    if campaign.failed:
        return USAGE
    return UNKNOWN if campaign.skipped and not may_skip else _CODES[campaign.valid]


def _say(text: str) -> None:
    print(text, flush=True)


def check(options: argparse.Namespace) -> int:
    from jepsen.history.files import format_op
    from jepsen.report.svg import timeline
    from jepsen.run.foreign import check_file

    verdict = check_file(
        options.checker,
        options.history,
        {"total": options.total, "group": options.group, "model": options.model},
    )
    word = {True: "valid", False: "INVALID", None: "unknown"}[verdict.valid]
    print(f"{word}: {verdict.checker}: {verdict.summary}")
    if verdict.counterexample:
        print("smallest set of operations found:")
        for op in verdict.counterexample:
            print(f"  {format_op(op)}")
    if options.draw is not None and verdict.counterexample:
        try:
            options.draw.write_text(timeline(verdict.counterexample), encoding="utf-8")
        except OSError as error:
            raise SetupError(f"cannot write {options.draw}: {error}") from None
    return _CODES[verdict.valid]


def show_list(_options: argparse.Namespace) -> int:
    from jepsen.nemeses import NEMESES
    from jepsen.run.foreign import CHECKERS
    from jepsen.run.nemesis import NoFaults
    from jepsen.workloads import WORKLOADS

    print("workloads:")
    for name, kind in WORKLOADS.items():
        print(f"  {name:14} {kind.about}")
    print("nemeses:")
    print(f"  {NoFaults.name:22} {about(NoFaults())}")
    for name, make in NEMESES.items():
        print(f"  {name:22} {about(make())}")
    print("checkers:")
    for name, checker in CHECKERS.items():
        print(f"  {name:14} {checker.about}")
    return VALID


def about(nemesis: object) -> str:
    """The first line of what a nemesis says of itself."""
    return ((type(nemesis).__doc__ or "").strip().splitlines() or [""])[0]


def rebuild_index(options: argparse.Namespace) -> int:
    from jepsen.report.index import write_index

    print(write_index(options.out))
    return VALID


COMMANDS: Final = {
    "run": run,
    "all": run_all,
    "ci": run_ci,
    "check": check,
    "list": show_list,
    "index": rebuild_index,
}


def _kind(kind: str) -> str:
    """What "auto" means on this machine; says so when it is not the better one."""
    if kind != "auto":
        return kind
    from jepsen.cluster.make import why_no_namespaces

    reason = why_no_namespaces()
    if reason is None:
        return "namespaces"
    print(f"jepsen: on loopback, since this machine allows no namespaces: {reason}", file=sys.stderr)
    return "loopback"


def _settings(options: argparse.Namespace, time_s: float, **more: float) -> Options:
    return Options(
        time_s=time_s,
        seed=options.seed,
        kind=_kind(options.kind),
        nodes=options.nodes,
        pictures=not options.no_pictures,
        **more,  # type: ignore[arg-type]
    )


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise SetupError(f"{text!r} names nothing; see `python -m jepsen list`")
    return list(dict.fromkeys(names))


def _known(text: str | None, known: list[str], what: str) -> list[str]:
    names = known if text is None else _names(text)
    for name in names:
        if name not in known:
            raise SetupError(f"there is no {what} {name!r}; choose from {', '.join(known)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
