"""What a power loss may leave, as a slow and obvious model: files are lists of versions, folders lists of listings.

Used by test_disk.py to judge images that the simulated disk has made. Knows files and two-folder renames; folders
themselves are there from the start.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

SECTOR = 512

Sectors = dict[int, set[bytes]]


@dataclass(eq=False)
class ModelFile:
    """A file's content now, and what its sectors and its size may be after a power loss."""

    now: bytes = b""
    sizes: set[int] = field(default_factory=lambda: {0})
    sectors: Sectors = field(default_factory=dict)

    def settled(self, content: bytes) -> None:
        """`content` is durable, and nothing else can be found."""
        self.now = content
        self.sizes = {len(content)}
        self.sectors = {number: {_sector(content, number)} for number in range(_count(content))}

    def write(self, data: bytes, offset: int) -> None:
        before = self.now.ljust(offset, b"\0")
        self.now = before[:offset] + data + before[offset + len(data) :]
        self.sizes.add(len(self.now))
        for number in range(offset // SECTOR, _count(self.now)):
            if number * SECTOR < offset + len(data):
                self._candidates(number).add(_sector(self.now, number))

    def truncate(self, size: int) -> None:
        self.now = self.now[:size].ljust(size, b"\0")
        self.sizes.add(size)
        for number, candidates in self.sectors.items():
            left = max(0, size - number * SECTOR)
            candidates |= {content[:left].ljust(SECTOR, b"\0") for content in candidates}

    def sync(self) -> None:
        self.settled(self.now)

    def allows(self, content: bytes) -> bool:
        return len(content) in self.sizes and all(
            any(candidate[: len(part)] == part for candidate in self._candidates(number))
            for number in range(_count(content))
            for part in [content[number * SECTOR : (number + 1) * SECTOR]]
        )

    def _candidates(self, number: int) -> set[bytes]:
        return self.sectors.setdefault(number, {bytes(SECTOR)})


def _count(content: bytes) -> int:
    return -(-len(content) // SECTOR)


def _sector(content: bytes, number: int) -> bytes:
    return content[number * SECTOR : (number + 1) * SECTOR].ljust(SECTOR, b"\0")


Listing = dict[str, ModelFile]
Image = dict[str, dict[str, bytes]]


class ModelDisk:
    """Folders of files; operations between two syncs of a folder survive as a prefix."""

    def __init__(self, folders: list[str]) -> None:
        self.folders: dict[str, Listing] = {folder: {} for folder in folders}
        # Per folder the listings a power loss may leave, each with the numbers of the operations it contains.
        self._allowed: dict[str, list[tuple[frozenset[int], Listing]]] = {}
        self._shared: dict[int, tuple[str, str]] = {}  # renames between two folders
        self._number = 0
        for folder in folders:
            self.sync_folder(folder)

    def change(self, *folders: str) -> None:
        """`folders` have changed, in one operation."""
        self._number += 1
        if len(folders) == 2:
            self._shared[self._number] = (folders[0], folders[1])
        for folder in folders:
            done = self._allowed[folder][-1][0] | {self._number}
            self._allowed[folder].append((done, dict(self.folders[folder])))

    def sync_folder(self, folder: str) -> None:
        """All of the folder's operations, and what another folder did up to a rename between both."""
        if folder in self._allowed:
            shared = self._allowed[folder][-1][0] & self._shared.keys()
            for other in self.folders:
                mine = [number for number in shared if other in self._shared[number]]
                if other != folder and mine:
                    last = max(mine)
                    self._allowed[other] = [item for item in self._allowed[other] if last in item[0]]
                    self._drop_older(other, shared)
        self._allowed[folder] = [(frozenset(), dict(self.folders[folder]))]

    def _drop_older(self, folder: str, durable: frozenset[int]) -> None:
        done = self._allowed[folder][0][0]
        self._allowed[folder] = [(numbers - done, listing) for numbers, listing in self._allowed[folder]]
        assert durable

    def allows(self, image: Image) -> bool:
        """Whether a power loss may leave exactly these bytes."""
        names = list(self.folders)
        for choice in itertools.product(*(self._allowed[name] for name in names)):
            chosen = dict(zip(names, choice, strict=True))
            if self._is_whole(chosen) and all(_matches(chosen[name][1], image[name]) for name in names):
                return True
        return False

    def _is_whole(self, chosen: dict[str, tuple[frozenset[int], Listing]]) -> bool:
        """A rename is in both of its folders, or in none, unless one of them has made it durable."""
        return all(
            (number in chosen[one][0]) == (number in chosen[other][0])
            for number, (one, other) in self._shared.items()
            if all(number in self._allowed[folder][-1][0] for folder in (one, other))
        )

    def settled(self, image: Image) -> None:
        """This is what was found: it is durable."""
        self._shared.clear()
        for folder, contents in image.items():
            self.folders[folder] = {}
            for name, content in contents.items():
                self.folders[folder][name] = ModelFile()
                self.folders[folder][name].settled(content)
            self._allowed[folder] = [(frozenset(), dict(self.folders[folder]))]


def _matches(listing: Listing, contents: dict[str, bytes]) -> bool:
    return listing.keys() == contents.keys() and all(
        file.allows(contents[name]) for name, file in listing.items()
    )
