"""What one extended connection has still to send, and what has arrived of its messages in pieces. No I/O.

Small messages leave in the order of their coming, before large ones; large ones take turns, one piece each, so that a
body of 100 MiB delays nobody by more than a piece. Every queue is bounded by bytes. Used by both sides.
"""

from __future__ import annotations

from collections import deque

from dqlite_py.limits import EXTENSION_MESSAGE_BYTES_MAX, SEND_QUEUE_BYTES_MAX
from dqlite_py.wire.dqlite.extension import FRAGMENT_BYTES, Part, encode_answer, encode_call, encode_message
from dqlite_py.wire.dqlite.violations import CODE_PARSE, ProtocolViolation


class Queued:
    """A message's place in the queue."""

    __slots__ = ("_body", "_id", "_last", "_sent", "frame", "is_handed_over", "is_removed")

    def __init__(self, frame: bytes | None, call_id: int, last: str | int, body: bytes) -> None:
        self.frame = frame  # of a small message
        self.is_handed_over = False  # all of it was taken: only now can the other side have the message
        self.is_removed = False
        self._id = call_id
        self._last = last  # the method of a call, or the kind of an answer
        self._body = memoryview(body)
        self._sent = 0

    @property
    def size_bytes(self) -> int:
        return len(self._body) if self.frame is None else len(self.frame)

    @property
    def is_begun(self) -> bool:
        """Some pieces were taken, which the other side keeps until it hears more."""
        return self._sent > 0

    def next_frame(self) -> bytes:
        """The next piece of a large message."""
        piece = bytes(self._body[self._sent : self._sent + FRAGMENT_BYTES])
        self._sent += len(piece)
        if self._sent < len(self._body):
            return encode_message(Part(self._id, piece))
        self.is_handed_over = True
        if isinstance(self._last, str):
            return encode_call(self._id, self._last, piece)
        return encode_answer(self._id, self._last, piece)


class ExtensionQueue:
    """`size_bytes`: of what is queued."""

    __slots__ = ("_large", "_large_bytes", "_small", "_small_bytes")

    def __init__(self) -> None:
        self._small: deque[Queued] = deque()
        self._large: deque[Queued] = deque()
        self._small_bytes = self._large_bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._small_bytes + self._large_bytes

    def push_call(self, call_id: int, method: str, body: bytes) -> Queued | None:
        """Queue a CALL; None when its queue is full, which takes one message of any size when it is empty."""
        frame = encode_call(call_id, method, body) if len(body) <= FRAGMENT_BYTES else None
        return self._push(Queued(frame, call_id, method, body))

    def push_answer(self, call_id: int, kind: int, body: bytes) -> Queued | None:
        """The same of an ANSWER."""
        frame = encode_answer(call_id, kind, body) if len(body) <= FRAGMENT_BYTES else None
        return self._push(Queued(frame, call_id, kind, body))

    def push_control(self, frame: bytes) -> None:
        """A small frame, which is never refused: the caller bounds how many."""
        self._small.append(Queued(frame, 0, 0, b""))
        self._small_bytes += len(frame)

    def _push(self, queued: Queued) -> Queued | None:
        size = queued.size_bytes
        if queued.frame is not None:
            if self._small_bytes and self._small_bytes + size > SEND_QUEUE_BYTES_MAX:
                return None
            self._small.append(queued)
            self._small_bytes += size
        else:
            if self._large_bytes and self._large_bytes + size > SEND_QUEUE_BYTES_MAX:
                return None
            self._large.append(queued)
            self._large_bytes += size
        return queued

    def remove(self, queued: Queued) -> bool:
        """Take a message back: whether it will never be whole at the other side. Pieces that have left stay there."""
        if queued.is_handed_over or queued.is_removed:
            return not queued.is_handed_over
        queued.is_removed = True
        if queued.frame is not None:
            self._small.remove(queued)
            self._small_bytes -= queued.size_bytes
        else:
            self._large.remove(queued)
            self._large_bytes -= queued.size_bytes
        return True

    def clear(self) -> None:
        self._small.clear()
        self._large.clear()
        self._small_bytes = self._large_bytes = 0

    def take(self, budget_bytes: int) -> list[bytes]:
        """Frames to send next: of about `budget_bytes`, at least one if there is any."""
        frames: list[bytes] = []
        small, large = self._small, self._large
        while small and budget_bytes > 0:
            queued = small.popleft()
            assert queued.frame is not None
            queued.is_handed_over = True
            self._small_bytes -= len(queued.frame)
            budget_bytes -= len(queued.frame)
            frames.append(queued.frame)
        while large and budget_bytes > 0:
            queued = large.popleft()
            frame = queued.next_frame()
            if queued.is_handed_over:
                self._large_bytes -= queued.size_bytes
            else:
                large.append(queued)
            budget_bytes -= len(frame)
            frames.append(frame)
        return frames


class Assembly:
    """Pieces of messages whose end has not come. `held_bytes` never exceeds `bytes_max`."""

    __slots__ = ("_bytes_max", "_count_max", "_parts", "held_bytes")

    def __init__(self, bytes_max: int, count_max: int) -> None:
        self._bytes_max = bytes_max
        self._count_max = count_max
        self._parts: dict[int, list[bytes]] = {}
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, part: Part) -> None:
        """Keep a piece; raises ProtocolViolation where that is too much, or it is not a whole piece."""
        if len(part.piece) != FRAGMENT_BYTES:
            raise ProtocolViolation(f"a piece of {len(part.piece)} bytes", code=CODE_PARSE)
        pieces = self._parts.get(part.id)
        if pieces is None:
            if len(self._parts) >= self._count_max:
                raise ProtocolViolation(f"more than {self._count_max} messages in pieces", code=CODE_PARSE)
            pieces = self._parts[part.id] = []
        if (
            self.held_bytes + len(part.piece) > self._bytes_max
            or (len(pieces) + 1) * FRAGMENT_BYTES > EXTENSION_MESSAGE_BYTES_MAX
        ):
            raise ProtocolViolation("messages in pieces hold too many bytes", code=CODE_PARSE)
        pieces.append(part.piece)
        self.held_bytes += len(part.piece)

    def whole(self, call_id: int, last: bytes) -> bytes:
        """The body whose last piece came; the message itself where there were no others."""
        if not self._parts:
            return last
        pieces = self._parts.pop(call_id, None)
        if pieces is None:
            return last
        self.held_bytes -= len(pieces) * FRAGMENT_BYTES
        return b"".join([*pieces, last])

    def drop(self, call_id: int) -> bool:
        """Forget the pieces of a message; whether there were any."""
        pieces = self._parts.pop(call_id, None)
        if pieces is not None:
            self.held_bytes -= len(pieces) * FRAGMENT_BYTES
        return pieces is not None
