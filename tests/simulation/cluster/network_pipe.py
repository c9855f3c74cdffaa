"""One direction of a simulated TCP connection: the sender's kernel, the wire, acknowledgements.

Bytes arrive in order, each segment after a delay of its own. What cannot get through (path cut, machine without
power) is held and sent again when it can, until the connection times out. Acknowledgements cost no events: they
are taken as given at once unless the way back is cut. It does not know processes; its two ends do (sockets).
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Final

from tests.simulation.cluster.network_model import Event

if TYPE_CHECKING:
    from tests.simulation.cluster.network import SimNetwork
    from tests.simulation.cluster.network_socket import SimTransport

Piece = bytes | memoryview
SEGMENT_BYTES_MAX: Final = 64 * 1024
_SPLIT: Final = -1.0  # as time of sending: nothing is added to such a segment


class _Kind(enum.Enum):
    DATA = "data"
    OPEN = "open"  # the third packet of the handshake: the acceptor may accept
    FIN = "fin"
    RESET = "reset"  # never sent twice


class _Segment:
    __slots__ = ("kind", "pieces", "sent_at", "size", "splits")

    def __init__(self, kind: _Kind, sent_at: float, pieces: list[Piece], size: int) -> None:
        self.kind = kind
        self.sent_at = sent_at
        self.pieces = pieces
        self.size = size
        self.splits = False


class Pipe:
    """Made by `join`, in pairs."""

    __slots__ = (
        "_death",
        "_flight",
        "_held",
        "_last_arrival",
        "_network",
        "_unreleased_bytes",
        "_window_planned",
        "is_broken",
        "receiver",
        "sender",
        "source",
        "target",
        "used_bytes",
    )

    def __init__(self, network: SimNetwork, sender: SimTransport, receiver: SimTransport) -> None:
        self._network = network
        self.sender = sender
        self.receiver = receiver
        self.source = sender.host.ip
        self.target = receiver.host.ip
        self.used_bytes = 0  # written and, as far as the sender knows, not yet read
        self.is_broken = False
        self._flight: deque[_Segment] = deque()
        self._held: list[_Segment] = []
        self._unreleased_bytes = 0  # read, but the sender was not told
        self._last_arrival = 0.0
        self._window_planned = False
        self._death: Event | None = None

    # -- the sender's kernel

    @property
    def room_bytes(self) -> int:
        return self._network.faults.window_bytes - self.used_bytes

    def send(self, piece: Piece, size: int) -> None:
        """Take bytes the caller saw room for; those of one instant travel together."""
        self.used_bytes += size
        flight = self._flight
        now = self._network.scheduler.now
        if flight:
            last = flight[-1]
            if last.sent_at == now and last.kind is _Kind.DATA and last.size + size <= SEGMENT_BYTES_MAX:
                last.pieces.append(piece)
                last.size += size
                return
        if size <= SEGMENT_BYTES_MAX:
            self._launch(_Segment(_Kind.DATA, now, [piece], size))
            return
        whole = memoryview(piece)
        for begin in range(0, size, SEGMENT_BYTES_MAX):
            part = whole[begin : begin + SEGMENT_BYTES_MAX]
            self._launch(_Segment(_Kind.DATA, now, [part], len(part)))

    def open(self) -> None:
        """Tell the acceptor that the connection is there."""
        self._launch(_Segment(_Kind.OPEN, _SPLIT, [], 0))

    def finish(self) -> None:
        """Nothing follows."""
        self._launch(_Segment(_Kind.FIN, _SPLIT, [], 0))

    def reset(self) -> None:
        """Tell the receiver, once, that its connection is dead; what was held back is given up."""
        self._launch(_Segment(_Kind.RESET, _SPLIT, [], 0))

    def _launch(self, segment: _Segment) -> None:
        if self.is_broken:
            return
        network = self._network
        faults = network.faults
        random = network.rng.random
        network.counts.segments += 1
        least, most = faults.delay_s
        arrival = network.scheduler.now + least + (most - least) * random()
        odd = random()
        if odd < faults.late:
            network.counts.late += 1
            arrival += network.rng.uniform(*faults.late_s)
        else:
            odd -= faults.late
            if odd < faults.split:
                segment.splits = True
            elif odd - faults.split < faults.reset:
                network.reset_connection(self.sender)
                return
        if arrival < self._last_arrival:
            arrival = self._last_arrival
        arrival += segment.size / faults.bytes_per_s
        self._last_arrival = arrival
        self._flight.append(segment)
        network.scheduler.call_at(arrival, self._arrive)

    # -- the wire

    def _arrive(self) -> None:
        """The front of what is under way arrives: whatever it is by now, so that order is kept."""
        if not self._flight:
            return
        segment = self._flight.popleft()
        if segment.splits and segment.size > 1:
            self._split(segment)
        if self._held or (self._network.is_troubled and self._is_blocked()):
            self._hold(segment)
        elif self.receiver.is_gone:
            self._answer_stranger(segment)
        else:
            self._deliver(segment)

    def _split(self, segment: _Segment) -> None:
        network = self._network
        network.counts.splits += 1
        whole = b"".join(segment.pieces)
        at = network.rng.randrange(1, segment.size)
        segment.pieces, segment.size = [whole[:at]], at
        self._flight.appendleft(_Segment(_Kind.DATA, _SPLIT, [whole[at:]], len(whole) - at))
        network.scheduler.call_later(network.delay_s(), self._arrive)

    def _deliver(self, segment: _Segment) -> None:
        receiver = self.receiver
        if segment.kind is _Kind.DATA:
            receiver.data_arrived(segment.pieces, segment.size)
        elif segment.kind is _Kind.OPEN:
            receiver.opened()
        elif segment.kind is _Kind.FIN:
            receiver.fin_arrived()
        else:
            receiver.reset_arrived()
            return
        if self._network.is_troubled and self._is_way_back_cut():
            self._stall()

    def _is_blocked(self) -> bool:
        network = self._network
        return network.is_cut(self.source, self.target) or not self.receiver.host.is_up

    def _is_way_back_cut(self) -> bool:
        network = self._network
        return network.is_cut(self.target, self.source) or not self.sender.host.is_up

    def _hold(self, segment: _Segment) -> None:
        if segment.kind is _Kind.RESET or self.sender.is_without_kernel:
            self.break_off()  # nobody is there to send it again
            return
        self._network.counts.held += 1
        self._held.append(segment)
        self._stall()

    # -- what did not get through, or was not acknowledged

    def _stall(self) -> None:
        if self._death is None and not self.is_broken:
            network = self._network
            network.stalled[self] = None
            self._death = network.scheduler.call_later(network.faults.timeout_s, self._time_out)

    def _calm(self) -> None:
        if self._death is not None:
            self._death.cancel()
            self._death = None
            self._network.stalled.pop(self, None)

    def recover(self) -> None:
        """Send again what was held back, if the path lets it through now."""
        if self.is_broken or self._death is None or self._is_blocked():
            return
        held, self._held = self._held, []
        for position, segment in enumerate(held):
            if self.receiver.is_gone:
                if self._is_way_back_cut():
                    self._held = held[position:]
                    return
                self._calm()
                self._answer_stranger(segment)
                return
            self._deliver(segment)
            if self.is_broken:
                return
        self._network.counts.recovered += 1
        if self._is_way_back_cut():
            return
        self._calm()
        self.used_bytes -= self._unreleased_bytes
        self._unreleased_bytes = 0
        if self.sender.has_unsent:
            self.sender.window_opened()

    def _time_out(self) -> None:
        self._network.counts.timeouts += 1
        self.break_off()
        self.sender.timed_out()

    def _answer_stranger(self, segment: _Segment) -> None:
        """The socket is closed: its kernel answers data with a reset, which may be lost as well."""
        if segment.kind is _Kind.FIN or segment.kind is _Kind.RESET:
            return
        if self._network.is_troubled and self._is_way_back_cut():
            self._hold(segment)
            return
        self._network.scheduler.call_later(self._network.delay_s(), self._stranger_answered, segment)

    def _stranger_answered(self, segment: _Segment) -> None:
        if self.is_broken:
            return
        if self._network.is_troubled and self._is_way_back_cut():
            self._hold(segment)
            return
        self._network.counts.resets_for_strangers += 1
        self.sender.reset_arrived()

    def break_off(self) -> None:
        """Nothing gets through any more."""
        if self.is_broken:
            return
        self.is_broken = True
        self._flight.clear()
        self._held.clear()
        self._calm()
        if self.receiver.is_opening:
            self.receiver.discard()  # its kernel gives it up before any process hears of it

    # -- the receiver's kernel

    def consumed(self, size: int) -> None:
        """The receiving process read bytes: tell the sender that there is room."""
        if self._network.is_troubled and self._is_way_back_cut():
            self._unreleased_bytes += size
            self._stall()
            return
        self.used_bytes -= size
        if self.sender.has_unsent and not self._window_planned and not self.is_broken:
            self._window_planned = True
            self._network.scheduler.call_later(self._network.delay_s(), self._window_opens)

    def _window_opens(self) -> None:
        self._window_planned = False
        if self.is_broken:
            return
        if self._network.is_troubled and self._is_way_back_cut():
            self._stall()
        else:
            self.sender.window_opened()


def join(network: SimNetwork, one: SimTransport, other: SimTransport) -> None:
    """Make the two directions between two sockets."""
    one.outgoing = other.incoming = Pipe(network, one, other)
    one.incoming = other.outgoing = Pipe(network, other, one)
