"""The send queue: order, turns, bounds, taking back."""

from __future__ import annotations

from dqlite_py.limits import FRAME_FRAGMENT_BYTES, PARTIAL_MESSAGES_MAX, SEND_QUEUE_BYTES_MAX
from dqlite_py.wire.frames import FrameDecoder, FrameType, OutgoingMessage
from dqlite_py.wire.sendqueue import Lane, SendQueue

ONE_FRAME = 1000
LARGE = 4 * FRAME_FRAGMENT_BYTES


def message(mark: bytes, size: int = ONE_FRAME, kind: FrameType = FrameType.RAFT) -> OutgoingMessage:
    return OutgoingMessage(kind, mark + bytes(size - len(mark)))


def received(queue: SendQueue, budget: int, decoder: FrameDecoder | None = None) -> list[bytes]:
    if decoder is None:
        decoder = FrameDecoder()
        decoder.established()
    marks = []
    while pieces := queue.take(budget):
        decoder.feed(b"".join(pieces))
        while (found := decoder.next_message()) is not None:
            marks.append(bytes(found.body[:2]))
    return marks


def test_control_goes_first_and_lanes_keep_their_order() -> None:
    queue = SendQueue()
    for number in range(3):
        queue.push(Lane.APPEND, message(b"a%d" % number))
        queue.push(Lane.CONTROL, message(b"c%d" % number))
    assert received(queue, 10**9) == [b"c0", b"c1", b"c2", b"a0", b"a1", b"a2"]
    assert queue.size_bytes == 0


def test_control_overtakes_the_fragments_of_a_large_message() -> None:
    queue = SendQueue()
    queue.push(Lane.APPEND, message(b"aa", LARGE))
    decoder = FrameDecoder()
    decoder.established()
    decoder.feed(b"".join(queue.take(1)))
    assert decoder.next_message() is None
    queue.push(Lane.CONTROL, message(b"cc"))
    assert received(queue, FRAME_FRAGMENT_BYTES, decoder=decoder) == [b"cc", b"aa"]


def test_large_requests_delay_neither_entries_nor_small_requests() -> None:
    queue = SendQueue()
    queue.push(Lane.RPC_LARGE, message(b"LL", 40 * FRAME_FRAGMENT_BYTES, FrameType.REQUEST))
    queue.push(Lane.APPEND, message(b"AA", LARGE))
    for number in range(3):
        queue.push(Lane.RPC, message(b"r%d" % number, kind=FrameType.REQUEST))
    assert received(queue, FRAME_FRAGMENT_BYTES) == [b"r0", b"r1", b"r2", b"AA", b"LL"]


def test_messages_under_way_stay_within_the_receivers_bound() -> None:
    queue = SendQueue()
    for lane in (Lane.APPEND, Lane.RPC, Lane.RPC_LARGE):
        for _ in range(3):
            queue.push(lane, message(b"xx", LARGE, FrameType.REQUEST))
    assert len(received(queue, FRAME_FRAGMENT_BYTES)) == 9
    assert PARTIAL_MESSAGES_MAX >= 3


def test_a_full_lane_takes_nothing_but_an_empty_one_takes_any_size() -> None:
    queue = SendQueue()
    assert queue.push(Lane.APPEND, message(b"aa", SEND_QUEUE_BYTES_MAX + 5)) is not None
    assert queue.push(Lane.APPEND, message(b"bb")) is None
    assert queue.push(Lane.RPC, message(b"rr")) is not None
    assert queue.push(Lane.CONTROL, message(b"cc")) is not None
    assert set(received(queue, 10**9)) == {b"aa", b"rr", b"cc"}
    assert queue.push(Lane.APPEND, message(b"bb")) is not None


def test_the_bound_counts_bytes_not_messages() -> None:
    queue = SendQueue()
    pushed = 0
    while queue.push(Lane.RPC, message(b"rr", 100_000)) is not None:
        pushed += 1
    assert SEND_QUEUE_BYTES_MAX - 2 * 100_000 < pushed * 100_000 < SEND_QUEUE_BYTES_MAX


def test_taking_back() -> None:
    queue = SendQueue()
    small, large = message(b"ss"), message(b"ll", LARGE)
    queued_small, queued_large = queue.push(Lane.RPC, small), queue.push(Lane.RPC_LARGE, large)
    assert queued_small is not None
    assert queued_large is not None
    assert queue.remove(queued_small)
    assert queue.remove(queued_small)
    queue.take(1)
    assert queued_large.begun
    assert not queued_large.handed_over
    assert not queue.remove(queued_large)
    while queue.take(10**6):
        pass
    assert queued_large.handed_over
    assert not queued_small.handed_over
    assert queue.size_bytes == 0


def test_taking_back_what_was_dropped_with_the_connection() -> None:
    queue = SendQueue()
    waiting, begun = queue.push(Lane.RPC, message(b"ww")), queue.push(Lane.RPC_LARGE, message(b"bb", LARGE))
    assert waiting is not None
    assert begun is not None
    queue.remove(waiting)
    queue.take(1)
    other = queue.push(Lane.RPC, message(b"oo"))
    assert other is not None
    queue.clear()
    assert queue.remove(other)
    assert not queue.remove(begun)
    assert queue.size_bytes == 0
