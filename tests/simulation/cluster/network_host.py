"""A simulated machine's kernel: listening sockets, open sockets, connection attempts. It survives its processes.

Used by a simulated event loop for `create_server`, `create_connection` and `getaddrinfo`. IPv4 literals only; the
machine has one address, and 127.x.x.x means itself.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.cluster.network_model import Life
from tests.simulation.cluster.network_pipe import join
from tests.simulation.cluster.network_socket import Name, SimSocket, SimTransport

if TYPE_CHECKING:
    from tests.simulation.cluster.network import SimNetwork

Factory = Callable[[], asyncio.Protocol]
_EPHEMERAL_FIRST: Final = 32_768
_EPHEMERAL_LAST: Final = 60_999
_LITERAL: Final = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_UNSPECIFIED: Final = ("", "0.0.0.0")


class SimServer(asyncio.AbstractServer):
    """A listening socket. `waiting`: connections the process did not accept yet, at most `backlog`."""

    def __init__(self, host: SimHost, loop: Life, factory: Factory, name: Name, backlog: int) -> None:
        self._host = host
        self.life = loop
        self._factory = factory
        self._name = name
        self.backlog = backlog
        self.waiting: dict[SimTransport, None] = {}
        self.is_open = True

    @property
    def port(self) -> int:
        return self._name[1]

    @property
    def sockets(self) -> tuple[SimSocket, ...]:
        return (SimSocket(self._name),) if self.is_open else ()

    def accept_soon(self, served: SimTransport) -> None:
        """Its handshake is complete."""
        self.life.call_soon(self._accept, served)

    def _accept(self, served: SimTransport) -> None:
        self.waiting.pop(served, None)
        if not served.is_closing():
            served.start(self._factory())

    def shut(self) -> None:
        """No more connections; those nobody accepted are reset."""
        if self.is_open:
            self.is_open = False
            self._host.listening.pop(self.port, None)
            for served in list(self.waiting):
                served.refuse_process()
            self.waiting.clear()

    # -- asyncio.AbstractServer

    def close(self) -> None:
        self.shut()

    async def wait_closed(self) -> None:
        """Nothing to wait for, as up to Python 3.11: open connections are their owner's."""

    def get_loop(self) -> Any:
        return self.life

    def is_serving(self) -> bool:
        return self.is_open

    async def start_serving(self) -> None:
        """It always serves."""

    async def serve_forever(self) -> None:
        """Until cancelled."""
        await self.life.create_future()


class _Attempt:
    """One connection request, repeated until answered, given up or timed out."""

    def __init__(self, source: SimHost, loop: Life, ip: str, port: int) -> None:
        self.future: asyncio.Future[SimTransport] = loop.create_future()
        self._network = source.network
        self._source = source
        self._target = source.network.host(ip)
        self._loop = loop
        self._name = (ip, port)
        self._own_name = (source.ip, source.take_port())
        self._over = False
        self._wait_s = self._network.faults.syn_retry_s
        self._end = self._network.scheduler.now + self._network.faults.timeout_s
        self._request()

    def give_up(self) -> None:
        self._over = True

    @property
    def _is_over(self) -> bool:
        return self._over or not self._loop.is_alive

    def _request(self) -> None:
        if not self._is_over:
            self._network.scheduler.call_later(self._network.delay_s(), self._requested)

    def _requested(self) -> None:
        """The SYN arrives, or not."""
        network, source, target = self._network, self._source, self._target
        if self._is_over:
            return
        if network.is_cut(source.ip, target.ip) or not target.is_up:
            self._repeat()
            return
        server = target.listening.get(self._name[1])
        if server is None or network.rng.random() < network.faults.refuse:
            network.counts.refused += 1
            network.scheduler.call_later(network.delay_s(), self._refused)
            return
        if len(server.waiting) >= server.backlog:
            self._repeat()
            return
        dialled = SimTransport(source, self._loop, self._own_name, self._name)
        served = SimTransport(target, server.life, self._name, self._own_name, server)
        join(network, dialled, served)
        server.waiting[served] = None
        network.scheduler.call_later(network.delay_s(), self._answered, dialled)

    def _answered(self, dialled: SimTransport) -> None:
        """The SYN-ACK arrives, or not. Nobody heard of the connection so far."""
        network = self._network
        is_lost = network.is_cut(self._target.ip, self._source.ip)
        if is_lost or self._is_over or dialled.is_gone:
            dialled.discard()  # and with it the other end
            if is_lost and not self._is_over:
                self._repeat()
            elif dialled.is_gone:
                self._reject()
            return
        network.counts.connected += 1
        dialled.outgoing.open()
        self._loop.call_soon(self._settle, dialled, None)

    def _refused(self) -> None:
        if self._network.is_cut(self._target.ip, self._source.ip):
            self._repeat()
        else:
            self._reject()

    def _reject(self) -> None:
        message = f"Connect call failed {self._name}"
        self._loop.call_soon(self._settle, None, ConnectionRefusedError(errno.ECONNREFUSED, message))

    def _repeat(self) -> None:
        network = self._network
        network.counts.syns_lost += 1
        if network.scheduler.now + self._wait_s > self._end:
            network.scheduler.call_at(self._end, self._timed_out)
            return
        network.scheduler.call_later(self._wait_s, self._request)
        self._wait_s *= 2

    def _timed_out(self) -> None:
        self._network.counts.timeouts += 1
        message = f"Connect call failed {self._name}"
        self._loop.call_soon(self._settle, None, TimeoutError(errno.ETIMEDOUT, message))

    def _settle(self, dialled: SimTransport | None, error: OSError | None) -> None:
        if self.future.done():
            if dialled is not None:
                dialled.close_socket()
        elif dialled is not None:
            self.future.set_result(dialled)
        else:
            assert error is not None
            self.future.set_exception(error)


class SimHost:
    """Made by `SimNetwork.host`. `is_up`: has power; a machine is up from the beginning, without a process."""

    def __init__(self, network: SimNetwork, ip: str) -> None:
        self.network = network
        self.ip = ip
        self.is_up = True
        self.listening: dict[int, SimServer] = {}
        self.sockets: dict[SimTransport, None] = {}
        self._loop: Life | None = None
        self._next_port = _EPHEMERAL_FIRST

    # -- lives

    def attach(self, loop: Life) -> None:
        """A new life begins here; what an earlier one left open is closed as when a process ends."""
        if self._loop is not None:
            self.crash(silent=False)
        self._loop = loop
        if not self.is_up:
            self.is_up = True
            self.network.paths_changed()

    def crash(self, *, silent: bool) -> None:
        """The process is gone. silent: the machine lost power, until `attach`; its peers hear nothing."""
        self._loop = None
        if silent:
            self.is_up = False
            self.network.paths_changed()
            for server in self.listening.values():
                server.is_open = False
            self.listening.clear()
            for end in list(self.sockets):
                end.lose_power()
            return
        for server in list(self.listening.values()):
            server.shut()
        for end in list(self.sockets):
            end.close_socket()

    # -- what the loop asks for

    async def create_server(
        self,
        loop: Life,
        factory: Factory,
        host: str | None = None,
        port: int | None = None,
        *,
        backlog: int = 100,
        ssl: None = None,
        reuse_address: bool | None = None,
        start_serving: bool = True,
        **options: Any,
    ) -> SimServer:
        """Listen; OSError EADDRINUSE or EADDRNOTAVAIL. Port 0: a free one."""
        _refuse_options("create_server", ssl, options)
        self._refuse_strangers(loop)
        host, port = host or "0.0.0.0", int(port or 0)
        if not (host in _UNSPECIFIED or self.own_ip(host) == self.ip):
            raise OSError(errno.EADDRNOTAVAIL, f"{host} is not an address of {self.ip}: cannot listen there")
        if port in self.listening:
            raise OSError(errno.EADDRINUSE, f"address {(host, port)} is in use")
        port = port or self.take_port()
        server = self.listening[port] = SimServer(self, loop, factory, (host, port), max(1, backlog))
        return server

    async def create_connection(
        self,
        loop: Life,
        factory: Factory,
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: None = None,
        **options: Any,
    ) -> tuple[SimTransport, asyncio.Protocol]:
        """Connect; ConnectionRefusedError or TimeoutError. Cancelled: the attempt is given up."""
        _refuse_options("create_connection", ssl, options)
        self._refuse_strangers(loop)
        if host is None or port is None:
            raise ValueError("create_connection of the simulated network needs a host and a port")
        (*_, (ip, port_number)), *_ = self.getaddrinfo(host, port)
        attempt = _Attempt(self, loop, self.own_ip(ip), port_number)
        try:
            dialled = await attempt.future
        except BaseException:
            attempt.give_up()
            future = attempt.future
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().close_socket()
            raise
        protocol = factory()
        dialled.start(protocol)
        return dialled, protocol

    def getaddrinfo(
        self, host: str | None, port: int | str | None, **_: Any
    ) -> list[tuple[int, int, int, str, Name]]:
        """Raises socket.gaierror for anything that is no IPv4 address: there are no names here."""
        text = host or "127.0.0.1"
        if _LITERAL.fullmatch(text) is None or any(int(part) > 255 for part in text.split(".")):
            raise socket.gaierror(
                socket.EAI_NONAME, f"{host!r} is no IPv4 address; the simulated network has no names"
            )
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (text, int(port or 0)))]

    # -- parts

    def own_ip(self, ip: str) -> str:
        return self.ip if ip.startswith("127.") or ip in _UNSPECIFIED else ip

    def take_port(self) -> int:
        """A port nobody listens on; those of connections come round again after 28,232 others."""
        while True:
            port = self._next_port
            self._next_port = _EPHEMERAL_FIRST if port >= _EPHEMERAL_LAST else port + 1
            if port not in self.listening:
                return port

    def _refuse_strangers(self, loop: Life) -> None:
        if loop is not self._loop:
            raise OSError(
                errno.ENETDOWN, f"this event loop is not attached to {self.ip}, or its life is over"
            )


def _refuse_options(what: str, ssl: object, options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if ssl is not None:
        given.append("ssl")
    if given:
        raise ValueError(f"{what} of the simulated network does not know {', '.join(given)}")
