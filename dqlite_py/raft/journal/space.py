"""Disk space of the journal: preallocation in steps, the spare file, new segments.

Files grow ahead of the writes and are filled with zeros, so that fdatasync of a group has no metadata to
write and a group does not run out of space half way. A full disk shows here, before anything of a group was
written, as StorageFull; the journal stays usable and the same call may be made again. Journal thread only.
"""

from __future__ import annotations

from dqlite_py.errors import StorageFull
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.files import is_full, write_fully, write_zeros
from dqlite_py.raft.journal.format import HEADER_BYTES, SegmentHeader, pack_segment_header
from dqlite_py.raft.journal.recovery import SPARE_NAME, segment_name
from dqlite_py.raft.journal.segment import TAIL_BYTES, Segment


class Space:
    """Makes room in `folder`; segments end at `segment_bytes` unless one group needs more."""

    def __init__(self, disk: Disk, folder: str, segment_bytes: int, step_bytes: int) -> None:
        self._disk = disk
        self._folder = folder
        self.segment_bytes = segment_bytes
        self.step_bytes = min(step_bytes, segment_bytes)
        self._spare_fd: int | None = None
        self._spare_bytes = 0

    @property
    def spare_bytes(self) -> int:
        return self._spare_bytes

    def make_room(self, segment: Segment, size: int) -> bool:
        """Grow `segment` for a group of `size` bytes; False when the group belongs into a new segment.

        Raises StorageFull (nothing changed), OSError.
        """
        needed = segment.end + size + TAIL_BYTES
        if needed <= segment.allocated:
            return True
        is_empty = segment.end == HEADER_BYTES
        if needed > self.segment_bytes and not is_empty:
            if (
                segment.allocated < segment.end + TAIL_BYTES
            ):  # cut at the last start: the seal needs its place
                self._grow(segment, segment.end + TAIL_BYTES)
            return False
        self._grow(segment, max(needed, min(segment.allocated + self.step_bytes, self.segment_bytes)))
        return True

    def prepare(self, segment: Segment) -> None:
        """Keep about a step of room ahead, in `segment` or in the spare; raises StorageFull, OSError."""
        if segment.room_bytes >= self.step_bytes // 2:
            return
        if segment.allocated < self.segment_bytes:
            self._grow(segment, min(segment.allocated + self.step_bytes, self.segment_bytes))
        if segment.room_bytes < self.step_bytes // 2 and self._spare_fd is None:
            self._fill_spare(self.step_bytes)

    def _grow(self, segment: Segment, size: int) -> None:
        try:
            segment.grow(self._disk, size)
        except OSError as error:
            if is_full(error):
                raise self._full(error) from error
            raise

    def create(self, header: SegmentHeader, room_bytes: int) -> Segment:
        """Make a segment with room for a group of `room_bytes`; it replaces a file of the same name at once.

        Durable under its name when this returns. Raises StorageFull (no trace left), OSError.
        """
        self._fill_spare(max(self.step_bytes, HEADER_BYTES + room_bytes + TAIL_BYTES))
        fd, size = self._spare_fd, self._spare_bytes
        assert fd is not None
        path = f"{self._folder}/{segment_name(header.first_index)}"
        try:
            write_fully(self._disk, fd, pack_segment_header(header), 0)
            self._disk.fsync(fd)  # whole BEFORE it gets a segment's name
            self._disk.rename(f"{self._folder}/{SPARE_NAME}", path)
        except OSError as error:
            if not is_full(error):
                raise
            self._drop_spare()
            raise self._full(error) from error
        self._disk.fsync_dir(self._folder)
        self._spare_fd, self._spare_bytes = None, 0
        return Segment(path, fd, header, HEADER_BYTES, size, header.first_group - 1)

    def _fill_spare(self, size: int) -> None:
        """Have a spare of at least `size` bytes; raises StorageFull (a smaller spare stays as it was), OSError."""
        try:
            if self._spare_fd is None:
                self._spare_fd = self._disk.open(f"{self._folder}/{SPARE_NAME}", create=True)
                self._disk.ftruncate(self._spare_fd, 0)
            if self._spare_bytes < size:
                write_zeros(self._disk, self._spare_fd, self._spare_bytes, size)
                self._disk.fsync(self._spare_fd)
                self._spare_bytes = size
        except OSError as error:
            if not is_full(error):
                raise
            if self._spare_fd is not None and self._spare_bytes:
                self._disk.ftruncate(self._spare_fd, self._spare_bytes)
            else:
                self._drop_spare()
            raise self._full(error) from error

    def _drop_spare(self) -> None:
        """Give the spare's space back."""
        fd, self._spare_fd, self._spare_bytes = self._spare_fd, None, 0
        if fd is not None:
            self._disk.close(fd)
            self._disk.unlink(f"{self._folder}/{SPARE_NAME}")

    def close(self) -> None:
        """Close the spare; the next start removes the file."""
        if self._spare_fd is not None:
            self._disk.close(self._spare_fd)
            self._spare_fd = None

    def _full(self, error: OSError) -> StorageFull:
        return StorageFull(
            f"no space for the journal in {self._folder} ({error.strerror}); nothing was written: free "
            f"disk space",
            folder=self._folder,
        )
