"""Three members of the bank under load, killed and restarted again and again; then every transfer is accounted for.

    python kill_under_load.py --seconds 30

Each client sends transfers, one after the other, and sends one again (the same id, to any member) until it is answered.
At the end all three members must tell the same story: every transfer that was answered is there, once, as it was sent;
nothing is there that nobody sent; the balances are exactly what these transfers make of the opening balances. Exit code
1 otherwise.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from bank import ACCOUNTS, OPENING_BALANCE, Order

HERE = Path(__file__).parent
TIMEOUT_S = 15.0


class Member:
    """A process that can be killed and started again."""

    def __init__(self, folder: Path, node_port: int, http_port: int, join: list[str]) -> None:
        self.http_port = http_port
        self._log = folder.with_suffix(".log")
        self._command = [
            sys.executable, str(HERE / "service.py"), "--data", str(folder),
            "--node", f"127.0.0.1:{node_port}", "--http", str(http_port),
            *(word for address in join for word in ("--join", address)),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def stop(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while ask(self.http_port, "GET", "/health")[0] != 200:
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"a member does not serve:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def story(self) -> dict:
        status, content = ask(self.http_port, "GET", "/statement")
        if status != 200:
            raise SystemExit(f"a member does not tell its books: {status} {content}")
        return content

    def is_leader(self) -> bool:
        status, content = ask(self.http_port, "GET", "/health")
        return status == 200 and content["is_leader"]


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, dict]:
    """(status, content); status 0 when there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}
    finally:
        connection.close()


class Client(threading.Thread):
    """Sends transfers until told to stop; `answered` holds those that were made, `sent` all of them."""

    def __init__(self, ports: list[int], stop: threading.Event, seed: int) -> None:
        super().__init__(daemon=True)
        self._ports, self._stop_request, self._random = ports, stop, random.Random(seed)
        self.sent: dict[str, Order] = {}
        self.answered: dict[str, Order] = {}
        self.refused = self.again = 0
        self.failure = ""

    def run(self) -> None:
        while not self._stop_request.is_set():
            source, target = self._random.sample(range(1, ACCOUNTS + 1), 2)
            order = Order(uuid.uuid4().hex, source, target, self._random.randint(1, 50))
            self.sent[order.id] = order
            while True:
                status, content = ask(self._random.choice(self._ports), "POST", "/transfers", order._asdict())
                if status in (200, 201):
                    self.answered[order.id] = order
                    break
                if status == 409:
                    self.refused += 1
                    break
                if status not in (0, 503):
                    self.failure = f"unexpected answer {status}: {content}"
                    return
                self.again += 1
                time.sleep(0.05)


def judge(clients: list[Client], story: dict) -> list[str]:
    """What is wrong with what a member tells."""
    sent = {key: order for client in clients for key, order in client.sent.items()}
    answered = {key for client in clients for key in client.answered}
    found: dict[str, Order] = {}
    wrong = []
    for row in story["transfers"]:
        order = Order(*row)
        if order.id in found:
            wrong.append(f"doubled: {order}")
        if sent.get(order.id) != order:
            wrong.append(f"nobody sent {order}")
        found[order.id] = order
    wrong += [f"lost: {sent[key]}" for key in answered - found.keys()]
    balances = dict.fromkeys(range(1, ACCOUNTS + 1), OPENING_BALANCE)
    for order in found.values():
        balances[order.source] -= order.amount
        balances[order.target] += order.amount
    if balances != {int(account): held for account, held in story["balances"].items()}:
        wrong.append("the balances are not what the transfers make of them")
    return wrong


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def run(folder: Path, seconds: float, clients_count: int, pause: float, seed: int) -> int:
    ports = free_ports(6)
    first = f"127.0.0.1:{ports[0]}"
    members = [
        Member(folder / f"n{number}", ports[number], ports[3 + number], [] if number == 0 else [first])
        for number in range(3)
    ]
    stop, chance, kills, leaders = threading.Event(), random.Random(seed), 0, 0
    clients = [Client(ports[3:], stop, seed + number) for number in range(clients_count)]
    try:
        for member in members:
            member.start()
            member.wait(60)
        for client in clients:
            client.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(pause)
            leading = [member for member in members if member.is_leader()]
            victim = leading[0] if leading and chance.random() < 0.7 else chance.choice(members)
            leaders += victim in leading
            victim.stop(signal.SIGKILL)
            kills += 1
            victim.start()
            victim.wait(60)
        stop.set()
        for client in clients:
            client.join(120)
        stories = [member.story() for member in members]
    finally:
        stop.set()
        for member in members:
            member.stop(signal.SIGTERM)

    wrong = [fault for story in stories for fault in judge(clients, story)]
    if any(story != stories[0] for story in stories):
        wrong.append("the members tell different stories")
    wrong += [client.failure for client in clients if client.failure]
    answered = sum(len(client.answered) for client in clients)
    if not answered or any(client.is_alive() for client in clients):
        wrong.append("clients did not come to an end")
    print(
        f"{kills} kills ({leaders} of the leader); {answered} transfers answered, "
        f"{sum(client.again for client in clients)} sent again, "
        f"{sum(client.refused for client in clients)} refused; {len(stories[0]['transfers'])} in the books"
    )
    for fault in wrong[:20]:
        print("WRONG:", fault)
    print("no acknowledged write lost or doubled" if not wrong else f"{len(wrong)} faults")
    return 1 if wrong else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument(
        "--pause", type=float, default=2.0, help="seconds between a restart and the next kill"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bank-") as folder:
        sys.exit(run(Path(folder), options.seconds, options.clients, options.pause, options.seed))


if __name__ == "__main__":
    main()
