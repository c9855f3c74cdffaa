"""The bodies of the snapshot RPCs: records to msgpack values and back, every field checked.

snapshot.begin  {"minimum_index": int, "resume": 16 bytes | nil}
   -> {"state": "ready", "id": 16 bytes, "manifest": sealed MANIFEST, "files": [[bytes, crc32c], ...]}
      files in the order of the manifest's databases: no file name travels
   -> {"state": "preparing", "done": bytes, "total": bytes}
snapshot.chunk  {"id": 16 bytes, "file": position in files, "offset": bytes, "size": bytes}
   -> {"data": bytes, "crc32c": int}

Pure. Used by node.snapshot_source (answers) and node.snapshot_fetch (asks); every malformed value raises
MalformedMessage, an unknown manifest format UnknownFormat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dqlite_py.errors import MalformedMessage
from dqlite_py.limits import SNAPSHOT_CHUNK_BYTES
from dqlite_py.model import LogIndex
from dqlite_py.nativelib import crc32c
from dqlite_py.storage.manifest import Manifest

BEGIN: Final = "snapshot.begin"
CHUNK: Final = "snapshot.chunk"
ID_BYTES: Final = 16
PAGE_BYTES: Final = frozenset(2**power for power in range(9, 17))


@dataclass(frozen=True, slots=True)
class BeginRequest:
    minimum_index: LogIndex
    resume: bytes | None

    def to_wire(self) -> dict[str, Any]:
        return {"minimum_index": self.minimum_index, "resume": self.resume}

    @classmethod
    def from_wire(cls, body: Any) -> BeginRequest:
        fields = _fields(body, ("minimum_index", "resume"), "snapshot.begin")
        resume = fields["resume"]
        if resume is not None:
            _identifier(resume)
        return cls(LogIndex(_integer(fields["minimum_index"], "minimum_index")), resume)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file must turn out to be."""

    size_bytes: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A copy that is ready. `files` go with `manifest.databases`, one to one."""

    id: bytes
    manifest: Manifest
    files: tuple[FileFacts, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def to_wire(self) -> dict[str, Any]:
        return {
            "state": "ready",
            "id": self.id,
            "manifest": self.manifest.to_bytes(),
            "files": [[file.size_bytes, file.crc32c] for file in self.files],
        }


@dataclass(frozen=True, slots=True)
class Preparing:
    """The copy is still being made."""

    done_bytes: int
    total_bytes: int

    def to_wire(self) -> dict[str, Any]:
        return {"state": "preparing", "done": self.done_bytes, "total": self.total_bytes}


def begin_reply_from_wire(body: Any) -> Offer | Preparing:
    """Decode either answer to snapshot.begin."""
    state = body.get("state") if isinstance(body, dict) else None
    if state == "preparing":
        fields = _fields(body, ("state", "done", "total"), "snapshot.begin answer")
        return Preparing(_integer(fields["done"], "done"), _integer(fields["total"], "total"))
    if state != "ready":
        raise MalformedMessage(f"snapshot.begin answered {state!r:.40}", what="snapshot.begin answer")
    fields = _fields(body, ("state", "id", "manifest", "files"), "snapshot.begin answer")
    if type(fields["manifest"]) is not bytes or not isinstance(fields["files"], list):
        raise MalformedMessage("malformed answer to snapshot.begin", what="snapshot.begin answer")
    manifest = Manifest.from_bytes(fields["manifest"], "offered manifest")
    files = tuple(_file(row) for row in fields["files"])
    if len(files) != len(manifest.databases):
        raise MalformedMessage("the files offered are not the manifest's databases", what="files")
    for file, database in zip(files, manifest.databases, strict=True):
        page_bytes, rest = divmod(file.size_bytes, database.page_count)
        if rest or page_bytes not in PAGE_BYTES:
            raise MalformedMessage(
                f"database {database.name}: {file.size_bytes} bytes are not {database.page_count} pages",
                what="files",
            )
    return Offer(_identifier(fields["id"]), manifest, files)


@dataclass(frozen=True, slots=True)
class ChunkRequest:
    id: bytes
    file: int
    offset: int
    size: int

    def to_wire(self) -> dict[str, Any]:
        return {"id": self.id, "file": self.file, "offset": self.offset, "size": self.size}

    @classmethod
    def from_wire(cls, body: Any) -> ChunkRequest:
        fields = _fields(body, ("id", "file", "offset", "size"), "snapshot.chunk")
        size = _integer(fields["size"], "size")
        if not 0 < size <= SNAPSHOT_CHUNK_BYTES:
            raise MalformedMessage(f"a chunk has 1 to {SNAPSHOT_CHUNK_BYTES} bytes, not {size}", what="size")
        return cls(
            _identifier(fields["id"]),
            _integer(fields["file"], "file"),
            _integer(fields["offset"], "offset"),
            size,
        )


def chunk_to_wire(data: bytes) -> dict[str, Any]:
    return {"data": data, "crc32c": crc32c(data)}


def chunk_from_wire(body: Any, size: int) -> bytes:
    """Give the chunk's bytes when they are `size` many and match their checksum."""
    fields = _fields(body, ("data", "crc32c"), "snapshot.chunk answer")
    data = fields["data"]
    if type(data) is not bytes or len(data) != size:
        raise MalformedMessage("the chunk has the wrong size", what="snapshot.chunk answer")
    if fields["crc32c"] != crc32c(data):
        raise MalformedMessage("the chunk does not match its checksum", what="snapshot.chunk answer")
    return data


def _fields(body: Any, names: tuple[str, ...], what: str) -> dict[str, Any]:
    if not (isinstance(body, dict) and set(body) == set(names)):
        raise MalformedMessage(f"{what} needs the fields {', '.join(names)}", what=what)
    return body


def _integer(value: Any, what: str) -> int:
    if not (type(value) is int and 0 <= value < 2**63):
        raise MalformedMessage(f"{what} is not a count", what=what)
    return value


def _identifier(value: Any) -> bytes:
    if not (type(value) is bytes and len(value) == ID_BYTES):
        raise MalformedMessage(f"a snapshot id is {ID_BYTES} bytes", what="id")
    return value


def _file(row: Any) -> FileFacts:
    if not (isinstance(row, list) and len(row) == 2):
        raise MalformedMessage("a file is [bytes, crc32c]", what="files")
    return FileFacts(_integer(row[0], "file size"), _integer(row[1], "file checksum"))
