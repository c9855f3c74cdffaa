"""A scenario in another process: it says "ready" where a node may be killed, and "done" at its end."""

from __future__ import annotations

import selectors
import subprocess
import time
from collections.abc import Callable, Sequence

SCENARIO_S = 90.0


def run(command: Sequence[str], at_ready: Callable[[], object] | None = None) -> str:
    """All that it prints. Fails with that when it fails, or is not done in time."""
    deadline = time.monotonic() + SCENARIO_S
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            output = _exchange(process, at_ready, deadline)
            status = process.wait(SCENARIO_S)
        except BaseException:
            process.kill()
            raise
    assert (status, output.split()[-1:]) == (0, ["done"]), f"status {status}\n{output[-4000:]}"
    return output


def _exchange(
    process: subprocess.Popen[bytes], at_ready: Callable[[], object] | None, deadline: float
) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    found, is_asked = b"", False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise AssertionError(f"not done within {SCENARIO_S:g} s: {found[-4000:]!r}")
            more = process.stdout.read1(65536)  # type: ignore[attr-defined]
            if not more:
                return found.decode()
            found += more
            if not is_asked and b"ready\n" in found:
                is_asked = True
                if at_ready is not None:
                    at_ready()
                process.stdin.write(b"go on\n")
                process.stdin.flush()
