"""DIR/state's files read, and nothing changed: CURRENT, MANIFEST, which databases there are.

Used by storage.state_folder, which owns the folder, and by offline tools, which only look. Any thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final, TypeVar

from dqlite_py.command import check_database_name
from dqlite_py.errors import CorruptState, InterfaceError, MalformedMessage, WrongCluster
from dqlite_py.ports import Disk
from dqlite_py.storage.manifest import Manifest
from dqlite_py.storage.sealedfile import read_sealed, unseal

CURRENT_NAME: Final = "CURRENT"
CURRENT_MAGIC: Final = b"dqlpyCUR"
CURRENT_VERSION: Final = 1
MANIFEST_NAME: Final = "MANIFEST"
_GENERATION: Final = re.compile(r"g([1-9][0-9]{0,17})")
_T = TypeVar("_T")


def database_file(name: str) -> str:
    """The file name of a database. No two names share one, nor a name with another's -wal."""
    return check_database_name(name) + ".db"


def generation_path(state: str, number: int) -> str:
    """The folder of a generation; `state` is DIR/state."""
    return os.path.join(state, f"g{number}")


def generation_number(name: str) -> int | None:
    """The generation that a folder's name says, None for any other name."""
    match = _GENERATION.fullmatch(name)
    return int(match[1]) if match else None


def read_current(disk: Disk, path: str) -> int:
    """The number in DIR/state/CURRENT; raises CorruptState, UnknownFormat, OSError."""
    body = _reading(path, lambda: unseal(CURRENT_MAGIC, CURRENT_VERSION, read_sealed(disk, path), path))
    if not (isinstance(body, list) and len(body) == 1 and type(body[0]) is int and 0 < body[0] < 10**18):
        raise CorruptState(
            f"{path} holds {body!r:.80}", file=path, expected="[generation]", found=repr(body)[:80]
        )
    return int(body[0])


def read_manifest(disk: Disk, path: str, cluster_id: bytes) -> Manifest:
    """A generation's MANIFEST; raises CorruptState, UnknownFormat, WrongCluster, OSError."""
    if not disk.exists(path):
        raise CorruptState(f"{path} is missing", file=path, expected="a manifest", found="no file")
    manifest = _reading(path, lambda: Manifest.from_bytes(read_sealed(disk, path), path))
    if manifest.cluster_id != cluster_id:
        raise WrongCluster(
            f"{path} belongs to cluster {manifest.cluster_id.hex()}, not {cluster_id.hex()}", file=path
        )
    return manifest


def database_names(disk: Disk, generation: str) -> list[str]:
    """Names of the database files in a generation's folder, sorted; raises CorruptState, OSError."""
    names = [f[: -len(".db")] for f in disk.listdir(generation) if f.endswith(".db")]
    for name in names:
        try:
            check_database_name(name)
        except InterfaceError as error:
            path = os.path.join(generation, name + ".db")
            raise CorruptState(
                f"{path} is not a database of this node: {error.message}",
                file=path,
                expected="database files only",
                found=name,
            ) from error
    return sorted(names)


def _reading(path: str, read: Callable[[], _T]) -> _T:
    """Turn bytes that are no sealed file into CorruptState of `path`."""
    try:
        return read()
    except MalformedMessage as error:
        raise CorruptState(
            f"{path} is damaged: {error.message}", file=path, expected="a sealed file", found=error.message
        ) from error
