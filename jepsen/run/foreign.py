"""Checkers by name for histories of any origin: `python -m jepsen check NAME history.edn`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from jepsen.checkers.bank import check_bank
from jepsen.checkers.durable_set import check_durable_set
from jepsen.checkers.elle import check_append
from jepsen.checkers.exactly_once import check_exactly_once
from jepsen.checkers.linearizable import (
    Counter,
    FifoQueue,
    Model,
    MultiRegister,
    Mutex,
    check_model,
    check_register,
)
from jepsen.checkers.long_fork import check_long_fork
from jepsen.checkers.unique import check_sequence, check_unique_ids
from jepsen.errors import HistoryError, SetupError
from jepsen.history.history import History, read_history
from jepsen.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Checker:
    """A checker, one line about it, and which options of the command it takes."""

    check: Callable[..., Verdict]
    about: str
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


def _check_data_type(make: Callable[[], Model], history: History) -> Verdict:
    return check_model(history, make())


CHECKERS: Final[dict[str, Checker]] = {
    "register": Checker(
        check_register, "linearizable registers; values v, or [k v] as of Jepsen's independent keys"
    ),
    **{
        make.name: Checker(partial(_check_data_type, make), f"linearizable {words}")
        for make, words in (
            (MultiRegister, "registers that one operation reads or writes several of"),
            (Mutex, "lock: acquire and release"),
            (FifoQueue, "queue: enqueue and dequeue"),
            (Counter, "counter: add and read"),
        )
    },
    "append": Checker(check_append, "cycles in list-append transactions, as Elle finds them", ("model",)),
    "bank": Checker(check_bank, "constant total and no negative balance", ("total",), ("total",)),
    "set": Checker(check_durable_set, "acknowledged elements that were lost, and such as nobody added"),
    "unique-ids": Checker(check_unique_ids, "ids given twice"),
    "sequence": Checker(check_sequence, "ids that do not grow in real time"),
    "long-fork": Checker(
        check_long_fork, "reads that see two writes in opposite orders", ("group",), ("group",)
    ),
    "exactly-once": Checker(check_exactly_once, "retried adds applied twice or lost"),
}


_ARGUMENTS: Final = {"group": "group_size"}
_MEANING: Final = {"total": "the sum of all balances", "group": "how many keys are read together"}


def check_file(name: str, path: Path, options: dict[str, Any]) -> Verdict:
    """Judge the history in a file. Raises SetupError for a wrong name or option, HistoryError for the file."""
    if name not in CHECKERS:
        raise SetupError(f"there is no checker {name!r}; choose one of {', '.join(CHECKERS)}")
    checker = CHECKERS[name]
    given = {key: value for key, value in options.items() if value is not None}
    foreign = [key for key in given if key not in checker.options]
    if foreign:
        raise SetupError(f"checker {name} takes no --{foreign[0]}")
    missing = [key for key in checker.required if key not in given]
    if missing:
        raise SetupError(f"checker {name} needs --{missing[0]}: {_MEANING[missing[0]]}")
    arguments = {_ARGUMENTS.get(key, key): value for key, value in given.items()}
    if name == "register":
        arguments["keyed"] = None  # foreign histories have one register or many: found out from the values
    try:
        return checker.check(read_history(path), **arguments)
    except HistoryError as error:
        if error.path is not None:
            raise
        raise HistoryError(str(error), path=path) from None
    except RecursionError:
        raise HistoryError(
            "values are nested too deeply",
            path=path,
            expected="operations whose values are a few levels deep",
        ) from None
    except ValueError as error:
        raise SetupError(f"checker {name}: {error}") from None
