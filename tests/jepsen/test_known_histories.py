"""Every checker on small histories with known verdicts: histories/*.edn; their leading comments hold the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from jepsen.checkers.bank import check_bank
from jepsen.checkers.durable_set import check_durable_set
from jepsen.checkers.elle import check_append
from jepsen.checkers.exactly_once import check_exactly_once
from jepsen.checkers.long_fork import check_long_fork
from jepsen.checkers.unique import check_sequence, check_unique_ids
from jepsen.history.history import History, read_history
from jepsen.verdict import Verdict

FOLDER: Final = Path(__file__).parent / "histories"
CHECKERS: Final[dict[str, Callable[..., Verdict]]] = {
    "append": check_append,
    "bank": check_bank,
    "exactly-once": check_exactly_once,
    "long-fork": check_long_fork,
    "sequence": check_sequence,
    "set": check_durable_set,
    "unique-ids": check_unique_ids,
}
# Values of `details` that are counts or figures, not lists of anomalies.
FIGURES: Final = {"attempted", "acknowledged", "stable", "reads", "early-reads", "late-reads"}


def _cases() -> list[Path]:
    return sorted(path for path in FOLDER.glob("*.edn") if "; checker: " in path.read_text(encoding="utf-8"))


def _header(path: Path) -> dict[str, str]:
    lines = [line[2:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("; ")]
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _check(path: Path) -> tuple[Verdict, Callable[[History], Verdict]]:
    name, options = _header(path)["checker"].strip().split(" ", 1)

    def check(history: History) -> Verdict:
        return CHECKERS[name](history, **json.loads(options))

    return check(read_history(path)), check


def _anomalies(details: dict[str, Any]) -> set[str]:
    return {
        name for name, found in details.items() if isinstance(found, list) and found and name not in FIGURES
    }


@pytest.mark.parametrize("path", _cases(), ids=lambda path: path.stem)
def test_verdict_and_anomalies_are_those_of_the_header(path: Path) -> None:
    header = _header(path)
    verdict, _check_again = _check(path)
    assert verdict.valid is json.loads(header["valid"]), verdict.summary
    assert _anomalies(verdict.details) == set(header["anomalies"].split())
    json.dumps(verdict.details)


@pytest.mark.parametrize(
    "path", [path for path in _cases() if "\n; valid: false" in path.read_text()], ids=lambda p: p.stem
)
def test_the_counterexample_alone_is_invalid(path: Path) -> None:
    verdict, check_again = _check(path)
    assert verdict.counterexample
    again = check_again(History(verdict.counterexample))
    # The set checkers judge the add by its acknowledgement; a read alone can still show the surplus.
    assert again.valid is False
    assert _anomalies(again.details) <= _anomalies(verdict.details) | {"unexpected", "garbage-read"}


def test_every_checker_has_valid_and_invalid_histories() -> None:
    seen = {(_header(path)["checker"].split()[0], _header(path)["valid"].strip()) for path in _cases()}
    assert seen >= {(name, valid) for name in CHECKERS for valid in ("true", "false")}
