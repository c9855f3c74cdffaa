"""Power loss through the preload library: names need their folder's sync; SQLite on top of it all."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jepsen.fault_machine import Machine, content


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.faults.close()


# -- names


def test_a_new_file_needs_its_folders_sync(machine: Machine) -> None:
    machine.run("fd = opened('f'); os.write(fd, b'x'); os.fsync(fd)")
    assert set(machine.outcomes(content("f"))) == {None, b"x"}
    machine.run("sync_folder()")
    assert machine.outcomes(content("f")) == {b"x": 40}


def test_replacing_by_rename_gives_the_old_or_the_new_file(machine: Machine) -> None:
    machine.run("fd = opened('f'); os.write(fd, b'old'); os.fsync(fd); sync_folder()")
    machine.run("""
        fd = opened('t'); os.write(fd, b'new'); os.fsync(fd); os.rename(D + '/t', D + '/f')
    """)

    def look(folder: Path) -> object:
        return content("f")(folder), content("t")(folder)

    assert set(machine.outcomes(look)) == {(b"old", None), (b"old", b"new"), (b"new", None)}
    machine.run("sync_folder()")
    assert machine.outcomes(look) == {(b"new", None): 40}


def test_renaming_before_the_content_is_synced_is_found(machine: Machine) -> None:
    """The classic mistake: the name is durable, the content is not."""
    machine.run("fd = opened('t'); os.write(fd, b'new'); os.rename(D + '/t', D + '/f'); sync_folder()")
    found = set(machine.outcomes(content("f"), 100))
    assert b"" in found
    assert bytes(3) in found
    assert b"new" in found


def test_unlinked_files_come_back_with_their_content(machine: Machine) -> None:
    machine.run(
        "fd = opened('f'); os.write(fd, b'x' * 600); os.fsync(fd); sync_folder(); os.unlink(D + '/f')"
    )
    assert set(machine.outcomes(content("f"))) == {None, b"x" * 600}
    machine.run("sync_folder()")
    assert machine.outcomes(content("f")) == {None: 40}
    assert list(machine.faults.undo_folder.glob("b*")) == [], "the backup is gone, too"


def test_folders_come_and_go(machine: Machine) -> None:
    machine.run("""
        os.mkdir(D + '/old'); fd = opened('old/f'); os.fsync(fd); sync_folder('old'); sync_folder()
        os.unlink(D + '/old/f'); os.rmdir(D + '/old')
        os.mkdir(D + '/new'); fd = opened('new/g'); os.fsync(fd); sync_folder('new')
    """)

    def look(folder: Path) -> object:
        return tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")))

    assert set(machine.outcomes(look, 100)) == {
        ("old", "old/f"),
        ("old",),
        (),
        ("new", "new/g"),
    }


def test_a_name_used_twice(machine: Machine) -> None:
    machine.run("""
        fd = opened('f'); os.write(fd, b'1'); os.fsync(fd); sync_folder()
        os.unlink(D + '/f'); fd = opened('f'); os.write(fd, b'2'); os.fsync(fd)
        os.unlink(D + '/f'); fd = opened('f'); os.write(fd, b'3'); os.fsync(fd)
    """)
    assert set(machine.outcomes(content("f"), 100)) == {None, b"1", b"2", b"3"}


def test_a_failing_change_of_names_leaves_no_note(machine: Machine) -> None:
    machine.run("""
        for call in (lambda: os.unlink(D + '/no'), lambda: os.rename(D + '/no', D + '/no2'), lambda: os.mkdir(D)):
            try:
                call()
            except OSError:
                pass
        os.close(os.open(D + '/f', os.O_CREAT | os.O_TRUNC | os.O_WRONLY)); sync_folder()
    """)
    assert list(machine.faults.undo_folder.glob("[nb]*")) == []


def test_notes_about_a_deleted_folder_are_dropped(machine: Machine) -> None:
    machine.run("fd = opened('f'); os.write(fd, b'x'); os.fsync(fd); sync_folder(); os.unlink(D + '/f')")
    assert list(machine.faults.undo_folder.iterdir())
    shutil.rmtree(machine.folder)
    machine.run("os.mkdir(D)")
    assert list(machine.faults.undo_folder.iterdir()) == []


# -- SQLite


def test_sqlite_in_wal_mode_keeps_what_a_checkpoint_synced(machine: Machine) -> None:
    """Rows before the checkpoint survive every loss; later ones as a prefix, never torn, and the file stays sound."""
    machine.run("""
        import sqlite3
        db = sqlite3.connect(D + '/x.db', isolation_level=None)
        db.execute('pragma journal_mode = wal'); db.execute('pragma synchronous = normal')
        db.execute('pragma wal_autocheckpoint = 0')
        db.execute('create table t(v)'); db.execute('insert into t values (0)')
        db.execute('pragma wal_checkpoint(truncate)'); sync_folder()
        for number in range(1, 8):
            db.execute('insert into t values (?)', (number,))
    """)

    def look(folder: Path) -> object:
        db = sqlite3.connect(folder / "x.db")
        try:
            assert db.execute("pragma integrity_check").fetchone() == ("ok",)
            rows = [row[0] for row in db.execute("select v from t")]
        finally:
            db.close()
        assert rows == list(range(len(rows)))
        return len(rows)

    found = machine.outcomes(look, 60)
    assert min(found) == 1  # type: ignore[type-var]
    assert max(found) == 8  # type: ignore[type-var]
