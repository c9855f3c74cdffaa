"""One member of the bank: an HTTP service and a database node in one process.

    python service.py --data n1 --node 127.0.0.1:9101 --http 8101
    python service.py --data n2 --node 127.0.0.1:9102 --http 8102 --join 127.0.0.1:9101

POST /transfers {"id", "source", "target", "amount"}: 201 done, 200 done before, 409 refused, 503 not done, try again
(here or at another member). GET /accounts/7?level=stale, GET /statement, GET /health.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from bank import Order, Refused, balance, open_bank, statement, transfer
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

import dqlite_py
from dqlite_py.sqlalchemy import engine_for

BODY_MAX = 10_000
Answer = tuple[int, object]


class Service(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, node: dqlite_py.Node, engine: Engine) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.node = node
        self.engine = engine


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _get(self) -> Answer:
        url = urlsplit(self.path)
        if url.path == "/health":
            return 200, {"is_leader": self.server.node.status()["is_leader"]}
        if url.path == "/statement":
            return 200, statement(self.server.engine)
        found = re.fullmatch(r"/accounts/(\d{1,9})", url.path)
        level = parse_qs(url.query).get("level", ["linearizable"])[0]
        if found is None or level not in ("linearizable", "stale"):
            return 404, {"error": "no such thing"}
        held = balance(self.server.engine, int(found[1]), level)
        return (404, {"error": "no such account"}) if held is None else (200, {"balance": held})

    def _post(self) -> Answer:
        length = int(self.headers.get("Content-Length", "0"))
        if self.path != "/transfers" or not 0 < length <= BODY_MAX:
            return 404, {"error": "no such thing"}
        order = _read_order(self.rfile.read(length))
        if order is None:
            return 400, {"error": 'a transfer is {"id": text, "source", "target", "amount": numbers}'}
        return (201 if transfer(self.server.engine, order) else 200), {"id": order.id}

    def _answer(self, respond: Callable[[], Answer]) -> None:
        try:
            status, content = respond()
        except Refused as refused:
            status, content = 409, {"error": str(refused)}
        except DBAPIError as error:
            # Whether it happened may be unknown (outcome UNKNOWN); sending the same id again is safe in any case.
            outcome = getattr(error.orig, "outcome", dqlite_py.Outcome.UNKNOWN)
            status, content = 503, {"error": str(error.orig), "outcome": outcome.value}
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status >= 400:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Nothing per request."""


def _read_order(body: bytes) -> Order | None:
    try:
        fields = json.loads(body)
        order = Order(**fields)
    except (ValueError, TypeError):
        return None
    numbers = (order.source, order.target, order.amount)
    sound = isinstance(order.id, str) and 0 < len(order.id) <= 64 and all(type(n) is int for n in numbers)
    return order if sound and 0 < order.amount < 10**9 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of this member")
    parser.add_argument("--node", required=True, help="host:port for the other members")
    parser.add_argument("--http", required=True, type=int, help="port for HTTP")
    parser.add_argument(
        "--join", action="append", default=[], help="host:port of a member, to join its cluster"
    )
    options = parser.parse_args()

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with dqlite_py.Node(options.data, listen=options.node, join=options.join) as node:
        node.wait_ready(60.0)
        engine = engine_for(node, "bank", pool_size=32)
        open_bank(engine)
        server = Service(options.http, node, engine)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        print(f"serving on http://127.0.0.1:{options.http}", flush=True)
        stop.wait()
        server.shutdown()
        server.server_close()
        engine.dispose()


if __name__ == "__main__":
    main()
