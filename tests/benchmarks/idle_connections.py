"""Memory of idle clients: `python -m tests.benchmarks.idle_connections [COUNT]`, 5,000 by default; at most 200 MiB.

A node process of its own; each client has said who it is and opened a database, as pooled connections do.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from dqlite_py.limits import KIB, MIB
from dqlite_py.wire.dqlite.requests import RequestType
from tests.support.dqliteclient import DqliteClient

COUNT = 5_000
BYTES_MAX = 200 * MIB
SPARE_DESCRIPTORS = 100


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < 2 * count + SPARE_DESCRIPTORS:
        print(f"{count} connections need a descriptor limit of {2 * count + SPARE_DESCRIPTORS}, not {hard}")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        node = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "dqlite_py.cli.main",
                "node",
                "--dir",
                f"{folder}/node",
                "--listen",
                "127.0.0.1:0",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            return _measure(node, count)
        finally:
            node.terminate()
            node.wait()


def _measure(node: subprocess.Popen[str], count: int) -> int:
    assert node.stdout is not None
    ready = node.stdout.readline()
    [address] = [word.partition("=")[2] for word in ready.split() if word.startswith("address=")]
    with ExitStack() as stack:
        before = _resident_bytes(node.pid)
        clients = []
        for number in range(count):
            client = stack.enter_context(DqliteClient(address))
            client.call(RequestType.CLIENT, number)
            client.call(RequestType.OPEN, "app", 0, "")
            clients.append(client)
        after = _resident_bytes(node.pid)
        clients[0].done("CREATE TABLE t (a)")
        assert clients[-1].done("INSERT INTO t VALUES (1)")[1] == 1
    print(
        f"{count} idle connections: {before / MIB:.0f} MiB before, {after / MIB:.0f} MiB after, "
        f"{(after - before) / count / KIB:.1f} KiB each"
    )
    return 0 if after <= BYTES_MAX else 1


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KIB
    raise ValueError(f"no resident size of process {pid}")


if __name__ == "__main__":
    sys.exit(main())
