"""Power loss through the preload library: synced content is there, other content may go, in every way allowed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepsen.errors import SetupError
from jepsen.faults import Loss
from jepsen.faults.control import process_faults
from tests.jepsen.fault_machine import Machine, content, lose


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.faults.close()


# -- content


def test_what_was_synced_survives_every_loss(machine: Machine) -> None:
    machine.run("""
        fd = opened('f'); os.pwrite(fd, b'a' * 3000, 0); os.pwrite(fd, b'b' * 700, 1000); os.fdatasync(fd)
        sync_folder()
    """)
    assert machine.outcomes(content("f")) == {b"a" * 1000 + b"b" * 700 + b"a" * 1300: 40}


def test_unsynced_writes_survive_per_sector(machine: Machine) -> None:
    machine.run("""
        fd = opened('f'); os.pwrite(fd, b'a' * 1536, 0); os.fsync(fd); sync_folder()
        os.pwrite(fd, b'b' * 1536, 0)
    """)
    found = machine.outcomes(content("f"), 100)
    sectors = [(b"a" * 512, b"b" * 512)] * 3
    possible = {x + y + z for x in sectors[0] for y in sectors[1] for z in sectors[2]}
    assert set(found) == possible, "all eight, and nothing torn within a sector"
    assert found[b"a" * 1536] > 20
    assert found[b"b" * 1536] > 20


def test_growth_is_lost_as_a_shorter_file_or_as_zeros(machine: Machine) -> None:
    machine.run("""
        fd = opened('f'); os.pwrite(fd, b'a' * 100, 0); os.fsync(fd); sync_folder()
        os.pwrite(fd, b'b' * 1000, 100)
    """)
    found = machine.outcomes(content("f"), 100)
    assert {len(item) for item in found if isinstance(item, bytes)} == {100, 1100}
    assert all(isinstance(item, bytes) and item[:100] == b"a" * 100 for item in found)
    assert b"a" * 100 + b"b" * 1000 in found
    assert b"a" * 100 + bytes(1000) in found, "the size arrived, the content did not"


def test_a_later_sync_covers_all_before_it_and_nothing_behind_it(machine: Machine) -> None:
    machine.run("""
        fd = opened('f'); sync_folder()
        for number in range(5):
            os.pwrite(fd, bytes([65 + number]) * 512, 0)
        os.fdatasync(fd)
        os.pwrite(fd, b'z' * 512, 512)
    """)
    for item in machine.outcomes(content("f")):
        assert isinstance(item, bytes)
        assert item[:512] == b"E" * 512
        assert item[512:] in (b"", bytes(512), b"z" * 512)


def test_older_unsynced_contents_can_come_back(machine: Machine) -> None:
    machine.run("""
        fd = opened('f'); os.pwrite(fd, b'0' * 512, 0); os.fsync(fd); sync_folder()
        os.pwrite(fd, b'1' * 512, 0); os.pwrite(fd, b'2' * 512, 0)
    """)
    assert set(machine.outcomes(content("f"), 200)) == {b"0" * 512, b"1" * 512, b"2" * 512}


def test_truncation_is_taken_back_with_its_content(machine: Machine) -> None:
    machine.run("""
        fd = opened('f'); os.pwrite(fd, b'a' * 200_000, 0); os.fsync(fd); sync_folder()
        os.ftruncate(fd, 10)
    """)
    found = machine.outcomes(lambda folder: (folder / "f").read_bytes(), 60)
    assert b"a" * 10 in found
    assert b"a" * 200_000 in found
    for item in found:
        assert isinstance(item, bytes)
        assert len(item) in (10, 200_000)
        assert set(item) <= {0, 97}
        assert item[:10] == b"a" * 10


def test_a_shorter_file_is_the_old_or_the_new_one_and_no_mixture(machine: Machine) -> None:
    """A part of an old write-ahead log in front of zeros is nothing that a file system leaves."""
    machine.run("""
        fd = opened('f'); os.pwrite(fd, b'a' * 4096, 0); os.fsync(fd); sync_folder()
        os.ftruncate(fd, 0); os.pwrite(fd, b'b' * 512, 0)
    """)
    found = machine.outcomes(content("f"), 100)
    assert set(found) == {b"a" * 4096, b"", bytes(512), b"b" * 512}


def test_big_and_gathered_and_positioned_writes(machine: Machine) -> None:
    machine.run("""
        fd = opened('f'); os.write(fd, b'a' * 300_001); os.fsync(fd); sync_folder()
        os.lseek(fd, 7, os.SEEK_SET); os.writev(fd, [b'b' * 100_000, b'c' * 100_000])
        os.pwritev(fd, [b'd'] * 3, 300_000)
        out = os.open(D + '/f', os.O_WRONLY | os.O_APPEND); os.write(out, b'e' * 5)
    """)
    found = machine.outcomes(content("f"), 60)
    new = b"a" * 7 + b"b" * 100_000 + b"c" * 100_000 + b"a" * 99_993 + b"ddd" + b"e" * 5
    assert b"a" * 300_001 in found
    assert new in found
    for item in found:
        assert isinstance(item, bytes)
        assert 300_001 <= len(item) <= len(new)


def test_unsynced_content_is_still_unsynced_after_a_mere_restart(machine: Machine) -> None:
    machine.run("fd = opened('f'); os.pwrite(fd, b'a' * 512, 0); os.fsync(fd); sync_folder()")
    machine.run("fd = opened('f'); os.pwrite(fd, b'b' * 512, 0)")
    machine.run("fd = opened('f'); assert os.pread(fd, 1, 0) == b'b'; os.pwrite(fd, b'c' * 512, 512)")
    firsts = {item[:1] for item in machine.outcomes(content("f")) if isinstance(item, bytes)}
    assert firsts == {b"a", b"b"}
    machine.run("fd = opened('f'); os.fsync(fd)")
    assert machine.outcomes(content("f")) == {b"b" * 512 + b"c" * 512: 40}


def test_two_threads_and_a_sync_beside_them(machine: Machine) -> None:
    """A write that begins after a sync began is not covered by it; all before are."""
    machine.run("""
        import threading
        fd = opened('f'); os.ftruncate(fd, 64 * 512); os.fsync(fd); sync_folder()
        done = [0, 0]
        def work(mine):
            for number in range(1, 200):
                os.pwrite(fd, bytes([number]) * 512, (number % 32 + 32 * mine) * 512)
                os.fdatasync(fd)
                done[mine] = number
        threads = [threading.Thread(target=work, args=(mine,)) for mine in (0, 1)]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
        assert done == [199, 199]
    """)
    expected = bytearray(64 * 512)
    for mine in (0, 1):
        for number in range(1, 200):
            at = (number % 32 + 32 * mine) * 512
            expected[at : at + 512] = bytes([number]) * 512
    assert machine.outcomes(content("f"), 20) == {bytes(expected): 20}


# -- failed syncs


def test_what_a_failed_sync_had_to_write_is_lost_whatever_later_syncs_say(machine: Machine) -> None:
    machine.run("fd = opened('f'); os.pwrite(fd, b'a' * 1536, 0); os.fsync(fd); sync_folder()")
    machine.faults.fail_syncs(1)
    machine.run("""
        fd = opened('f'); os.pwrite(fd, b'b' * 1024, 0)
        try:
            os.fsync(fd)
        except OSError:
            os.pwrite(fd, b'c' * 512, 0); os.fsync(fd)  # as wrong programs do
            os.pwrite(fd, b'd' * 512, 1024)
    """)
    found = machine.outcomes(content("f"), 60)
    assert {item[:512] for item in found if isinstance(item, bytes)} == {b"c" * 512}, (
        "written again and synced"
    )
    assert {item[512:1024] for item in found if isinstance(item, bytes)} == {b"a" * 512, b"b" * 512}
    assert {item[1024:] for item in found if isinstance(item, bytes)} == {b"a" * 512, b"d" * 512}


# -- the handle


def test_a_loss_is_repeatable_and_leaves_no_notes(machine: Machine) -> None:
    machine.run("fd = opened('f'); sync_folder(); os.pwrite(fd, os.urandom(20_000), 0)")
    (machine.folder / "x-shm").write_bytes(b"?")
    results = []
    for _ in range(2):
        with machine.copy() as (folder, notes):
            loss = lose(folder, notes, 1)
            assert loss.sectors > 0
            results.append((loss, (folder / "f").read_bytes()))
            assert not (folder / "x-shm").exists()
            assert list(notes.iterdir()) == []
            assert lose(folder, notes, 6) == Loss(0, 0, 0), "what is left is durable"
    assert results[0] == results[1]


def test_a_living_process_loses_nothing(tmp_path: Path) -> None:
    with process_faults(tmp_path / "control", tmp_path / "data") as faults:
        (tmp_path / "data").mkdir()
        with subprocess.Popen(
            [sys.executable, "-I", "-c", "print(1, flush=True); import sys; sys.stdin.read()"],
            env={**os.environ, **faults.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(SetupError, match=f"process {process.pid}"):
                faults.lose_unsynced(random.Random(1))
            process.communicate()
        assert faults.lose_unsynced(random.Random(1)) == Loss(0, 0, 0)


def test_without_undo_notes_a_kill_loses_nothing(tmp_path: Path) -> None:
    with process_faults(tmp_path / "control", tmp_path / "data", is_lossy=False) as faults:
        (tmp_path / "data").mkdir()
        code = f"import os; os.write(os.open({str(tmp_path / 'data/f')!r}, os.O_RDWR | os.O_CREAT), b'x')"
        subprocess.run(
            [sys.executable, "-I", "-c", code], env={**os.environ, **faults.environment()}, check=True
        )
        assert list(faults.undo_folder.iterdir()) == []
        assert faults.lose_unsynced(random.Random(1)) == Loss(0, 0, 0)


def test_notes_that_are_none_are_named(machine: Machine) -> None:
    (machine.folder / "f").write_bytes(b"x")
    (machine.faults.undo_folder / f"f{(machine.folder / 'f').stat().st_ino}").write_bytes(b"?" * 100)
    with pytest.raises(SetupError, match="no undo notes"):
        machine.faults.lose_unsynced(random.Random(1))
