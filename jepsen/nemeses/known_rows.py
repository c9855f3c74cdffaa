"""A table whose rows the nemesis knows: an altered row that a node answers cannot be taken for a client's write.

The texts are long and random enough to be found in a database file without knowing its format. Nobody changes the
table after it was made. Used by the thread of the nemesis.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from jepsen.cluster.api import Cluster, ClusterNode
from jepsen.cluster.client import ClientError
from jepsen.nemeses.base import NemesisError

TABLE: Final = "known_rows"
COUNT: Final = 64
_DIGITS: Final = b"0123456789abcdef"
_ASK_S: Final = 5.0


def text_of(number: int) -> str:
    """What row `number` holds."""
    return hashlib.sha256(f"known row {number}".encode()).hexdigest()


def make_known_rows(cluster: Cluster) -> None:
    """Make the table through whichever node answers; nothing to do where it is. Raises NemesisError."""
    statements: list[tuple[str, Sequence[Any]]] = [
        (f"CREATE TABLE IF NOT EXISTS {TABLE}(id INTEGER PRIMARY KEY, text TEXT NOT NULL)", [])
    ]
    insert = f"INSERT OR IGNORE INTO {TABLE}(id, text) VALUES (?, ?)"
    statements += [(insert, [number, text_of(number)]) for number in range(COUNT)]
    trouble: Exception | None = None
    for node in cluster.nodes:
        try:
            with node.client(_ASK_S) as client:
                client.unit(statements)
        except ClientError as error:
            trouble = error
        else:
            return
    raise NemesisError(f"no node could make the table {TABLE}: {trouble}")


def alter_row(path: Path, rng: random.Random) -> int | None:
    """Change one digit of a row in the database file of a stopped node; returns the row, None where it is not there.

    Every copy of the text is changed alike: an old one may lie in a free page.
    """
    number = rng.randrange(COUNT)
    text = text_of(number).encode()
    place = rng.randrange(len(text))
    other = _DIGITS[_DIGITS.index(text[place]) ^ 1]
    changed = text[:place] + bytes([other]) + text[place + 1 :]
    content = path.read_bytes()
    if text not in content:
        return None
    path.write_bytes(content.replace(text, changed))
    return number


def read_known_rows(node: ClusterNode, timeout_s: float) -> str | None:
    """Read linearizably on this node; what is wrong, None when all is right. Raises ClientError without an answer."""
    with node.client(timeout_s) as client:
        rows = client.query(f"SELECT id, text FROM {TABLE} ORDER BY id").rows
    found = {row[0]: row[1] for row in rows}
    for number in range(COUNT):
        if found.get(number) != text_of(number):
            return f"row {number} of {TABLE} is {found.get(number)!r} and not {text_of(number)!r}"
    return None if len(rows) == COUNT else f"{TABLE} has {len(rows)} rows and not {COUNT}"
