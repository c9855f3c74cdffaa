"""Faults of a database, planted into a simulated load: each makes a known anomaly, and hits keys in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from jepsen.history.op import OpType
from tests.jepsen.listappend import Load


def g0(load: Load) -> None:
    """Two transactions append to two keys in opposite orders."""
    x, y = load.keys()
    one, two = [load.append(x), load.append(y)], [load.append(x), load.append(y)]
    load.database.run([one[0], two[0], two[1], one[1]])
    load.plant(one, two)


def g1a(load: Load) -> None:
    """A transaction fails, but its append stays and is read."""
    x, _y = load.keys()
    failed = [load.append(x)]
    load.database.run(failed)
    load.plant(failed, load.database.run([["r", x, None]]), type=OpType.FAIL)


def g1b(load: Load) -> None:
    """A read between the two appends of one transaction."""
    x, _y = load.keys()
    one = [load.append(x), load.append(x)]
    load.database.run(one[:1])
    read = load.database.run([["r", x, None]])
    load.database.run(one[1:])
    load.plant(one, read)


def g1c(load: Load) -> None:
    """Two transactions read each other's appends."""
    x, y = load.keys()
    one, two = [load.append(x)], [load.append(y)]
    load.database.run([*one, *two])
    load.plant(one + load.database.run([["r", y, None]]), two + load.database.run([["r", x, None]]))


def g_single(load: Load) -> None:
    """A reader sees one key before and one key after another transaction."""
    x, y = load.keys()
    before = load.database.run([["r", x, None]])
    writer = load.database.run([load.append(x), load.append(y)])
    load.plant(writer, before + load.database.run([["r", y, None]]))


def g_nonadjacent(load: Load) -> None:
    """Two readers see two independent appends in opposite orders (a long fork)."""
    x, y = load.keys()
    old_x, old_y = load.database.run([["r", x, None], ["r", y, None]])
    one, two = [load.append(x)], [load.append(y)]
    load.database.run([*one, *two])
    new_x, new_y = load.database.run([["r", x, None], ["r", y, None]])
    load.plant(one, two, [new_x, old_y], [old_x, new_y])


def g2_item(load: Load) -> None:
    """Write skew: each reads the key that the other appends to."""
    x, y = load.keys()
    reads = load.database.run([["r", x, None], ["r", y, None]])
    one, two = [load.append(x)], [load.append(y)]
    load.database.run([*one, *two])
    load.plant([reads[1], *one], [reads[0], *two])


def lost_update(load: Load) -> None:
    """Two transactions append after the same read; the second does not see the first."""
    x, _y = load.keys()
    read = load.database.run([["r", x, None]])
    one, two = [load.append(x)], [load.append(x)]
    load.database.run([*one, *two])
    load.plant(read + one, read + two)


def stale_read(load: Load) -> None:
    """A read that begins after an append was acknowledged does not see it."""
    x, _y = load.keys()
    old = load.database.run([["r", x, None]])
    load.plant(load.database.run([load.append(x)]))
    load.plant(old)


def stale_session(load: Load) -> None:
    """The same process does not see its own acknowledged append."""
    x, _y = load.keys()
    old = load.database.run([["r", x, None]])
    load.plant(load.database.run([load.append(x)]))
    load.next_process -= 1  # take the same process again
    load.plant(old)


def very_stale_read(load: Load) -> None:
    """A reader sees the state of long ago: a cycle through thousands of transactions in between."""
    x = min(key for key, elements in load.database.lists.items() if len(elements) > 3)
    y, _other = load.keys()
    load.plant([["r", x, load.database.lists[x][:1]], *load.database.run([["r", y, None]])])


def lost_append(load: Load) -> None:
    """An acknowledged append that was never applied, though the key is read later."""
    x, _y = load.keys()
    load.plant([load.append(x)])


def vanished(load: Load) -> None:
    """An element that was read once, and then is gone."""
    x, _y = load.keys()
    load.plant(load.database.run([load.append(x)]), load.database.run([["r", x, None]]))
    load.database.lists[x].pop()


def duplicate(load: Load) -> None:
    """A retried append that takes effect twice."""
    x, _y = load.keys()
    one = [load.append(x)]
    load.database.run([*one, *one])
    load.plant(one)


def garbage(load: Load) -> None:
    """An element that nobody appended."""
    x, _y = load.keys()
    load.database.run([load.append(x)])


def internal(load: Load) -> None:
    """A transaction does not see its own append."""
    x, _y = load.keys()
    old = load.database.run([["r", x, None]])
    load.plant(load.database.run([load.append(x)]) + old)


# Plant -> one of these must be found (the first is what it is called; further ones are what it implies).
PLANTS: Final[list[tuple[Callable[[Load], None], set[str]]]] = [
    (g0, {"G0"}),
    (g1a, {"G1a"}),
    (g1b, {"G1b"}),
    (g1c, {"G1c"}),
    (g_single, {"G-single"}),
    (g_nonadjacent, {"G-nonadjacent"}),
    (g2_item, {"G2-item"}),
    (lost_update, {"lost-update"}),
    (stale_read, {"G-single-realtime"}),
    (stale_session, {"G-single-process"}),
    (very_stale_read, {"G-single-realtime", "G-single"}),
    (lost_append, {"G0-realtime"}),
    (vanished, {"incompatible-order"}),
    (duplicate, {"duplicate-elements"}),
    (garbage, {"garbage-read"}),
    (internal, {"internal"}),
]
