"""node.forwarding: a follower's writes travel together, and every one is answered for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dqlite_py.errors import Busy, Error, IntegrityError, NodeStopped, NoLeader, Outcome, OutcomeUnknown
from dqlite_py.limits import PENDING_BYTES_MAX
from dqlite_py.model import NodeId, WriteKey
from dqlite_py.node.forwarding import REQUESTS_MAX, UNITS_MAX, Forwarder, pack_outcome
from dqlite_py.node.proposals import Queued
from dqlite_py.node.tickets import Deadline
from dqlite_py.units import stamp_unit
from dqlite_py.wire.rpc import error_body


class Leader:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.batches: list[Sequence[bytes]] = []
        self.answers: list[asyncio.Future[Any]] = []
        self.heard: list[tuple[int, Any, Error | None]] = []
        self.leads = NodeId(1)
        self.sweeps: list[Callable[..., None]] = []
        loop = asyncio.get_running_loop()
        self.forwarder = Forwarder(
            "app",
            send=self.send,
            spawn=loop.create_task,
            soon=loop.call_soon,
            leader=lambda: self.leads,
            later=self.later,
        )

    def later(self, _delay_s: float, call: Callable[..., None]) -> None:
        self.sweeps.append(call)

    async def send(self, database: str, batch: Sequence[Queued], _deadline: Deadline) -> Sequence[Any]:
        assert database == "app"
        self.batches.append([queued.unit for queued in batch])
        self.answers.append(asyncio.get_running_loop().create_future())
        answer: Sequence[Any] = await self.answers[-1]
        return answer

    def submit(
        self, number: int, size: int = 1, *, key: WriteKey | None = None, timeout_s: float = 10.0
    ) -> Queued:
        def callback(result: Any, error: Error | None) -> None:
            self.heard.append((number, result, error))

        unit = bytes([number % 256]) * size if key is None else stamp_unit(b"\x90", key)
        return self.forwarder.submit(unit, callback, Deadline(timeout_s))

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_what_comes_while_requests_are_under_way_travels_together() -> None:
    leader = Leader()
    for number in range(REQUESTS_MAX):
        leader.submit(number)
        await leader.settle()
    for number in range(REQUESTS_MAX, REQUESTS_MAX + 5):
        leader.submit(number)
    await leader.settle()
    assert [len(batch) for batch in leader.batches] == [1] * REQUESTS_MAX
    leader.answers[0].set_result([pack_outcome((7, (0, ())))])
    await leader.settle()
    assert [len(batch) for batch in leader.batches] == [1] * REQUESTS_MAX + [5]
    assert leader.heard == [(0, (7, (0, ())), None)]


async def test_each_unit_has_its_own_answer() -> None:
    leader = Leader()
    for number in range(5):
        leader.submit(number)
    await leader.settle()
    refused = error_body(IntegrityError("UNIQUE constraint failed", code=2067))
    leader.answers[0].set_result(
        [pack_outcome((7, (0, ()))), refused, bytes(8) + b"\xc1", ["no error"], bytes(8)]
    )
    await leader.settle()
    (_, first, none), (_, _, integrity), (_, _, unreadable), (_, _, no_error), (_, _, empty) = leader.heard
    assert (first, none) == ((7, (0, ())), None)
    assert isinstance(integrity, IntegrityError)
    for error in (unreadable, no_error, empty):
        assert isinstance(error, OutcomeUnknown)


@pytest.mark.parametrize("answer", [None, [], [b""] * 3, "text", {}])
async def test_an_answer_of_the_wrong_shape_promises_nothing(answer: Any) -> None:
    leader = Leader()
    leader.submit(1)
    leader.submit(2)
    await leader.settle()
    leader.answers[0].set_result(answer)
    await leader.settle()
    assert [error and error.outcome for _, _, error in leader.heard] == [Outcome.UNKNOWN] * 2


async def test_an_error_of_the_request_is_the_error_of_each() -> None:
    leader = Leader()
    leader.submit(1)
    leader.submit(2)
    await leader.settle()
    lost = OutcomeUnknown("the connection broke")
    leader.answers[0].set_exception(lost)
    await leader.settle()
    assert [error for _, _, error in leader.heard] == [lost, lost]


async def test_large_batches_are_split() -> None:
    leader = Leader()
    for number in range(UNITS_MAX + 1):
        leader.submit(number)
    leader.submit(1, size=3 << 20)
    await leader.settle()
    assert [len(batch) for batch in leader.batches] == [UNITS_MAX, 1]
    leader.answers[1].set_result([pack_outcome((7, (0, ())))])
    await leader.settle()
    assert [len(batch) for batch in leader.batches] == [UNITS_MAX, 1, 1]


async def test_what_still_waits_when_the_node_stops_did_not_happen() -> None:
    leader = Leader()
    for number in range(REQUESTS_MAX + 1):
        leader.submit(number)
        await leader.settle()
    leader.forwarder.fail_queued(NodeStopped("the node is stopping"))
    ((number, _, error),) = leader.heard
    assert number == REQUESTS_MAX
    assert error is not None
    assert error.outcome is Outcome.NOT_APPLIED


async def test_too_many_bytes_are_refused_before_they_are_kept() -> None:
    leader = Leader()
    size = PENDING_BYTES_MAX // 4
    for number in range(4):
        leader.submit(number, size)
    with pytest.raises(Busy):
        leader.submit(4, size)


async def test_requests_that_hang_at_an_old_leader_hold_up_nothing() -> None:
    leader = Leader()
    for number in range(REQUESTS_MAX):
        leader.submit(number)
        await leader.settle()
    leader.leads = NodeId(2)
    leader.submit(REQUESTS_MAX)
    await leader.settle()
    assert len(leader.batches) == REQUESTS_MAX + 1
    leader.answers[0].set_result([pack_outcome((7, (0, ())))])  # it no longer counts against the bound
    leader.submit(REQUESTS_MAX + 1)
    await leader.settle()
    leader.submit(REQUESTS_MAX + 2)
    await leader.settle()
    assert len(leader.batches) == REQUESTS_MAX + 2


async def test_units_with_keys_leave_a_request_that_hangs_at_an_old_leader() -> None:
    leader = Leader()
    leader.leads = NodeId(1)
    leader.submit(0, key=WriteKey(bytes(16), 1))
    leader.submit(1)
    await leader.settle()
    assert len(leader.batches) == 2  # they do not travel together
    leader.leads = NodeId(2)
    leader.forwarder.look_at_leader()
    await leader.settle()
    ((number, _, error),) = leader.heard
    assert number == 0
    assert isinstance(error, OutcomeUnknown)  # whoever asked repeats it
    leader.answers[1].set_result([pack_outcome((7, (0, ())))])
    await leader.settle()
    assert leader.heard[1:] == [(1, (7, (0, ())), None)]


async def test_a_unit_that_is_withdrawn_is_not_sent() -> None:
    leader = Leader()
    for number in range(REQUESTS_MAX):
        leader.submit(number)
        await leader.settle()
    first, second = leader.submit(8), leader.submit(9)
    assert first.withdraw()
    assert not first.withdraw()
    leader.answers[0].set_result([pack_outcome((7, (0, ())))])
    await leader.settle()
    assert leader.batches[-1] == [bytes([9])]
    assert not second.withdraw()


async def test_a_unit_that_was_not_sent_in_time_certainly_did_not_happen() -> None:
    leader = Leader()
    for number in range(REQUESTS_MAX):
        leader.submit(number)
        await leader.settle()
    leader.submit(7, timeout_s=0.0)
    leader.submit(8)
    assert len(leader.sweeps) == 1  # one timer for all
    leader.sweeps.pop()()
    ((number, _, error),) = leader.heard
    assert number == 7
    assert isinstance(error, NoLeader)
    assert error.outcome is Outcome.NOT_APPLIED
    assert len(leader.sweeps) == 1  # others wait
    leader.answers[0].set_result([pack_outcome((7, (0, ())))])
    await leader.settle()
    assert leader.batches[-1] == [bytes([8])]


async def test_a_short_time_does_not_share_the_request_of_a_long_one() -> None:
    """The answer comes when the last unit's outcome is known: too late for the first one's caller."""
    leader = Leader()
    for number, timeout_s in enumerate((10.0, 0.5, 10.0, 0.6, 10.0)):
        leader.submit(number, timeout_s=timeout_s)
    await leader.settle()
    assert leader.batches == [[bytes([n]) for n in (0, 2, 4)], [bytes([n]) for n in (1, 3)]]
    for answer, count in zip(leader.answers, (3, 2), strict=True):
        answer.set_result([pack_outcome((9, (0, ())))] * count)
    await leader.settle()
    assert sorted(number for number, _, _ in leader.heard) == list(range(5))
