"""A node process with settings and disk faults that the `node` command has no options for.

`python -m tests.support.settings_node --dir D --listen A --join B,C --options JSON`; same exit codes as
`dqlite-py node`. Answers one more request, test.compact. Options: `node` (settings of Node), `segment_bytes`,
`slow_incoming_s` (each write of a snapshot), `fail_when` (a path: once it exists, the journal's fdatasync fails with
the errno in it), `fail_incoming_when` (the same for an incoming snapshot), `free_bytes_from` (a path: free space is
the number in it).
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from typing import Any

import dqlite_py.app
from dqlite_py import logs
from dqlite_py.cli.exits import CommandFailed
from dqlite_py.cli.serving import StopSignals, serve
from dqlite_py.node import startup
from dqlite_py.ports import SystemDisk, WriteGroup


class ScriptedDisk(SystemDisk):
    """The real disk, but slow or failing where a test says so."""

    slow_incoming_s = 0.0
    fail_when: str | None = None
    fail_incoming_when: str | None = None
    free_bytes_from: str | None = None

    def __init__(self) -> None:
        self._journal_fds: set[int] = set()
        self._incoming_fds: set[int] = set()

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        fd = super().open(path, create=create, exclusive=exclusive)
        for marker, fds in (("/journal/", self._journal_fds), ("/incoming/", self._incoming_fds)):
            (fds.add if marker in path else fds.discard)(fd)
        return fd

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        if self.slow_incoming_s and fd in self._incoming_fds:
            time.sleep(self.slow_incoming_s)
        return super().pwrite(fd, data, offset)

    def write_group(self, fd: int, group: WriteGroup) -> None:
        group.write_in_steps(self, fd)

    def fdatasync(self, fd: int) -> None:
        self._fail_if_told(fd)
        super().fdatasync(fd)

    def fsync(self, fd: int) -> None:
        self._fail_if_told(fd)
        super().fsync(fd)

    def _fail_if_told(self, fd: int) -> None:
        for fds, path in ((self._journal_fds, self.fail_when), (self._incoming_fds, self.fail_incoming_when)):
            if fd in fds and path is not None and os.path.exists(path):
                with open(path) as text:
                    number = int(text.read() or errno.EIO)
                raise OSError(number, os.strerror(number))

    def free_bytes(self, path: str) -> int:
        if self.free_bytes_from is not None and os.path.exists(self.free_bytes_from):
            with open(self.free_bytes_from) as text:
                return int(text.read() or 0)
        return super().free_bytes(path)


class ScriptedNode(dqlite_py.app.Node):
    def start(self) -> dqlite_py.app.Node:
        super().start()
        runtime = self._running()

        async def compact(_context: Any, _body: Any) -> int:
            return int(await runtime.compaction.compact())

        runtime.transport.register("test.compact", compact, open_to_joiners=True)
        return self


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--join", default="")
    parser.add_argument("--options", type=json.loads, default={})
    given = parser.parse_args()
    options: dict[str, Any] = given.options
    startup.SEGMENT_BYTES = options.pop("segment_bytes", startup.SEGMENT_BYTES)
    settings = options.pop("node", {})
    for name, value in options.items():
        setattr(ScriptedDisk, name, value)
    dqlite_py.app.SystemDisk = ScriptedDisk
    node = ScriptedNode(
        given.dir, listen=given.listen, join=[a for a in given.join.split(",") if a], **settings
    )
    handler = logs.configure(sys.stderr, form="text", level="info")
    try:
        with StopSignals() as stop:
            serve(node, stop, sys.stdout, "text")
    except CommandFailed as failed:
        failed.show(sys.stderr)
        return int(failed.exit_code)
    finally:
        logs.unconfigure(handler)
    return 0


if __name__ == "__main__":
    sys.exit(main())
