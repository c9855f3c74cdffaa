"""Replay or explore: `python -m tests.simulation.cluster SEED [SEED | FIRST-LAST ...]`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator

from tests.simulation.cluster.run import DURATION_S, Outcome, run_seed


def seeds(words: list[str]) -> Iterator[int]:
    """7 or 100-199, any number of them."""
    for word in words:
        first, dash, last = word.partition("-")
        try:
            yield from range(int(first), int(last or first) + 1) if dash else (int(first),)
        except ValueError:
            raise SystemExit(f"{word!r} is no seed: give a number, or a range such as 100-199") from None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.cluster", description=__doc__)
    parser.add_argument("seeds", nargs="+", help="a seed, or a range FIRST-LAST")
    parser.add_argument("--log", action="store_true", help="print what the nodes log, with simulated times")
    parser.add_argument("--seconds", type=float, default=DURATION_S, help="simulated seconds under faults")
    parser.add_argument("--nodes", type=int, help="instead of the seed's own number, 1 to 7")
    parser.add_argument("--only", help="fault kinds, comma separated (see faults.ATLAS)")
    options = parser.parse_args()
    only = (
        None if options.only is None else [name.strip() for name in options.only.split(",") if name.strip()]
    )
    failed: list[Outcome] = []
    marks: Counter[str] = Counter()
    simulated = real = 0.0
    for seed in seeds(options.seeds):
        outcome = run_seed(
            seed,
            duration_s=options.seconds,
            node_count=options.nodes,
            only=only,
            live=sys.stdout if options.log else None,
        )
        simulated += outcome.simulated_s
        real += outcome.real_s
        marks += outcome.marks
        done = outcome.operations
        print(
            f"seed {seed}: {f'VIOLATION {outcome.violation}' if outcome.violation else 'ok'}; "
            f"{outcome.node_count} nodes, "
            f"{outcome.simulated_s:.1f} s in {outcome.real_s:.2f} s, {outcome.elections} elections, "
            f"{done['write acknowledged']} writes, {done['read acknowledged']} reads, "
            f"{done['write unknown']} unknown, {sum(outcome.faults.values())} faults, digest {outcome.digest}",
            flush=True,
        )
        if outcome.violation:
            failed.append(outcome)
    for outcome in failed:
        print("\n" + outcome.message())
    speed = simulated / max(real, 1e-9)
    print(f"{simulated:.0f} simulated s in {real:.1f} s: {speed:.1f} per second; {len(failed)} violations")
    for mark, count in sorted(marks.items()):
        print(f"  {count:8d}  {mark}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
