"""A remote stream of changes: whole entries, on another node when one is lost, no more sent ahead than allowed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from dqlite_py.changes import Change, ChangeKind
from dqlite_py.client.change_streams import AsyncRemoteChangeStream, RemoteChangeStream
from dqlite_py.client.changes import PIECES_AHEAD
from dqlite_py.client.shared import shared_link
from dqlite_py.errors import ChangesCompacted, Error, MalformedMessage, NodeStopped, NoLeader
from tests.support.fakepeer import FakePeer
from tests.unit.client.cluster import nodes, wait_until

WAIT_S = 20.0


def wire(index: int, number: int, is_last: bool = True) -> list[Any]:
    return [index, "t", "INSERT", {"id": number}, None, {"id": number, "v": b"x"}, is_last]


def change(index: int, number: int, is_last: bool = True) -> Change:
    return Change(index, "t", ChangeKind.INSERT, {"id": number}, None, {"id": number, "v": b"x"}, is_last)


class Tells:
    """changes.follow of a made-up node: pieces, one after the other, then the end, or nothing more."""

    def __init__(self, *pieces: Any, end: Error | None = None) -> None:
        self.pieces = [*pieces]
        self.end = end
        self.asked: list[Any] = []
        self.told = 0
        self.is_cancelled = threading.Event()

    async def __call__(self, context: Any, body: Any) -> None:
        self.asked.append(body)
        try:
            for piece in self.pieces:
                await context.more(piece)
                self.told += 1
            if self.end is not None:
                raise self.end
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.is_cancelled.set()
            raise


def serve(peer: FakePeer, tells: Tells) -> Tells:
    peer.programs.methods.add({"changes.follow": tells}, ends_when_cancelled=True)
    return tells


def stream(*peers: FakePeer, **more: Any) -> RemoteChangeStream:
    options = {"after": None, "timeout": WAIT_S, "open_s": WAIT_S, **more}
    return RemoteChangeStream(shared_link([peer.address for peer in peers], None), "app", **options)


def test_whole_entries_and_the_position() -> None:
    with nodes({}) as peers:
        tells = serve(
            peers[0],
            Tells(
                [4, []],
                [5, [wire(5, 1)]],
                [5, [wire(7, 2, False)]],  # of an entry that goes on
                [7, [wire(7, 3)]],
                [9, []],
                [10, [wire(10, 4)]],
            ),
        )
        found = stream(peers[0])
        found.open()
        assert found.position == 4
        assert next(found) == change(5, 1)
        assert found.position == 4  # not taken yet
        assert next(found) == change(7, 2, False)
        assert found.position == 5
        assert next(found) == change(7, 3)
        assert found.position == 5
        assert next(found) == change(10, 4)
        assert found.position in (7, 9)
        assert tells.asked[0]["after"] is None
        found.close()
        found.close()
        assert tells.is_cancelled.wait(WAIT_S)
        with pytest.raises(StopIteration):
            next(found)


def test_another_node_goes_on_and_nothing_is_told_twice() -> None:
    with nodes({}, {}) as peers:
        first = serve(
            peers[0],
            Tells([4, []], [5, [wire(5, 1)]], [5, [wire(6, 2, False)]], end=NodeStopped("it stops")),
        )
        second = serve(peers[1], Tells([5, []], [5, [wire(6, 2, False)]], [6, [wire(6, 3)]]))
        found = stream(*peers)
        assert [next(found) for _ in range(3)] == [change(5, 1), change(6, 2, False), change(6, 3)]
        assert [body["after"] for body in second.asked] == [5]
        assert len(first.asked) == 1
        found.close()


def test_a_broken_connection_is_as_good_as_that() -> None:
    with nodes({}) as peers:
        tells = serve(peers[0], Tells([4, []], [5, [wire(5, 1)]]))
        found = stream(peers[0])
        assert next(found) == change(5, 1)
        tells.pieces = [[5, []], [6, [wire(6, 2)]]]
        peers[0].transport_loop.call_soon_threadsafe(peers[0].cut)
        assert next(found) == change(6, 2)
        assert [body["after"] for body in tells.asked] == [None, 5]
        found.close()


@pytest.mark.parametrize(
    "end", [ChangesCompacted("not kept", oldest=7, newest=9), MalformedMessage("no", what="x")]
)
def test_what_is_final_is_heard(end: Error) -> None:
    with nodes({}) as peers:
        serve(peers[0], Tells([4, []], [5, [wire(5, 1)]], end=end))
        found = stream(peers[0], after=4)
        assert next(found) == change(5, 1)
        with pytest.raises(type(end)) as caught:
            next(found)
        assert caught.value.details == end.details


def test_an_opening_that_fails() -> None:
    with nodes({}) as peers:
        serve(peers[0], Tells(end=ChangesCompacted("not kept", oldest=7, newest=9)))
        with pytest.raises(ChangesCompacted):
            stream(peers[0], after=2).open()
        serve(peers[0], Tells(end=NoLeader("none")))
        with pytest.raises(NoLeader, match="no node tells the changes of app"):
            stream(peers[0], open_s=0.1).open()


@pytest.mark.parametrize(
    "piece",
    [
        5,
        [],
        [5],
        [None, []],
        [5, 5],
        [5, [7]],
        [5, [wire(5, 1)[:-1]]],
        [5, [[5, "t", "MOVE", {}, None, None, True]]],
    ],
)
def test_pieces_that_make_no_sense(piece: Any) -> None:
    with nodes({}) as peers:
        serve(peers[0], Tells([4, []], piece))
        with pytest.raises(MalformedMessage):
            next(stream(peers[0]))


def test_no_more_is_sent_ahead_than_was_allowed() -> None:
    with nodes({}) as peers:
        pieces = [[n, [wire(n, n)]] for n in range(5, 105)]
        tells = serve(peers[0], Tells([4, []], *pieces))
        found = stream(peers[0])
        found.open()
        wait_until(lambda: tells.told == PIECES_AHEAD)
        for number in range(5, 105):
            assert next(found) == change(number, number)
            assert tells.told <= number - 4 + 1 + PIECES_AHEAD
        found.close()


def test_waiting_has_its_time_and_goes_on() -> None:
    with nodes({}) as peers:
        serve(peers[0], Tells([4, []]))
        found = stream(peers[0], timeout=0.05)
        for _ in range(2):
            with pytest.raises(TimeoutError, match=r"no change within 0\.05 s"):
                next(found)
        found.close()


def test_closing_wakes_who_waits() -> None:
    with nodes({}) as peers:
        serve(peers[0], Tells([4, []]))
        found = stream(peers[0], timeout=None)
        found.open()
        ended: list[Any] = []
        waiting = threading.Thread(target=lambda: ended.append([*found]))
        waiting.start()
        found.close()
        waiting.join(WAIT_S)
        assert ended == [[]]


async def test_for_an_event_loop() -> None:
    with nodes({}) as peers:
        tells = serve(peers[0], Tells([4, []], [5, [wire(5, 1)]]))
        link = shared_link([peers[0].address], None)
        async with AsyncRemoteChangeStream(link, "app", None, WAIT_S, WAIT_S) as found:
            assert await anext(found) == change(5, 1)
            waiting = asyncio.create_task(anext(found))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert found.position == 5
        assert await asyncio.to_thread(tells.is_cancelled.wait, WAIT_S)
