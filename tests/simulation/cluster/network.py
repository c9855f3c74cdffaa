"""A simulated TCP network under asyncio's transports: machines by address, and everything that befalls their paths.

    network = SimNetwork(scheduler, rng, NetworkFaults(reset=0.001))
    network.host("10.0.0.1").attach(loop)       # then loop.create_server, loop.create_connection
    network.cut("10.0.0.1", "10.0.0.2")         # one way
    network.heal()

One scheduler event and one callback of the receiver's loop per segment. What happens follows from the random.Random
alone. It models streams as their users see them (order, delays, windows, resets, time-outs), not packets, congestion
or keep-alive. network_host.py: machines, listening, connecting; network_socket.py: one end of a connection;
network_pipe.py: one direction of it.
"""

from __future__ import annotations

import random

from tests.simulation.cluster.network_host import SimHost, SimServer
from tests.simulation.cluster.network_model import Clock, Event, NetworkCounts, NetworkFaults
from tests.simulation.cluster.network_pipe import Pipe
from tests.simulation.cluster.network_socket import SimTransport

__all__ = [
    "Clock",
    "Event",
    "NetworkCounts",
    "NetworkFaults",
    "SimHost",
    "SimNetwork",
    "SimServer",
    "SimTransport",
]


class SimNetwork:
    """`faults` may be changed at any time. Addresses are IPv4 literals."""

    def __init__(self, scheduler: Clock, rng: random.Random, faults: NetworkFaults | None = None) -> None:
        self.scheduler = scheduler
        self.rng = rng
        self.faults = faults if faults is not None else NetworkFaults()
        self.counts = NetworkCounts()
        self.is_troubled = False  # some path is cut or some machine without power: look closer
        self.stalled: dict[Pipe, None] = {}  # with something held back or not acknowledged
        self._hosts: dict[str, SimHost] = {}
        self._cuts: dict[tuple[str, str], None] = {}

    def host(self, ip: str) -> SimHost:
        """The machine with this address; it exists from when it is first asked for."""
        host = self._hosts.get(ip)
        if host is None:
            host = self._hosts[ip] = SimHost(self, ip)
            host.getaddrinfo(ip, 0)  # complains about an address that is none
        return host

    # -- paths

    def cut(self, a: str, b: str) -> None:
        """From now on nothing gets from a to b: bytes are held back, connection requests lost."""
        self._cuts[a, b] = None
        self.paths_changed()

    def heal(self, a: str | None = None, b: str | None = None) -> None:
        """Undo all cuts, or the one from a to b. What was held back follows when the senders try again."""
        if a is None or b is None:
            self._cuts.clear()
        else:
            self._cuts.pop((a, b), None)
        self.paths_changed()

    def is_cut(self, a: str, b: str) -> bool:
        return (a, b) in self._cuts

    def paths_changed(self) -> None:
        """A path or a machine came or went: what is stalled tries again, each at its own time."""
        self.is_troubled = bool(self._cuts) or not all(host.is_up for host in self._hosts.values())
        for pipe in self.stalled:
            self.scheduler.call_later(self.rng.uniform(*self.faults.retransmit_s), pipe.recover)

    def reset_connections(self, a: str, b: str | None = None) -> int:
        """Reset every connection of machine a (with b): bytes under way are lost, both ends hear of it at once."""
        ends = [end for end in self.host(a).sockets if b is None or end.outgoing.target == b]
        for end in ends:
            self.reset_connection(end)
        return len(ends)

    # -- used by the parts

    def reset_connection(self, end: SimTransport) -> None:
        self.counts.resets += 1
        other = end.outgoing.receiver
        end.reset_arrived()
        other.reset_arrived()

    def delay_s(self) -> float:
        least, most = self.faults.delay_s
        return least + (most - least) * self.rng.random()
