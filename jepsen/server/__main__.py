"""`python -m jepsen.server`: arguments, the node's life, exit codes. Main thread.

Prints `ready node_id=… address=…` on stdout when the control port serves; the log goes to stderr.
Exit codes: 0 stopped by SIGTERM, SIGINT or `shutdown`; 2 wrong usage; 3 cannot start; 4 the node failed.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import dqlite_py
from dqlite_py.node import membership, startup
from jepsen.server.handlers import Session
from jepsen.server.listener import BadAddress, ControlServer, open_control

log = logging.getLogger("jepsen.server")

CANNOT_START = 3
FAILED = 4
_POLL_S = 0.1
_STOP_S = 20.0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jepsen.server", description=__doc__)
    parser.add_argument("--name", required=True, help="the node's name in logs")
    parser.add_argument("--dir", required=True, help="data folder")
    parser.add_argument("--listen", required=True, help="host:port for peers")
    parser.add_argument("--advertise", help="host:port that peers dial, when it is not --listen")
    parser.add_argument("--control", required=True, help="host:port or unix:path of the control port")
    parser.add_argument("--join", action="append", default=[], help="a member's address; repeat")
    parser.add_argument(
        "--insecure", action="store_true", help="allow other addresses than loopback without TLS"
    )
    parser.add_argument("--start-timeout", type=float, default=30.0, help="seconds to join a cluster")
    parser.add_argument("--compact-log-bytes", type=int, help="compact when the journal holds more")
    parser.add_argument("--log-tail-bytes", type=int, help="journal kept for slow followers")
    parser.add_argument(
        "--disk-reserve-bytes", type=int, help="writes are refused below this much free space"
    )
    parser.add_argument(
        "--segment-bytes", type=int, help="a journal segment's size; the log is dropped by segments"
    )
    parser.add_argument("--leaving-s", type=float, help="how long a drained member is given no role")
    parser.add_argument("--log-level", choices=("debug", "info", "warning"), default="info")
    return parser


def make_node(options: argparse.Namespace) -> dqlite_py.Node:
    """Raises dqlite_py.InterfaceError for settings that cannot work."""
    if options.segment_bytes is not None:
        # Not a public setting: 64 MiB is right for users, and too much for a run of seconds to drop any log.
        startup.SEGMENT_BYTES = options.segment_bytes  # type: ignore[attr-defined]
    if options.leaving_s is not None:  # a minute is right for operators
        membership.LEAVING_S = options.leaving_s
    sizes = {
        name: getattr(options, name)
        for name in ("compact_log_bytes", "log_tail_bytes", "disk_reserve_bytes")
        if getattr(options, name) is not None
    }
    return dqlite_py.Node(
        options.dir,
        listen=options.listen,
        advertise=options.advertise,
        join=options.join,
        insecure=options.insecure,
        start_timeout=options.start_timeout,
        **sizes,
    )


def serve(options: argparse.Namespace) -> int:
    """Run until a signal, a `shutdown` or a failure; returns the exit code."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    try:
        node = make_node(options)
    except dqlite_py.Error as error:
        return _refuse(f"bad settings: {error}", 2)
    try:
        node.start()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is why the node cannot start
        return _refuse(f"cannot start: {type(error).__name__}: {error}", CANNOT_START)
    # Only now: until the node has started there is nothing to stop cleanly, and a signal ends the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        control = ControlServer(open_control(options.control), lambda: Session(node, stop.set))
    except BadAddress as error:
        node.stop()
        return _refuse(str(error), CANNOT_START)
    control.start()
    print(f"ready node_id={node.node_id} address={node.address}", flush=True)
    while not stop.wait(_POLL_S) and not node.join_thread(0):
        pass
    control.close()
    return _finish(node, stopped=stop.is_set())


def _finish(node: dqlite_py.Node, *, stopped: bool) -> int:
    failure = node.failure
    if failure is None and stopped:
        try:
            node.stop(timeout=_STOP_S)
        except dqlite_py.Error as error:
            failure = error
        else:
            failure = node.failure
    if failure is not None:
        return _refuse(f"the node failed: {type(failure).__name__}: {failure}", FAILED)
    if not stopped:
        return _refuse("the node stopped by itself without a reason", FAILED)
    log.info("stopped")
    return 0


def _refuse(message: str, code: int) -> int:
    log.error("%s", message)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=options.log_level.upper(),
        format=f"%(asctime)s.%(msecs)03d {options.name} %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    return serve(options)


if __name__ == "__main__":
    sys.exit(main())
