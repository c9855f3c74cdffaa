"""`lose_unsynced`: change a killed node's data folder to what a power loss could have left of it.

The model is a POSIX file system that journals names in order, ext4 with delayed allocation being one, and a disk that
writes sectors of 512 bytes whole and in any order:
- what a successful fsync or fdatasync of a file covered is there; so is the size of the file at that time;
- of later writes, truncations and growth each sector holds its synced content or that of any later change; or the
  changes survive up to one of them, which is torn at a sector's boundary; or all, or none. Sectors that grew the file
  and are lost read as zeros or lie beyond the end, because the size is a choice of its own;
- making a file shorter is one change of its size: it survives whole or not at all, and what came after a lost one in
  the range that it cut off is lost with it (file systems give blocks back only together with the size);
- creating, renaming, removing a file or a folder is durable once its folder was synced (a rename between two folders:
  either of them). Of later ones per folder, a random number of the newest is taken back. Syncing a file does not make
  its name durable: stricter than ext4, as POSIX allows;
- what was dirty when a sync failed may be lost, whatever later syncs said, unless it was written again and synced.
A -shm file is removed: it is a mapping that SQLite makes anew after a crash.

Not modelled: sectors that become unreadable or hold garbage (that is the corruption nemeses' work), syncs by the
kernel's own age limit (a loss may therefore reach back further than on a real disk: all of it was unsynced).
Formats of the notes: native/undo.c, native/names.c. The folder of notes is empty afterwards.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jepsen.errors import SetupError
from jepsen.faults.undofile import SECTOR, Change, UndoFile, read_undo

_KEEP_CHANCES: Final = (0.0, 0.2, 0.5, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Loss:
    """What was taken back: files with lost content, sectors of them, changes of names."""

    files: int
    sectors: int
    names: int


@dataclass(frozen=True, slots=True)
class _NameChange:
    position: int
    folders: frozenset[int]
    kind: str
    path: Path
    second: Path
    note: Path
    backup: Path


def lose_unsynced(folder: Path, undo_folder: Path, rng: random.Random) -> Loss:
    """Roll back a random part of what is not durable below `folder`; no process uses it.

    Deterministic for equal notes and `rng`. Raises SetupError for notes that cannot be read, OSError.
    """
    names = _lose_names(undo_folder, rng)
    files = sectors = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        if path.name.endswith("-shm"):
            path.unlink()
            continue
        note = undo_folder / f"f{path.stat().st_ino}"
        if note.exists():
            lost = _lose_content(path, read_undo(note), rng)
            files += lost > 0
            sectors += lost
    shutil.rmtree(undo_folder)
    undo_folder.mkdir()
    return Loss(files, sectors, names)


# -- names ----------------------------------------------------------------------------------------------------


def _lose_names(undo_folder: Path, rng: random.Random) -> int:
    changes = sorted(map(_read_change, undo_folder.glob("n*")), key=lambda change: change.position)
    lost = _choose_lost(changes, rng)
    for change in reversed(changes):
        if change.position in lost:
            _take_back(change)
        change.note.unlink()
        change.backup.unlink(missing_ok=True)
    return len(lost)


def _read_change(note: Path) -> _NameChange:
    try:
        position, first, second = note.name[1:].split("-")
        folders = frozenset({int(first, 16), int(second, 16)} - {0})
        # Empty: killed while it was noted, so the change was not made.
        kind, path, other, _ = (note.read_bytes() or b"nothing\0\0\0").split(b"\0")
        paths = Path(os.fsdecode(path)), Path(os.fsdecode(other))
        backup = note.with_name(f"b{position}")
        return _NameChange(int(position, 16), folders, kind.decode(), *paths, note, backup)
    except ValueError as error:
        raise SetupError(
            f"{note} is no note of a changed name ({error}): remove the data folder and start anew"
        ) from error


def _choose_lost(changes: list[_NameChange], rng: random.Random) -> set[int]:
    """A tail of each folder's changes; a change of two folders is lost in both or in none."""
    cuts: dict[int, int] = {}
    for folder in dict.fromkeys(folder for change in changes for folder in sorted(change.folders)):
        own = [change.position for change in changes if folder in change.folders]
        cuts[folder] = own[index] if (index := rng.randint(0, len(own))) < len(own) else own[-1] + 1
    lost: set[int] = set()
    for change in changes:
        if any(change.position >= cuts[folder] for folder in change.folders):
            lost.add(change.position)
            for folder in change.folders:
                cuts[folder] = min(cuts[folder], change.position)
    return lost


def _take_back(change: _NameChange) -> None:
    """Undo one change; newer ones of its folders are undone already. One that never happened stays undone."""
    path, second = change.path, change.second
    if change.kind == "nothing" or not path.parent.is_dir():
        return  # the folder itself is gone
    if change.kind == "create":
        path.unlink(missing_ok=True)
    elif change.kind == "mkdir" and path.is_dir():
        shutil.rmtree(path)
    elif change.kind == "rmdir" and not path.exists():
        path.mkdir(mode=0o700)
    elif change.kind == "unlink" and not path.exists() and change.backup.exists():
        os.link(change.backup, path)
    elif change.kind == "rename" and second.exists() and not path.exists():
        os.rename(second, path)
        if change.backup.exists():
            os.link(change.backup, second)


@dataclass(frozen=True, slots=True)
class _Fate:
    """Of one file: changes from `cut` on are lost, or each sector is kept by the chance `keep`.

    With `keep`, of the cuts of its size those up to `kept_shorter` survived, `lost_shorter` and later ones did not.
    """

    cut: int | None = None
    is_torn: bool = False
    keep: float = 0.0
    kept_shorter: int = -1
    lost_shorter: int | None = None


# -- content --------------------------------------------------------------------------------------------------


def _lose_content(path: Path, undo: UndoFile, rng: random.Random) -> int:
    """Give each sector one of the contents it may have; returns how many are not the newest."""
    changes = undo.changes
    if not changes:
        return 0
    size_now = path.stat().st_size
    fate = _choose_fate(undo, rng)
    # By sector: the changes that touched it, oldest first.
    touched: dict[int, list[int]] = {}
    for index, change in enumerate(changes):
        for sector in change.sectors():
            touched.setdefault(sector, []).append(index)
    lost = 0
    with path.open("r+b") as file:
        for sector in sorted(touched):
            chosen = _choose(touched[sector], undo, fate, rng)
            if chosen is None:
                continue
            lost += 1
            content = changes[chosen].old_sector(sector)
            file.seek(sector * SECTOR)
            file.write(content)
        size = _choose_size(changes, undo, size_now, fate, rng)
        lost += size != size_now
        file.truncate(size)
    return lost


def _choose_fate(undo: UndoFile, rng: random.Random) -> _Fate:
    """All lost, or up to one change and perhaps a part of it, or sector by sector."""
    changes = undo.changes
    kind = rng.randrange(4)
    if kind == 0:
        return _Fate(cut=0)
    if kind == 1:
        cut = rng.randint(0, len(changes))
        can_tear = cut < len(changes) and not changes[cut].is_shorter
        return _Fate(cut=cut, is_torn=can_tear and rng.random() < 0.5)
    keep = rng.choice(_KEEP_CHANCES)
    kept, lost = -1, None
    for index, change in enumerate(changes):
        if change.is_shorter and not undo.is_durable(index):
            if rng.random() >= keep:
                lost = index
                break
            kept = index
    return _Fate(keep=keep, kept_shorter=kept, lost_shorter=lost)


def _choose(touched: list[int], undo: UndoFile, fate: _Fate, rng: random.Random) -> int | None:
    """The change BEFORE which the sector's content is taken; None: the newest content."""
    durable = max((position for position, index in enumerate(touched) if undo.is_durable(index)), default=-1)
    candidates = touched[durable + 1 :]
    if not candidates:
        return None
    if fate.cut is None:
        return _choose_freely(candidates, undo, fate, rng)
    # Of the change that is torn, some sectors arrived.
    first = fate.cut + (fate.is_torn and rng.random() < 0.5)
    return next((index for index in candidates if index >= first), None)


def _choose_freely(candidates: list[int], undo: UndoFile, fate: _Fate, rng: random.Random) -> int | None:
    kept = [
        at
        for at, index in enumerate(candidates)
        if undo.changes[index].is_shorter and index <= fate.kept_shorter
    ]
    candidates = candidates[kept[-1] + 1 :] if kept else candidates
    if fate.lost_shorter is not None and fate.lost_shorter in candidates:
        return rng.choice(candidates[: candidates.index(fate.lost_shorter) + 1])
    return None if not candidates or rng.random() < fate.keep else rng.choice(candidates)


def _choose_size(
    changes: list[Change], undo: UndoFile, size_now: int, fate: _Fate, rng: random.Random
) -> int:
    durable = max((index for index in range(len(changes)) if undo.is_durable(index)), default=-1)
    sizes = [*(change.size_before for change in changes[durable + 1 :]), size_now]
    if fate.cut is not None:
        return sizes[min(len(sizes) - 1, max(0, fate.cut - durable - 1))]
    begin = max(durable, fate.kept_shorter) + 1
    if fate.lost_shorter is not None:
        return rng.choice([change.size_before for change in changes[begin : fate.lost_shorter + 1]])
    if rng.random() < fate.keep:
        return size_now
    return rng.choice([*(change.size_before for change in changes[begin:]), size_now])
