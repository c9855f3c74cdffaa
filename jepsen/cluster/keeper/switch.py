"""The network between namespaces: IP packets from each node's TUN device to the others'. Loop thread of the keeper.

A cut drops packets of one direction silently, as a broken switch does; a delay holds each packet. TCP above it
behaves as on a real network. Neither packet filters nor kernel netem are needed.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Final

from jepsen.cluster.keeper.links import Links
from jepsen.cluster.keeper.namespace import Host

_PACKET_BYTES_MAX: Final = 65_535
_PACKETS_PER_TURN: Final = 64
_HELD_BYTES_MAX: Final = 64 * 1024 * 1024
_IPV4: Final = 4


class Switch:
    """Forwards until `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hosts: Sequence[Host], links: Links) -> None:
        self._loop = loop
        self._links = links
        self._hosts = list(hosts)
        self._by_address = {socket.inet_aton(host.address): host for host in hosts}
        self._held: deque[tuple[float, int, bytes]] = deque()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        for host in hosts:
            loop.add_reader(host.tun, self._read, host)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for host in self._hosts:
            self._loop.remove_reader(host.tun)
            os.close(host.tun)
            os.close(host.netns)

    def _read(self, host: Host) -> None:
        for _ in range(_PACKETS_PER_TURN):
            try:
                packet = os.read(host.tun, _PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            if len(packet) < 20 or packet[0] >> 4 != _IPV4:
                continue  # IPv6's own chatter
            target = self._by_address.get(packet[16:20])
            if target is None or self._links.is_cut(host.name, target.name):
                continue
            if self._links.delay_s or self._held:
                self._hold(target.tun, packet)
            else:
                _write(target.tun, packet)

    def _hold(self, tun: int, packet: bytes) -> None:
        if self._held_bytes + len(packet) > _HELD_BYTES_MAX:
            return  # a full queue drops
        self._held.append((self._loop.time() + self._links.delay_s, tun, packet))
        self._held_bytes += len(packet)
        if self._timer is None:
            self._timer = self._loop.call_at(self._held[0][0], self._release)

    def _release(self) -> None:
        self._timer = None
        now = self._loop.time()
        # In order of arrival, also when the delay has been shortened meanwhile.
        while self._held and self._held[0][0] <= now:
            _, tun, packet = self._held.popleft()
            self._held_bytes -= len(packet)
            _write(tun, packet)
        if self._held:
            self._timer = self._loop.call_at(self._held[0][0], self._release)


def _write(tun: int, packet: bytes) -> None:
    try:
        os.write(tun, packet)
    except OSError:
        return  # a full queue drops; TCP sends again
