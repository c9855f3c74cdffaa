"""From the loop to the disk and back: latency and processor time of a journal group, by entries per group.

    python -m tests.benchmarks.bench_journal [--groups N] [--payload BYTES] [--folder DIR] [--uvloop] [--idle]

Each group is submitted from an event loop, written and synced by the journal thread, and answered into the loop;
once with the process idle otherwise, once beside a thread that runs Python all the time. "disk" is the same bytes
with one pwrite and one fdatasync and nothing else. Times are medians in microseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dqlite_py.model import Entry, EntryKind, LogIndex, NodeId, Term
from dqlite_py.ports import SystemDisk
from dqlite_py.raft.journal import Journal, JournalBatch, JournalThread

SIZES = (1, 16, 256)


class Rig:
    """A journal thread in a folder of its own, and the log's end."""

    def __init__(self, folder: Path, payload_bytes: int) -> None:
        self.journal = Journal.open(
            SystemDisk(), str(folder), cluster_id=bytes(16), node_id=NodeId(1), create=True
        )
        self.thread = JournalThread(self.journal)
        self.thread.start()
        self.payload = os.urandom(payload_bytes)
        self.index = 0

    def batch(self, count: int) -> JournalBatch:
        first, self.index = self.index + 1, self.index + count
        term, kind, payload = Term(1), EntryKind.COMMAND, self.payload
        return JournalBatch(
            entries=[Entry(LogIndex(i), term, kind, payload) for i in range(first, self.index + 1)]
        )

    def close(self) -> None:
        self.thread.stop()
        self.journal.close()


@contextmanager
def busy(is_busy: bool) -> Iterator[None]:
    """Beside a thread that always wants the interpreter."""
    ends = threading.Event()

    def spin() -> None:
        while not ends.is_set():
            sum(range(50))

    thread = threading.Thread(target=spin, name="busy")
    if is_busy:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        if is_busy:
            thread.join()


async def run(rig: Rig, count: int, groups: int) -> tuple[list[float], float, float]:
    """Latencies, and the processor time of the loop's and of the journal's thread, in microseconds a group."""
    loop = asyncio.get_running_loop()
    clock = time.pthread_getcpuclockid(rig.thread._thread.ident)
    batches = [rig.batch(count) for _ in range(groups)]
    took: list[float] = []
    loop_cpu, journal_cpu = time.thread_time(), time.clock_gettime(clock)
    for batch in batches:
        answered: asyncio.Future[None] = loop.create_future()

        def done(error: BaseException | None, answered: asyncio.Future[None] = answered) -> None:
            assert error is None
            loop.call_soon_threadsafe(answered.set_result, None)

        started = time.perf_counter()
        rig.thread.submit(batch, done)
        await answered
        took.append((time.perf_counter() - started) * 1e6)
    loop_cpu, journal_cpu = time.thread_time() - loop_cpu, time.clock_gettime(clock) - journal_cpu
    return took, loop_cpu * 1e6 / groups, journal_cpu * 1e6 / groups


def disk_alone(folder: Path, size: int, groups: int) -> float:
    """Median of one pwrite and one fdatasync into a file of written blocks."""
    fd = os.open(folder / "alone", os.O_RDWR | os.O_CREAT)
    data = os.urandom(size)
    took: list[float] = []
    try:
        os.pwrite(fd, bytes(size * (groups + 1)), 0)
        os.fsync(fd)
        for number in range(groups):
            started = time.perf_counter()
            os.pwrite(fd, data, number * size)
            os.fdatasync(fd)
            took.append((time.perf_counter() - started) * 1e6)
    finally:
        os.close(fd)
        os.unlink(folder / "alone")
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--payload", type=int, default=150)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--idle", action="store_true", help="only with the process idle otherwise")
    options = parser.parse_args()
    factory = None
    if options.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    print("entries  beside    disk us  latency p50  p99      cpu us: loop  journal")
    for count in SIZES:
        for is_busy in (False,) if options.idle else (False, True):
            groups = max(50, options.groups // (10 if is_busy or count > 100 else 1))
            folder = Path(tempfile.mkdtemp(prefix="bench-journal-", dir=options.folder))
            try:
                alone = disk_alone(folder, count * (40 + options.payload) + 40, groups)
                rig = Rig(folder, options.payload)
                with busy(is_busy), asyncio.Runner(loop_factory=factory) as runner:
                    took, loop_cpu, journal_cpu = runner.run(run(rig, count, groups))
                rig.close()
            finally:
                shutil.rmtree(folder)
            took.sort()
            beside = "a thread" if is_busy else "nothing"
            print(
                f"{count:7d}  {beside:8s} {alone:8.0f} {statistics.median(took):12.0f}"
                f" {took[len(took) * 99 // 100]:8.0f} {loop_cpu:13.0f} {journal_cpu:8.0f}"
            )


if __name__ == "__main__":
    main()
