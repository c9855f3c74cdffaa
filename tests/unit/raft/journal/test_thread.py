"""Group commit, order, fail-stop, and waiting for space."""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from dqlite_py.errors import JournalFailed, NodeStopped, RaftInvariantBroken, StorageFull
from dqlite_py.model import LogIndex
from dqlite_py.raft.journal import Journal, JournalThread
from tests.support.faultdisk import FaultDisk, Loss
from tests.support.journals import FOLDER, contents, entries, entry, open_journal
from tests.support.journalscript import batch

WAIT_S = 20.0


class Rig:
    """A journal thread over a disk whose syncs can be held."""

    def __init__(self) -> None:
        self.disk = FaultDisk(FOLDER)
        self.journal = open_journal(self.disk, segment_bytes=2**20, step_bytes=2**16)
        self.gate = threading.Event()
        self.gate.set()
        self.in_sync: queue.Queue[None] = queue.Queue()
        self.answers: queue.Queue[tuple[object, BaseException | None]] = queue.Queue()
        self.full: queue.Queue[bool] = queue.Queue()
        self.thread = JournalThread(
            self.journal, on_full=self.full.put, full_retry_s=0.01, mark_delay_s=0.01, name="journal-of-test"
        )
        self.index = 0

    def hold_syncs(self) -> None:
        self.gate.clear()
        self.disk.before_sync = self._wait_at_gate

    def _wait_at_gate(self) -> None:
        self.in_sync.put(None)
        assert self.gate.wait(WAIT_S)

    def done(self, name: object) -> Callable[[BaseException | None], None]:
        return lambda error: self.answers.put((name, error))

    def submit(self, count: int = 1, size: int = 100) -> int:
        """Queue one batch with the next `count` entries."""
        first, self.index = self.index + 1, self.index + count
        self.thread.submit(batch(entries=entries(first, self.index, size=size)), self.done(self.index))
        return self.index

    def answer(self) -> tuple[object, BaseException | None]:
        return self.answers.get(timeout=WAIT_S)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    rig.thread.start()
    yield rig
    rig.gate.set()
    rig.thread.stop()
    rig.journal.close()
    assert rig.disk.open_count == 0
    assert not any(thread.name == "journal-of-test" for thread in threading.enumerate())


def test_what_waits_goes_in_one_group(rig: Rig) -> None:
    rig.hold_syncs()
    rig.submit()
    rig.in_sync.get(timeout=WAIT_S)
    for _ in range(50):
        rig.submit(3)
    assert rig.answers.empty()
    rig.gate.set()
    assert [rig.answer() for _ in range(51)] == [(index, None) for index in range(1, 152, 3)]
    assert rig.thread.stats().groups == 2
    assert rig.thread.stats().batches == 51


def test_answers_come_after_durability(rig: Rig) -> None:
    for _ in range(20):
        name = rig.submit()
        assert rig.answer() == (name, None)
        found = rig.disk.after_power_loss(Loss.DROP)
        assert open_journal(found, segment_bytes=2**20).last_index == name


def test_answers_come_on_the_journal_thread(rig: Rig) -> None:
    names: queue.Queue[str] = queue.Queue()
    rig.thread.submit(batch(entries=[entry(1)]), lambda error: names.put(threading.current_thread().name))
    rig.thread.submit_task(
        lambda: names.put(threading.current_thread().name), lambda error: names.put(str(error))
    )
    assert [names.get(timeout=WAIT_S) for _ in range(3)] == ["journal-of-test", "journal-of-test", "None"]


def test_tasks_keep_their_place_between_batches(rig: Rig) -> None:
    rig.hold_syncs()
    rig.submit()
    rig.in_sync.get(timeout=WAIT_S)
    rig.submit()
    seen: list[int] = []
    rig.thread.submit_task(lambda: seen.append(rig.journal.last_index), rig.done("task"))
    rig.submit()
    rig.gate.set()
    assert [rig.answer() for _ in range(4)] == [(1, None), (2, None), ("task", None), (3, None)]
    assert seen == [2]


def test_a_failing_task_is_reported_and_harms_nothing(rig: Rig) -> None:
    def fail() -> None:
        raise ValueError("of the host")

    rig.thread.submit_task(fail, rig.done("task"))
    rig.submit()
    name, error = rig.answer()
    assert (name, str(error)) == ("task", "of the host")
    assert rig.answer() == (1, None)


def test_stop_writes_what_is_queued(rig: Rig) -> None:
    rig.hold_syncs()
    for _ in range(10):
        rig.submit()
    rig.gate.set()
    rig.thread.stop()
    assert [rig.answer() for _ in range(10)] == [(index, None) for index in range(1, 11)]
    for submit in (lambda: rig.submit(), lambda: rig.thread.submit_task(lambda: None, rig.done("late"))):
        with pytest.raises(NodeStopped):
            submit()


def test_everything_after_the_first_error_fails(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.submit()
    assert rig.answer() == (1, None)
    rig.hold_syncs()
    rig.submit()
    rig.in_sync.get(timeout=WAIT_S)
    rig.submit()
    rig.thread.submit_task(lambda: rig.journal.compact(LogIndex(1)), rig.done("task"))
    rig.disk.fails_on_sync = True
    rig.gate.set()
    answers = [rig.answer() for _ in range(3)]
    rig.disk.fails_on_sync = False
    rig.submit()
    answers.append(rig.answer())
    assert [name for name, _ in answers] == [2, 3, "task", 4]
    assert all(isinstance(error, JournalFailed) for _, error in answers)
    assert isinstance(rig.thread.failure, JournalFailed)
    assert rig.journal.last_index == 1


def test_a_broken_batch_is_final(rig: Rig) -> None:
    rig.thread.submit(batch(entries=[entry(5)]), rig.done("gap"))
    assert isinstance(rig.answer()[1], RaftInvariantBroken)
    rig.submit()
    assert isinstance(rig.answer()[1], JournalFailed)
    assert rig.journal.last_index == 0


def test_a_callback_that_raises_does_not_silence_the_others(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(error: BaseException | None) -> None:
        raise ValueError("of the host")

    rig.thread.submit(batch(entries=[entry(1)]), broken)
    rig.index = 1
    rig.submit()
    assert rig.answer() == (2, None)
    assert "a journal callback failed" in caplog.text


def fill(rig: Rig) -> None:
    """Write until the disk is full and a batch waits."""
    rig.disk.capacity_bytes = rig.disk.used_bytes()
    rig.submit(size=200_000)
    assert rig.full.get(timeout=WAIT_S) is True
    assert rig.thread.is_full
    assert rig.thread.stats().is_full


def test_a_full_disk_holds_batches_until_space_returns(rig: Rig) -> None:
    fill(rig)
    for _ in range(5):
        rig.submit()
    assert rig.answers.empty()
    rig.disk.capacity_bytes = None
    assert [rig.answer() for _ in range(6)] == [(index, None) for index in range(1, 7)]
    assert rig.full.get(timeout=WAIT_S) is False
    assert not rig.thread.is_full
    assert len(contents(rig.journal)) == 6


def test_tasks_run_while_the_disk_is_full(rig: Rig) -> None:
    """Compaction is what frees the space."""
    fill(rig)

    def free() -> None:
        rig.disk.capacity_bytes = None

    rig.thread.submit_task(free, rig.done("task"))
    assert rig.answer() == ("task", None)
    assert rig.answer() == (1, None)


def test_stop_on_a_full_disk_reports_what_was_not_written(rig: Rig) -> None:
    fill(rig)
    rig.submit()
    rig.thread.stop()
    name, error = rig.answer()
    assert name == 1
    assert isinstance(error, StorageFull)
    assert isinstance(rig.answer()[1], JournalFailed)
    assert rig.journal.last_index == 0


def test_an_idle_thread_marks_the_end(rig: Rig) -> None:
    rig.submit()
    rig.answer()
    marked = threading.Event()

    def look() -> None:
        if rig.journal._is_marked:
            marked.set()

    for _ in range(2000):
        rig.thread.submit_task(look, rig.done("look"))
        rig.answer()
        if marked.wait(0.02):
            break
    assert marked.is_set()


def test_an_error_while_idle_is_remembered(rig: Rig) -> None:
    rig.submit()
    rig.answer()
    rig.disk.fails_with, rig.disk.fails_on_sync = errno.EIO, True
    rig.submit()
    assert isinstance(rig.answer()[1], JournalFailed)
    rig.disk.fails_on_sync = False


def test_a_group_is_closed_at_its_size(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dqlite_py.raft.journal.thread.GROUP_PAYLOAD_BYTES", 1000)
    rig.hold_syncs()
    rig.submit()
    rig.in_sync.get(timeout=WAIT_S)
    for _ in range(20):
        rig.submit(size=300)
    rig.submit(size=5000)
    rig.submit(size=300)
    rig.gate.set()
    for _ in range(23):
        assert rig.answer()[1] is None
    assert rig.thread.stats().groups == 1 + 7 + 1 + 1


def test_a_thread_that_was_not_started_stops(rig: Rig) -> None:
    thread = JournalThread(rig.journal)
    thread.stop()


def test_many_submitters_and_a_slow_disk() -> None:
    """Order of submission is order of answers, whoever submits."""
    disk = FaultDisk(FOLDER)
    journal: Journal = open_journal(disk, segment_bytes=2**20)
    thread = JournalThread(journal)
    thread.start()
    lock, submitted, answered = threading.Lock(), [], []

    def work() -> None:
        for _ in range(100):
            with lock:
                index = len(submitted) + 1
                submitted.append(index)
                thread.submit(
                    batch(entries=[entry(index)]), lambda error, index=index: answered.append(index)
                )

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(WAIT_S)
    thread.stop()
    assert answered == submitted == list(range(1, 401))
    assert thread.stats().groups <= 400
    journal.close()
