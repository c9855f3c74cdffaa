"""The order of each key's versions, inferred from reads, and the anomalies that need no graph.

A list read shows every version before it, so the longest read of a key is its version order, and each other read
must be a prefix of it ("Elle", Kingsbury & Alvaro, VLDB 2020, section 4.2). Aborted and intermediate reads: Adya's
thesis, section 3.2.2 (G1a, G1b).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from jepsen.checkers.elle.anomalies import Finding
from jepsen.checkers.elle.explain import show
from jepsen.checkers.elle.transactions import Element, Key, Micro, Transaction, Transactions
from jepsen.history.op import OpType


@dataclass(frozen=True, slots=True)
class Observation:
    """A committed transaction's read of one key.

    `external`: how many leading elements are of others (the reader's own appends at the end do not count).
    `is_prefix`: False when it contradicts the version order. `is_before_append`: the reader appends to it later.
    """

    reader: int
    elements: list[Element]
    external: int
    is_prefix: bool
    is_before_append: bool


@dataclass(slots=True)
class KeyVersions:
    """`order`: the elements of the longest read; `observations` that are prefixes come sorted by length."""

    key: Key
    order: list[Element]
    longest: int  # who read `order`
    observations: list[Observation] = field(default_factory=list)
    _lengths: list[int] = field(default_factory=list)  # of the sound observations, rising
    _readers: list[int] = field(default_factory=list)

    def add(self, observation: Observation) -> None:
        """Add the next longer observation."""
        self.observations.append(observation)
        if observation.is_prefix:
            self._lengths.append(len(observation.elements))
            self._readers.append(observation.reader)

    def witness(self, length: int) -> int:
        """Number of the transaction with the shortest read of at least `length` elements in this order."""
        place = bisect_left(self._lengths, length)
        return self._readers[place] if place < len(self._readers) else self.longest


@dataclass(slots=True)
class Versions:
    """`seen`: numbers of transactions of which some committed transaction read an append: they did happen."""

    keys: dict[Key, KeyVersions] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)


def infer_versions(transactions: Transactions) -> Versions:
    """Version orders of all keys that were read, and everything that is wrong with the reads themselves."""
    reads: defaultdict[Key, list[tuple[Transaction, int, Micro]]] = defaultdict(list)
    found = Versions()
    for transaction in transactions.all:
        if not transaction.is_committed:
            continue  # what a transaction of unknown outcome read is not known
        _check_internal(transaction, found.findings)
        for position, micro in enumerate(transaction.micros):
            if not micro.is_append:
                reads[micro.key].append((transaction, position, micro))
    for key, observed in reads.items():
        found.keys[key] = _infer_key(transactions, key, observed, found)
    return found


def _infer_key(
    transactions: Transactions, key: Key, reads: list[tuple[Transaction, int, Micro]], found: Versions
) -> KeyVersions:
    by_length = sorted(reads, key=lambda read: len(read[2].elements))
    order: list[Element] = []
    longest = by_length[-1][0]
    for transaction, _position, micro in reversed(by_length):
        if len(micro.elements) <= len(order):
            break
        distinct = list(dict.fromkeys(micro.elements))  # repeated elements count where they come first
        if len(distinct) > len(order):
            order, longest = distinct, transaction
    versions = KeyVersions(key, order, longest.number)
    checked: set[Element] = set()
    prefix = 0  # by length: what shorter prefixes hold needs no second look
    writers = transactions.writers.get(key, {})
    for transaction, position, micro in by_length:
        elements = micro.elements
        is_prefix = len(elements) <= len(order) and order[: len(elements)] == elements
        if not is_prefix:
            _report_disorder(key, transaction, elements, order, longest, found.findings)
        for element in elements[prefix:] if is_prefix else elements:
            if element not in checked:
                checked.add(element)
                _check_element(transactions, key, transaction, element, found)
        prefix = len(elements) if is_prefix else prefix
        external = len(elements)
        while external and writers.get(elements[external - 1]) == transaction.number:
            external -= 1
        later = any(other.is_append and other.key == key for other in transaction.micros[position:])
        versions.add(Observation(transaction.number, elements, external, is_prefix, later))
    _check_dirty_update(transactions, versions, found.findings)
    _check_intermediate(transactions, versions, found.findings)
    _check_lost_update(versions, found.findings)
    return versions


def _report_disorder(
    key: Key,
    reader: Transaction,
    elements: list[Element],
    order: list[Element],
    longest: Transaction,
    findings: list[Finding],
) -> None:
    repeated = [element for element, count in Counter(elements).items() if count > 1]
    if repeated:
        text = f"{{0}} read {show(repeated)} more than once in key {key}: {show(elements)}"
        findings.append(Finding("duplicate-elements", text, (reader.number,)))
    distinct = list(dict.fromkeys(elements))
    if order[: len(distinct)] != distinct:
        at = next(
            (i for i, (ours, theirs) in enumerate(zip(distinct, order, strict=False)) if ours != theirs),
            len(order),
        )
        text = f"{{0}} read key {key} as {show(distinct)}, {{1}} as {show(order)}: they differ from element {at + 1} on"
        findings.append(Finding("incompatible-order", text, (reader.number, longest.number)))


def _check_element(
    transactions: Transactions, key: Key, reader: Transaction, element: Element, found: Versions
) -> None:
    writer = transactions.writer(key, element)
    if writer is None:
        text = f"{{0}} read {element} from key {key}, which nobody appended"
        found.findings.append(Finding("garbage-read", text, (reader.number,)))
        return
    if writer.type is OpType.FAIL:
        text = f"{{0}} read {element} from key {key}, which {{1}} appended, but {{1}} failed"
        found.findings.append(Finding("G1a", text, (reader.number, writer.number)))
    else:
        found.seen.add(writer.number)


def _check_dirty_update(transactions: Transactions, versions: KeyVersions, findings: list[Finding]) -> None:
    failed: tuple[Element, Transaction] | None = None
    for length, element in enumerate(versions.order, start=1):
        writer = transactions.writer(versions.key, element)
        if writer is None:
            continue
        if writer.type is OpType.FAIL:
            failed = failed or (element, writer)
        elif failed and writer.is_committed:
            text = (
                f"{{0}} appended {element} to key {versions.key} after {failed[0]} of {{1}}, but {{1}} failed"
            )
            numbers, witnesses = (writer.number, failed[1].number), (versions.witness(length),)
            findings.append(Finding("dirty-update", text, numbers, witnesses))
            return


def _check_intermediate(transactions: Transactions, versions: KeyVersions, findings: list[Finding]) -> None:
    reported: set[Element] = set()
    for observation in versions.observations:
        if not observation.external:
            continue
        element = observation.elements[observation.external - 1]
        writer = transactions.writer(versions.key, element)
        if (
            writer is None
            or writer.type is OpType.FAIL
            or writer.number == observation.reader
            or element in reported
        ):
            continue
        last = transactions.last_appends[writer.number][versions.key]
        if last != element:
            reported.add(element)
            text = f"{{0}} read key {versions.key} up to {element}, in the middle of {{1}}, which appended {last} later"
            findings.append(Finding("G1b", text, (observation.reader, writer.number)))


def _check_lost_update(versions: KeyVersions, findings: list[Finding]) -> None:
    updaters: defaultdict[int, dict[int, None]] = defaultdict(dict)
    for observation in versions.observations:
        if (
            observation.is_prefix
            and observation.is_before_append
            and observation.external == len(observation.elements)
        ):
            updaters[observation.external][observation.reader] = None
    for length, readers in updaters.items():
        if len(readers) > 1:
            state = (
                f"key {versions.key} up to {versions.order[length - 1]}"
                if length
                else f"key {versions.key} empty"
            )
            names = " and ".join(f"{{{i}}}" for i in range(len(readers)))
            text = f"{names} read {state}, then appended to it: an update is lost"
            findings.append(Finding("lost-update", text, tuple(readers)))


def _check_internal(transaction: Transaction, findings: list[Finding]) -> None:
    known: dict[Key, list[Element]] = {}  # what the key holds, as far as this transaction can know
    appended: dict[Key, list[Element]] = {}  # its appends to keys that it has not read yet
    for position, micro in enumerate(transaction.micros):
        key = micro.key
        if micro.is_append:
            (known if key in known else appended).setdefault(key, []).append(micro.element)
            continue
        elements = micro.elements
        for later in transaction.micros[position + 1 :]:
            if later.is_append and later.key == key and later.element in elements:
                text = f"{{0}} read its own append of {later.element} to key {key} before it made it"
                findings.append(Finding("future-read", text, (transaction.number,)))
        if key in known and known[key] != elements:
            text = f"{{0}} read key {key} as {show(elements)}, but by its earlier steps it held {show(known[key])}"
            findings.append(Finding("internal", text, (transaction.number,)))
        own = appended.pop(key, [])
        if own and elements[-len(own) :] != own:
            text = f"{{0}} read key {key} as {show(elements)}, after it had appended {show(own)} itself"
            findings.append(Finding("internal", text, (transaction.number,)))
        known[key] = list(elements)
