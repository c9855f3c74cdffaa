"""The preload library in small Python processes: clocks, failing and full disks, only below the data folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jepsen.errors import MissingTool
from jepsen.faults import ProcessFaults, build_library, library, missing_tool
from jepsen.faults.control import process_faults


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[ProcessFaults]:
    folder = tmp_path / "data"
    folder.mkdir()
    with process_faults(tmp_path / "control", folder) as made:
        yield made


def run(faults: ProcessFaults, code: str) -> Any:
    """Run `code` in a process with the faults; what it assigns to `result` is returned."""
    text = f"import errno, json, os, sys, time\nD = {str(faults.folder)!r}\n{textwrap.dedent(code)}\n"
    text += "print(json.dumps(result))\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", text],
        env={**os.environ, **faults.environment()},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ERRNO_OF = """
def errno_of(call, *args):
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return None
"""


# -- clocks


def test_without_faults_nothing_changes(faults: ProcessFaults) -> None:
    found = run(faults, "result = [time.time(), time.monotonic(), os.getpid()]")
    assert abs(found[0] - time.time()) < 5
    assert abs(found[1] - time.monotonic()) < 5
    assert faults.attached_pid == found[2]


@pytest.mark.parametrize("offset_s", [3600.0, -7200.0, 0.25])
def test_the_wall_clock_jumps_and_the_monotonic_one_does_not(faults: ProcessFaults, offset_s: float) -> None:
    faults.jump_clock(offset_s)
    before = time.time(), time.monotonic()
    found = run(
        faults,
        """
        import datetime, sqlite3
        sqlite = sqlite3.connect(':memory:').execute("select (julianday('now') - 2440587.5) * 86400").fetchone()[0]
        result = [time.time(), time.monotonic(), datetime.datetime.now().timestamp(), sqlite]
        """,
    )
    after = time.time(), time.monotonic()
    for wall in (found[0], found[2], found[3]):
        assert before[0] + offset_s - 0.1 <= wall <= after[0] + offset_s + 0.1
    assert before[1] <= found[1] <= after[1]
    faults.reset_clock()
    assert abs(run(faults, "result = time.time()") - time.time()) < 5


def test_a_jump_reaches_a_running_process(faults: ProcessFaults) -> None:
    code = "import sys, time\nfor line in sys.stdin:\n    print(time.time(), flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        env={**os.environ, **faults.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ahead_s() -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return float(process.stdout.readline()) - time.time()

        assert abs(ahead_s()) < 2
        faults.jump_clock(5000)
        assert abs(ahead_s() - 5000) < 2
        faults.jump_clock(-5000)
        assert abs(ahead_s() + 5000) < 2
        process.stdin.close()


def test_drift_and_deadlines(faults: ProcessFaults) -> None:
    """Both clocks run at the rate, never back while rates change; waits end when their own clock says so."""
    faults.drift_clock(2.0)
    found = run(
        faults,
        """
        import threading, queue
        def kernel():
            return float(open('/proc/uptime').read().split()[0])
        start = kernel(), time.monotonic(), time.time()
        while kernel() < start[0] + 0.3:
            pass
        passed = time.monotonic() - start[1], time.time() - start[2]
        waits = []
        for wait in (lambda: time.sleep(0.2), lambda: threading.Event().wait(0.2), lambda: threading.Lock().acquire()
                     and queue.SimpleQueue().get(timeout=0.2)):
            own = time.monotonic()
            try:
                wait()
            except queue.Empty:
                pass
            waits.append(time.monotonic() - own)
        result = [passed, waits]
        """,
    )
    assert 0.5 < found[0][0] < 1.5
    assert 0.5 < found[0][1] < 1.5
    for own_s in found[1]:
        assert 0.19 < own_s < 0.8  # not 0.4 s and more for each second that the clock has gained


def test_deadlines_hold_after_the_clock_has_gained_a_lot(faults: ProcessFaults) -> None:
    """A lock's deadline is absolute: taken literally by the kernel it would come far too late, or at once."""
    faults.drift_clock(2.0)
    time.sleep(0.5)
    faults.drift_clock(1.0)  # half a second ahead for good
    found = run(
        faults,
        """
        import threading
        start = time.monotonic()
        threading.Event().wait(0.1)
        result = time.monotonic() - start
        """,
    )
    assert 0.09 < found < 0.4


def test_monotonic_time_never_goes_back_while_rates_change(faults: ProcessFaults) -> None:
    code = """
import time
last = time.monotonic_ns(); back = 0; end = time.process_time() + 0.4
while time.process_time() < end:
    now = time.monotonic_ns()
    back += now < last
    last = now
print(back)
"""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        env={**os.environ, **faults.environment()},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        rates = (2.0, 0.5, 1.3, 0.7, 1.0)
        while process.poll() is None:
            for rate in rates:
                faults.drift_clock(rate)
        assert process.stdout is not None
        assert process.stdout.read().strip() == "0"


def test_impossible_settings_are_refused(faults: ProcessFaults) -> None:
    with pytest.raises(ValueError, match="rate"):
        faults.drift_clock(3.0)
    with pytest.raises(ValueError, match="chance"):
        faults.fail_syncs(chance=1.5)


# -- errors


def test_syncs_fail_so_often_and_only_below_the_folder(faults: ProcessFaults, tmp_path: Path) -> None:
    faults.fail_syncs(3)
    found = run(
        faults,
        ERRNO_OF
        + f"""
inside = os.open(D + '/f', os.O_RDWR | os.O_CREAT)
outside = os.open({str(tmp_path / "outside")!r}, os.O_RDWR | os.O_CREAT)
folder = os.open(D, os.O_RDONLY)
result = [errno_of(*call) for call in [(os.fsync, outside), (os.fsync, inside), (os.fdatasync, inside),
          (os.fsync, folder), (os.fsync, inside)]]
""",
    )
    assert found == [None, "EIO", "EIO", "EIO", None]
    assert faults.counts().syncs_failed == 3


def test_writes_fail(faults: ProcessFaults) -> None:
    faults.fail_writes()
    found = run(
        faults,
        ERRNO_OF
        + """
fd = os.open(D + '/f', os.O_RDWR | os.O_CREAT)
calls = [(os.write, fd, b'x'), (os.pwrite, fd, b'x', 5), (os.writev, fd, [b'x', b'y']), (os.pwritev, fd, [b'x'], 0),
         (os.ftruncate, fd, 10), (os.truncate, D + '/f', 10), (os.posix_fallocate, fd, 0, 10)]
result = [[errno_of(*call) for call in calls], os.fstat(fd).st_size]
""",
    )
    assert found == [["EIO"] * 7, 0]
    faults.heal_disk()
    assert run(faults, "fd = os.open(D + '/f', os.O_RDWR)\nresult = os.pwrite(fd, b'x', 0)") == 1


GROUP = """
from dqlite_py.model import Entry, EntryKind
from dqlite_py.raft.journal import native_group
fd = os.open(D + '/f', os.O_RDWR | os.O_CREAT)
log = [Entry(1, 1, EntryKind.COMMAND, bytes(100)), Entry(2, 1, EntryKind.COMMAND, bytes(5))]
result = [errno_of(native_group.write_group, fd, 1, 0, 7, None, log), os.fstat(fd).st_size]
"""


def test_a_group_of_the_journal_meets_the_errors(faults: ProcessFaults) -> None:
    """C writes and syncs it by itself, with calls of the C library."""
    size = 40 + 32 + 104 + 32 + 8
    assert run(faults, ERRNO_OF + GROUP) == [None, size]
    faults.fail_syncs()
    assert run(faults, ERRNO_OF + GROUP) == ["EIO", size]
    assert faults.counts().syncs_failed == 1
    faults.heal_disk()
    faults.fail_writes()
    assert run(faults, ERRNO_OF + GROUP) == ["EIO", size]
    assert faults.counts().writes_failed == 1


def test_errors_by_chance(faults: ProcessFaults) -> None:
    faults.fail_writes(chance=0.5)
    found = run(
        faults,
        ERRNO_OF
        + """
fd = os.open(D + '/f', os.O_RDWR | os.O_CREAT)
result = sum(errno_of(os.pwrite, fd, b'x', 0) == 'EIO' for _ in range(400))
""",
    )
    assert 120 < found < 280
    assert faults.counts().writes_failed == found


def test_sqlite_meets_the_errors(faults: ProcessFaults) -> None:
    """apsw's own SQLite calls pwrite64 and fdatasync through the dynamic linker."""
    faults.fail_syncs()
    found = run(
        faults,
        """
        import apsw
        connection = apsw.Connection(D + '/x.db')
        try:
            connection.execute("create table t(v)")
            result = None
        except apsw.Error as error:
            result = type(error).__name__
        """,
    )
    assert found in ("IOError", "FullError")
    assert faults.counts().syncs_failed > 0


# -- space


def test_a_quota_takes_growth_and_gives_back(faults: ProcessFaults) -> None:
    faults.limit_space(10_000)
    found = run(
        faults,
        ERRNO_OF
        + """
def free():
    stat = os.statvfs(D)
    return stat.f_bavail * stat.f_frsize
fd = os.open(D + '/f', os.O_RDWR | os.O_CREAT)
steps = [os.pwrite(fd, bytes(6000), 0), free(), os.pwrite(fd, bytes(6000), 6000), free()]
steps += [errno_of(os.pwrite, fd, b'x', 10_000), os.pwrite(fd, b'x', 9_999), errno_of(os.ftruncate, fd, 20_000)]
steps += [errno_of(os.open, D + '/new', os.O_CREAT | os.O_RDWR), errno_of(os.posix_fallocate, fd, 0, 30_000)]
os.ftruncate(fd, 4000)
steps += [os.pwrite(fd, bytes(5000), 4000)]
os.close(fd); os.unlink(D + '/f')
fd = os.open(D + '/f', os.O_RDWR | os.O_CREAT)
steps += [os.pwrite(fd, bytes(20_000), 0)]
result = steps
""",
    )
    assert found == [6000, 0, 4000, 0, "ENOSPC", 1, "ENOSPC", "ENOSPC", "ENOSPC", 5000, 10_000]
    assert faults.counts().spaces_refused >= 4
    faults.limit_space(None)
    assert (
        run(faults, "fd = os.open(D + '/f', os.O_RDWR)\nresult = os.pwrite(fd, bytes(50_000), 0)") == 50_000
    )


def test_statvfs_shows_the_quota_only_below_the_folder(faults: ProcessFaults, tmp_path: Path) -> None:
    faults.limit_space(1 << 20)
    found = run(
        faults,
        f"""
        result = [os.statvfs(path).f_bavail * os.statvfs(path).f_frsize for path in (D, {str(tmp_path)!r})]
        """,
    )
    assert found[0] == 1 << 20
    assert found[1] > 1 << 20


# -- the library


def test_the_sources_compile_without_a_warning(tmp_path: Path) -> None:
    sources = sorted(map(str, (Path(library.__file__).parent / "native").glob("*.c")))
    strict = ("-Wall", "-Wextra", "-Wshadow", "-Werror")
    done = subprocess.run(
        ["gcc", *library.FLAGS, *strict, "-o", str(tmp_path / "x.so"), *sources, "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_other_preloaded_libraries_stay(faults: ProcessFaults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/lib/other.so")
    assert faults.environment()["LD_PRELOAD"].endswith(".so:/lib/other.so")


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library.shutil, "which", lambda _name: None)
    assert "gcc" in (missing_tool() or "")
    with pytest.raises(MissingTool, match="gcc"):
        build_library(tmp_path)


def test_a_library_that_does_not_compile_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "bad.c").write_text("int x = ;")
    monkeypatch.setattr(library, "_SOURCES", tmp_path / "native")
    with pytest.raises(MissingTool, match=r"bad\.c"):
        build_library(tmp_path / "build")
    assert list((tmp_path / "build").iterdir()) == []


def test_a_wrong_control_file_stops_the_process(faults: ProcessFaults, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(bytes(4096))
    env = {**os.environ, **faults.environment(), "JEPSEN_FAULTS": str(tmp_path / "empty")}
    done = subprocess.run([sys.executable, "-c", ""], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 97
    assert "no control file" in done.stderr
