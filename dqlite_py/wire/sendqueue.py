"""What one connection has still to send: lanes of messages, served fairly, bounded by bytes. No I/O.

CONTROL (votes, heartbeats, acknowledgements, pings) goes before everything else. The other lanes take turns
of a fragment's size, so that an entry of 112 MiB delays nobody; within a lane messages stay in order. At most one
message per lane is under way in fragments, which keeps within PARTIAL_MESSAGES_MAX of the receiver.
When a lane is full, `push` returns None and nothing was queued; an empty lane takes one message of any size.
Used by raft/connection.py on the loop thread.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

from dqlite_py.limits import CONTROL_QUEUE_BYTES_MAX, FRAME_FRAGMENT_BYTES, SEND_QUEUE_BYTES_MAX
from dqlite_py.wire.frames import OutgoingMessage


class Lane(enum.IntEnum):
    CONTROL = 0
    APPEND = 1  # log entries, in order
    RPC = 2  # requests and responses of one frame
    RPC_LARGE = 3


_BOUNDS: Final = (CONTROL_QUEUE_BYTES_MAX, SEND_QUEUE_BYTES_MAX, SEND_QUEUE_BYTES_MAX, SEND_QUEUE_BYTES_MAX)
_BULK: Final = (Lane.APPEND, Lane.RPC, Lane.RPC_LARGE)


class Queued:
    """A message's place in a queue."""

    __slots__ = ("frames_taken", "lane", "message", "removed")

    def __init__(self, lane: Lane, message: OutgoingMessage) -> None:
        self.lane = lane
        self.message = message
        self.frames_taken = 0
        self.removed = False

    @property
    def begun(self) -> bool:
        """Some of it was handed to the socket."""
        return self.frames_taken > 0

    @property
    def handed_over(self) -> bool:
        """All of it was handed to the socket: only now can the peer have the message."""
        return self.frames_taken == self.message.frame_count


class SendQueue:
    """The lanes of one connection."""

    __slots__ = ("_lanes", "_turn", "lane_bytes", "size_bytes")

    def __init__(self) -> None:
        self._lanes: tuple[deque[Queued], ...] = tuple(deque() for _ in Lane)
        self.lane_bytes = [0] * len(Lane)
        self.size_bytes = 0  # INVARIANT: their sum
        self._turn = 0

    def push(self, lane: Lane, message: OutgoingMessage) -> Queued | None:
        """Queue a message at the end of its lane, or None when the lane is full."""
        size = message.size_bytes
        held = self.lane_bytes[lane]
        if held and held + size > _BOUNDS[lane]:
            return None
        queued = Queued(lane, message)
        self._lanes[lane].append(queued)
        self.lane_bytes[lane] = held + size
        self.size_bytes += size
        return queued

    def remove(self, queued: Queued) -> bool:
        """Take a message back. True: it will never be sent; False: it was begun and the rest must follow."""
        if queued.begun or queued.removed:
            return not queued.begun
        queued.removed = True
        self._lanes[queued.lane].remove(queued)
        self._shrink(queued)
        return True

    def clear(self) -> None:
        for lane in self._lanes:
            for queued in lane:
                queued.removed = True
            lane.clear()
        self.lane_bytes = [0] * len(Lane)
        self.size_bytes = 0

    def take_all(self) -> list[bytes | memoryview]:
        """All pieces, lane after lane: for a queue that is to be written at once."""
        pieces: list[bytes | memoryview] = []
        for lane in self._lanes:
            while lane:
                queued = lane.popleft()
                message = queued.message
                if message.only_frame is not None:
                    pieces.append(message.only_frame)
                else:
                    for position in range(queued.frames_taken, message.frame_count):
                        pieces += message.frame(position)
                queued.frames_taken = message.frame_count
        self.lane_bytes = [0] * len(Lane)
        self.size_bytes = 0
        return pieces

    def take(self, budget_bytes: int) -> list[bytes | memoryview]:
        """Pieces to write next, about `budget_bytes` of them (the last frame may go over)."""
        pieces: list[bytes | memoryview] = []
        while budget_bytes > 0 and self.lane_bytes[Lane.CONTROL]:
            budget_bytes -= self._take_frame(Lane.CONTROL, pieces)
        idle_turns = 0 if self.size_bytes else 3
        while budget_bytes > 0 and idle_turns < 3:
            lane = _BULK[self._turn]
            self._turn = (self._turn + 1) % 3
            taken = self._take_turn(lane, min(budget_bytes, FRAME_FRAGMENT_BYTES), pieces)
            idle_turns = 0 if taken else idle_turns + 1
            budget_bytes -= taken
        return pieces

    def _take_turn(self, lane: Lane, quantum_bytes: int, pieces: list[bytes | memoryview]) -> int:
        taken = 0
        while taken < quantum_bytes and self._lanes[lane]:
            taken += self._take_frame(lane, pieces)
        return taken

    def _take_frame(self, lane: Lane, pieces: list[bytes | memoryview]) -> int:
        queued = self._lanes[lane][0]
        frame = queued.message.frame(queued.frames_taken)
        queued.frames_taken += 1
        if queued.handed_over:
            self._lanes[lane].popleft()
            self._shrink(queued)
        pieces.extend(frame)
        return sum(len(piece) for piece in frame)

    def _shrink(self, queued: Queued) -> None:
        size = queued.message.size_bytes
        self.lane_bytes[queued.lane] -= size
        self.size_bytes -= size
