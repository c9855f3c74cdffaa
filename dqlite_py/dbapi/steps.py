"""How the logic is written once for sync and async: generators that yield the calls they need made.

A step generator yields (function, args, kwargs) of a Gateway, transaction or stream and is sent what the call
returned, or thrown what it raised. `drive` makes the calls; aio's `drive` awaits those of the async protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

Result = TypeVar("Result")
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
Steps = Generator[Call, Any, Result]
NO_KEYWORDS: Final[dict[str, Any]] = {}


def once(call: Call) -> Steps[Any]:
    """One call as steps."""
    return (yield call)


def drive(steps: Steps[Result]) -> Result:
    """Carry out the calls of `steps` and return its result."""
    try:
        function, args, kwargs = next(steps)
        while True:
            try:
                value = function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # the steps decide what to do with it
                function, args, kwargs = steps.throw(error)
            else:
                function, args, kwargs = steps.send(value)
    except StopIteration as done:
        result: Result = done.value
        return result


def begun(steps: Steps[Result]) -> Steps[Result]:
    """The same steps, with what comes before the first call done here and now: looking at a text, and encoding it."""
    try:
        first = next(steps)
    except StopIteration as done:
        return _over(done.value)
    return _going_on(first, steps)


def _over(result: Result) -> Steps[Result]:
    return result
    yield  # makes it steps


def _going_on(call: Call, steps: Steps[Result]) -> Steps[Result]:
    try:
        while True:
            try:
                answer = yield call
            except BaseException as error:  # noqa: BLE001  # the steps decide what to do with it
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration as done:
        result: Result = done.value
        return result
