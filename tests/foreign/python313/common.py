"""What the scenarios share. They run in an environment of their own: Python 3.13 and the published packages."""

import sys
from collections.abc import Callable
from typing import Any

SERVERS = sys.argv[1].split(",")
DATABASE = sys.argv[2]
IS_STOCK = DATABASE.startswith("stock")  # known faults of upstream are not complained about
PATIENCE_S = 30.0


def pause() -> None:
    """The test may kill a node now."""
    print("ready", flush=True)
    sys.stdin.readline()


def equal(found: Any, expected: Any, what: str = "") -> None:
    if found != expected or type(found) is not type(expected):
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}")


def raises(kind: type[BaseException], call: Callable[[], Any], part: str = "") -> Any:
    try:
        found = call()
    except kind as error:
        if part not in str(error):
            raise AssertionError(f"{error!r} does not say {part!r}") from error
        return error
    raise AssertionError(f"{kind.__name__} was not raised, but {found!r} returned")
