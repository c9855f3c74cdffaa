"""Durable data that are damaged or gone, on a minority at a time: found at the next start, mended by the operator.

A node that serves in spite of it is a violation and is noted as one.
"""

from __future__ import annotations

import random
import re
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any, Final

from jepsen.cluster.api import Cluster, ClusterNode
from jepsen.cluster.client import ClientError
from jepsen.errors import JepsenError
from jepsen.nemeses.base import (
    FAILED,
    REFUSED,
    STOPPED,
    Base,
    NemesisError,
    Value,
    forget_notes,
    names,
    pick_some,
    replace,
    wait_whole,
)
from jepsen.nemeses.known_rows import alter_row, make_known_rows, read_known_rows

_POLL_S: Final = 0.05
_READ_S: Final = 2.0
_FIRST_READS: Final = 3
# The last bytes of a segment can be a mark, which proves what is before it and holds nothing itself.
_MARK_BYTES: Final = 48
_PAGE_BYTES: Final = 4096


class _Damage(Base):
    """`refusal_s`: within which a damaged node must have said no; `notice_s`: or found and repaired it."""

    nodes_min = 3
    own_exits = frozenset((STOPPED, REFUSED, FAILED))
    spares_majority = True

    def __init__(self, *, refusal_s: float = 20.0, notice_s: float = 25.0) -> None:
        super().__init__()
        self.refusal_s = refusal_s
        self.notice_s = notice_s
        self._damaged: list[str] = []

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        value: dict[str, Any] = {}
        wait_whole(cluster)
        self._prepare(cluster)
        victims = pick_some(cluster, rng)
        # Before anything is touched: `final` mends whatever has been reached when this is interrupted.
        self._damaged = names(victims)
        for node in victims:
            value[node.name] = self._damage(node, rng)
        return value

    def _prepare(self, cluster: Cluster) -> None:
        """On the whole cluster, before the first node is damaged."""

    @abstractmethod
    def _damage(self, node: ClusterNode, rng: random.Random) -> dict[str, Any]: ...

    def _stop(self, cluster: Cluster) -> Value:
        value, errors = {}, []
        for name in list(self._damaged):
            try:
                value[name] = self._mend(cluster, cluster.node(name))
                self._damaged.remove(name)
            except (JepsenError, OSError) as error:
                errors.append(f"{name}: {error}")
        if errors:
            raise NemesisError(f"could not mend {'; '.join(errors)}")
        return value

    def _mend(self, cluster: Cluster, node: ClusterNode) -> str:
        replace(cluster, node.name)
        return "replaced"

    def _violated(self, node: ClusterNode, text: str) -> None:
        self.violations.append(f"{self.name}: {node.name}: {text}; see {node.log_path}")

    def _wait_refused(self, node: ClusterNode) -> int | None:
        """Start it and wait for its exit code; None when it runs on."""
        node.start()
        return wait_exit(node, self.refusal_s)


class CorruptJournal(_Damage):
    """A bit flips in the journals of a stopped minority: they must refuse to start, by the file's name."""

    name = "corrupt-journal"

    def _damage(self, node: ClusterNode, rng: random.Random) -> dict[str, Any]:
        log_start = _size(node.log_path)
        node.stop()  # cleanly: only then is every byte of it known to have been durable
        path, offset = choose_journal_byte(node.folder, rng)
        bit = flip_bit(path, offset, rng)
        code = self._wait_refused(node)
        found = {"file": _short(node, path), "offset": offset, "bit": bit, "exit": code}
        if code != REFUSED:
            self._violated(node, f"it started with a damaged journal ({found})")
        elif str(path) not in read_from(node.log_path, log_start):
            self._violated(node, f"it refused to start without naming {path}")
        return found


class CorruptDatabase(_Damage):
    """A bit or a row changes in the databases of a stopped minority: never answered; refused, or rebuilt.

    A bit may hit what nothing reads for a long time; a row whose content is known is read linearizably from the
    moment the node starts, and must never be answered other than it was written.
    """

    name = "corrupt-database"

    def __init__(
        self,
        *,
        refusal_s: float = 20.0,
        notice_s: float = 25.0,
        first_reads_s: float = 10.0,
        row_first: bool = True,
    ) -> None:
        super().__init__(refusal_s=refusal_s, notice_s=notice_s)
        self.first_reads_s = first_reads_s
        self._row_next = row_first  # so that even a short run has one
        self._files: dict[str, Path] = {}
        self._applied: dict[str, int] = {}

    def _prepare(self, cluster: Cluster) -> None:
        make_known_rows(cluster)

    def _damage(self, node: ClusterNode, rng: random.Random) -> dict[str, Any]:
        before = _status(node)
        is_row = (rng.random() < 0.5 or self._row_next) and self._settle(node)
        self._row_next = False
        node.stop()
        path, offset = choose_database_byte(node.folder, rng)
        row = alter_row(path, rng) if is_row else None
        done = {"offset": offset, "bit": flip_bit(path, offset, rng)} if row is None else {"row": row}
        self.has_damaged_database = True
        self._files[node.name] = path
        self._applied[node.name] = before["applied_index"] if before else 0
        node.start()
        return {"file": _short(node, path), **done, "first-reads": self._read_first(node)}

    def _settle(self, node: ClusterNode) -> bool:
        """Let the node apply the known rows and move them into its database file; False when it does not.

        Pages that are only in the WAL are of no use: a node drops it when it stops, and applies its journal again.
        """
        try:
            wrong = read_known_rows(node, _READ_S)
            if wrong is not None:
                self._violated(node, f"a linearizable read answered what nobody wrote: {wrong}")
                return False
            with node.client(_READ_S) as client:
                client.compact()
        except ClientError:
            return False
        return True

    def _read_first(self, node: ClusterNode) -> str:
        """Ask from the start on; "right" after a few right answers, "none" when the node ended or the time is over."""
        deadline = time.monotonic() + self.first_reads_s
        answers = 0
        while answers < _FIRST_READS and node.is_running and time.monotonic() < deadline:
            try:
                wrong = read_known_rows(node, _READ_S)
            except ClientError:
                time.sleep(_POLL_S)
                continue
            if wrong is not None:
                self._violated(node, f"a linearizable read after the start answered damaged data: {wrong}")
                return "wrong"
            answers += 1
        return "right" if answers else "none"

    def _mend(self, cluster: Cluster, node: ClusterNode) -> str:
        outcome = self._wait_noticed(node)
        if outcome == "unnoticed":
            self._violated(
                node, f"damage of {self._files[node.name]} was not noticed within {self.notice_s:g} s"
            )
        if outcome != "rebuilt":
            replace(cluster, node.name)
        return outcome

    def _wait_noticed(self, node: ClusterNode) -> str:
        """How it was noticed: refused, failed, rebuilt; idle when no entries came that carry a hash; unnoticed."""
        deadline = time.monotonic() + self.notice_s
        applied = 0
        while time.monotonic() < deadline:
            if not node.is_running:
                return {REFUSED: "refused", FAILED: "failed"}.get(
                    node.exit_code or 0, f"exit {node.exit_code}"
                )
            status = _status(node)
            if status is not None:
                applied = status["applied_index"]
                is_replaced = not self._files[node.name].exists()
                if status["healthy"] and (status["divergences"] or is_replaced):
                    return "rebuilt"
            time.sleep(_POLL_S)
        return "unnoticed" if applied > self._applied[node.name] + 50 else "idle"


class Wipe(_Damage):
    """Data folders of a stopped minority are deleted: refused until the old members are removed."""

    name = "wipe"

    def _damage(self, node: ClusterNode, rng: random.Random) -> dict[str, Any]:
        node.kill()
        node.wipe()
        forget_notes(node)
        code = self._wait_refused(node)
        if code is None and _takes_part(node):
            self._violated(
                node, "it takes part with an empty folder while its old identity is still a member"
            )
        return {"exit": code}


# -- looking


def wait_exit(node: ClusterNode, timeout_s: float) -> int | None:
    """The exit code of a node that was started; None when it still runs."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not node.is_running:
            return node.exit_code
        time.sleep(_POLL_S)
    return None


def _status(node: ClusterNode) -> dict[str, Any] | None:
    try:
        with node.client(1.0) as client:
            return client.status()
    except ClientError:
        return None


def _takes_part(node: ClusterNode) -> bool:
    status = _status(node)
    return bool(status and status["healthy"] and status["leader_id"])


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def read_from(path: Path, offset: int) -> str:
    """What a log says behind `offset`."""
    with path.open("rb") as log:
        log.seek(offset)
        return log.read().decode(errors="replace")


def _short(node: ClusterNode, path: Path) -> str:
    return path.relative_to(node.folder).as_posix()


# -- damaging


def choose_journal_byte(folder: Path, rng: random.Random) -> tuple[Path, int]:
    """A segment and an offset in it, before the end of what was written. Raises NemesisError when there is none."""
    choices = []
    for path in sorted((folder / "journal").glob("*.seg")):
        end = len(path.read_bytes().rstrip(b"\0")) - _MARK_BYTES
        if end > 0:
            choices.append((path, end))
    if not choices:
        raise NemesisError(f"{folder} has no journal to damage")
    path, end = rng.choice(choices)
    return path, rng.randrange(end)


def choose_database_byte(folder: Path, rng: random.Random) -> tuple[Path, int]:
    """The current generation's database, and an offset. Raises NemesisError when there is none."""
    found = [
        (int(match[1]), path)
        for path in folder.glob("state/g*/*.db")
        if (match := re.fullmatch(r"g(\d+)", path.parent.name)) and path.stat().st_size >= _PAGE_BYTES
    ]
    if not found:
        raise NemesisError(f"{folder} has no database to damage")
    newest = max(number for number, _ in found)
    path = rng.choice(sorted(path for number, path in found if number == newest))
    return path, rng.randrange(path.stat().st_size)


def flip_bit(path: Path, offset: int, rng: random.Random) -> int:
    """Flip one bit of one byte, durably enough for a process that is started later; returns which (0 to 7)."""
    bit = rng.randrange(8)
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        if not old:
            raise NemesisError(f"{path} has no byte {offset}")
        file.seek(offset)
        file.write(bytes([old[0] ^ (1 << bit)]))
    return bit
