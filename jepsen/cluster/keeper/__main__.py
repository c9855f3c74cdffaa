"""`python -m jepsen.cluster.keeper`: requests on stdin, answers on stdout, JSON lines, one at a time.

op         arguments                                      ok
namespaces addresses {name: address}                      null; once, first
loopback   names [name, ...]                              {name: [listen, advertise]}; once, first
start      name, argv, environment, folder, log           process id
poll       name                                           [process id or null, exit code or null]
signal     name, number                                   whether it was sent
cut        source, destination                            null
heal       -                                              null
delay      ms                                             null
Errors: {"error": message}. The end of stdin is the end of the suite: kill the nodes and exit.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from jepsen.cluster.keeper import namespace
from jepsen.cluster.keeper.children import Children
from jepsen.cluster.keeper.links import Links
from jepsen.cluster.keeper.proxies import Proxies
from jepsen.cluster.keeper.switch import Switch
from jepsen.errors import SetupError

_CHUNK_BYTES = 64 * 1024


class Keeper:
    """State of the process; `serve` runs until stdin ends."""

    def __init__(self) -> None:
        self._children = Children()
        self._links = Links()
        self._netns: dict[str, int] = {}
        self._switch: Switch | None = None
        self._proxies: Proxies | None = None
        self._buffer = bytearray()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        requests: asyncio.Queue[bytes] = asyncio.Queue()
        loop.add_reader(0, self._read, requests)
        try:
            while line := await requests.get():
                answer = json.dumps(await self._answer(line)).encode() + b"\n"
                os.write(1, answer)
        finally:
            loop.remove_reader(0)
            self._children.kill_all()
            if self._switch is not None:
                self._switch.close()
            if self._proxies is not None:
                await self._proxies.close()

    def _read(self, requests: asyncio.Queue[bytes]) -> None:
        data = os.read(0, _CHUNK_BYTES)
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            requests.put_nowait(bytes(self._buffer[: end + 1]))
            del self._buffer[: end + 1]
        if not data:
            asyncio.get_running_loop().remove_reader(0)
            requests.put_nowait(b"")

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            return {"ok": await self._do(request.pop("op"), **request)}
        except SetupError as error:
            return {"error": str(error)}
        except Exception as error:  # noqa: BLE001  # the suite must hear of it; its nodes live on
            return {"error": f"{type(error).__name__}: {error}"}

    async def _do(self, op: str, **arguments: Any) -> Any:
        if op == "namespaces":
            return self._make_namespaces(arguments["addresses"])
        if op == "loopback":
            self._proxies = Proxies(self._links)
            await self._proxies.start(arguments["names"])
            return {name: [ports.listen, ports.advertise] for name, ports in self._proxies.ports.items()}
        if op == "start":
            name = arguments.pop("name")
            return self._children.start(name, arguments.pop("argv"), netns=self._netns.get(name), **arguments)
        if op == "poll":
            return self._children.code(arguments["name"])
        if op == "signal":
            return self._children.signal(arguments["name"], arguments["number"])
        return self._change_links(op, arguments)

    def _change_links(self, op: str, arguments: dict[str, Any]) -> None:
        if op == "cut":
            self._links.cut(arguments["source"], arguments["destination"])
        elif op == "heal":
            self._links.heal()
        elif op == "delay":
            self._links.delay_s = arguments["ms"] / 1000
        else:
            raise SetupError(f"the keeper knows no {op!r}")

    def _make_namespaces(self, addresses: dict[str, str]) -> None:
        # Every unshare() moves this thread on; what it leaves behind is held by the hosts' descriptors.
        namespace.gain_rights()
        hosts = [namespace.make_host(name, address) for name, address in addresses.items()]
        self._netns = {host.name: host.netns for host in hosts}
        self._switch = Switch(asyncio.get_running_loop(), hosts, self._links)


async def _main() -> None:
    await Keeper().serve()


if __name__ == "__main__":
    # The suite decides when it is over; Ctrl-C reaches it, not us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_main())
    sys.exit(0)
