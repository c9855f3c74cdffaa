"""Bank: every read shows all accounts at once, their sum never changes, no balance is negative.

Judges single reads only: a stale read of a consistent state passes.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any, Final

from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import Op, OpType, Pair
from jepsen.verdict import Verdict

CHECKER: Final = "bank"
EXPLAINED_MAX: Final = 8
_TRANSFER: Final = "a map with :from, :to and :amount"


def check_bank(
    history: History,
    *,
    total: int | None = None,
    accounts: Collection[Hashable] | None = None,
    allows_negative: bool = False,
) -> Verdict:
    """Check every read `{account: balance}`.

    `total`: what balances must add up to; None: what the first read shows. `accounts`: those that must be in each
    read; None: those of the first read and of every transfer. `details`: anomaly (`wrong-total`,
    `negative-balance`, `missing-account`, `unknown-account`, `no-balance`) -> explanations. `counterexample`: the first
    bad read, with its invocation. `valid` None: no read was completed.

    Raises HistoryError for a read that is no map of numbers or a transfer without its three keys, naming the index.
    """
    pairs = history.pairs()
    reads = [pair for pair in pairs if pair.invoke.f == "read" and pair.type is OpType.OK]
    transfers = [_transfer(pair.invoke) for pair in pairs if pair.invoke.f == "transfer"]
    if not reads:
        return Verdict(CHECKER, None, f"no completed read among {len(pairs)} operations: nothing to judge")
    balances = [_balances(_completion(pair)) for pair in reads]
    if accounts is None:
        named = (transfer[end] for transfer in transfers for end in ("from", "to"))
        accounts = dict.fromkeys([*balances[0], *named])
    if total is None:
        total = sum(balance or 0 for balance in balances[0].values())
    details: dict[str, Any] = {}
    first: Pair | None = None
    bad_count = 0
    for pair, read in zip(reads, balances, strict=True):
        problems = _problems(read, total, accounts, allows_negative)
        if problems:
            bad_count += 1
            first = first or pair
        for name, problem in problems:
            _note(details, name, f"op {_completion(pair).index} (process {pair.invoke.process}): {problem}")
    scope = f"{len(reads)} reads and {len(transfers)} transfers, total {total}"
    if first is None:
        return Verdict(CHECKER, True, f"all of {scope}")
    names = ", ".join(details)
    return Verdict(
        CHECKER, False, f"{names} in {bad_count} of {scope}", details, [first.invoke, _completion(first)]
    )


def _note(details: dict[str, Any], name: str, text: str) -> None:
    texts = details.setdefault(name, [])
    if len(texts) < EXPLAINED_MAX:
        texts.append(text)


def _problems(
    read: Mapping[Hashable, int | None], total: int, accounts: Collection[Hashable], allows_negative: bool
) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    unknown = [account for account in read if account not in accounts]
    missing = [account for account in accounts if account not in read]
    empty = [account for account, balance in read.items() if balance is None]
    if unknown:
        found.append(("unknown-account", f"read accounts {unknown}, which do not exist"))
    if missing:
        found.append(("missing-account", f"read no balance of the accounts {missing}"))
    if empty:
        found.append(("no-balance", f"read nil as the balance of the accounts {empty}"))
    actual = sum(balance or 0 for balance in read.values())
    if actual != total:
        found.append(("wrong-total", f"the balances {dict(read)} add up to {actual}, not to {total}"))
    negative = {account: balance for account, balance in read.items() if balance is not None and balance < 0}
    if negative and not allows_negative:
        found.append(("negative-balance", f"read the balances {negative}"))
    return found


def _completion(pair: Pair) -> Op:
    assert pair.completion is not None
    return pair.completion


def _balances(op: Op) -> dict[Hashable, int | None]:
    value = op.value
    if isinstance(value, Mapping) and all(
        balance is None or (isinstance(balance, int) and not isinstance(balance, bool))
        for balance in value.values()
    ):
        return dict(value)
    raise HistoryError(f"op {op.index} reads {value!r}", expected="a map of accounts to whole numbers")


def _transfer(op: Op) -> Mapping[str, Hashable]:
    value = op.value
    if isinstance(value, Mapping) and all(name in value for name in ("from", "to", "amount")):
        return value
    raise HistoryError(f"op {op.index} transfers {value!r}", expected=_TRANSFER)
