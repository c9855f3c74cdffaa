"""The async driver of dbapi's steps: awaits the calls that they yield."""

from __future__ import annotations

from typing import Any

from dqlite_py.dbapi.steps import Result, Steps


async def drive(steps: Steps[Result]) -> Result:
    """Carry out the calls of `steps` and return its result. A cancellation is thrown into the steps, which go on."""
    try:
        function, args, kwargs = next(steps)
        while True:
            try:
                value: Any = await function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # the steps decide what to do with it
                function, args, kwargs = steps.throw(error)
            else:
                function, args, kwargs = steps.send(value)
    except StopIteration as done:
        result: Result = done.value
        return result
