"""node.writes: what is tried again and what is not, and what becomes of keys; stopping answers everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from dqlite_py.client_sessions import ClientSessions
from dqlite_py.command import encode_statements, encode_unit
from dqlite_py.errors import (
    Busy,
    Error,
    NeverApplied,
    NodeStopped,
    NotLeader,
    OperationalError,
    Outcome,
    OutcomeUnknown,
    Overwritten,
)
from dqlite_py.model import NodeId, Term, WriteKey
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.forwarding import pack_outcome
from dqlite_py.node.pending_write import PendingWrite, fence, unit_result
from dqlite_py.node.proposals import PIPELINE_MAX, DatabaseProposals
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.writes import Writes
from dqlite_py.raft.rpc import RpcLost
from dqlite_py.resultcodes import NEVER_APPLIED, SESSION_EXPIRED
from dqlite_py.wire.rpc import error_body
from tests.faults.ours import CoreWorld
from tests.support.wire import until

BODY = encode_statements([("INSERT INTO t VALUES (1)", [])])
NOW_US = 1_800_000_000_000_000
DONE = (0, ((1, 1, None, None),))


class Bench:
    """The writes of a node that leads alone, or of one that follows; log, leader and time are the test's."""

    def __init__(self, *, follows: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.world = CoreWorld("ABC" if follows else "A")
        self.world.elect("A")
        core = self.world["B" if follows else "A"].core
        self.view = ClusterView(loop, core)
        if not follows:
            self.view.ready_term = Term(core.term)
        self.proposed: list[tuple[bytes, Callable[[Any, Error | None], None]]] = []
        self.asked: list[tuple[str, Any]] = []
        self.answers: list[asyncio.Future[Any]] = []
        self.heard: list[tuple[Any, Error | None]] = []
        self.sessions = ClientSessions(lambda: NOW_US)
        self.writes = Writes(
            loop=loop,
            view=self.view,
            propose=lambda payload, callback: self.proposed.append((payload, callback)),
            pump=lambda: None,
            call=self._call,
            make_proposals=self._make,
            now_us=lambda: NOW_US,
            databases=dict,
            sessions=self.sessions,
        )

    def _make(self, database: str, propose: Any) -> DatabaseProposals:
        loop = asyncio.get_running_loop()
        return DatabaseProposals(
            database,
            propose=propose,
            now_us=lambda: NOW_US,
            state_hash=lambda _: None,
            call_soon=loop.call_soon,
            call_later=loop.call_later,
            pump=lambda: None,
        )

    async def _call(self, _leader: NodeId, method: str, body: Any, _timeout_s: float) -> Any:
        self.asked.append((method, body))
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    def write(self, *, once: bool = True, timeout_s: float = 20.0) -> PendingWrite:
        write = PendingWrite("main", BODY, self._hear, Deadline(timeout_s), once=once)
        self.writes.submit(write)
        return write

    def resolve(self, key: WriteKey, timeout_s: float = 20.0) -> None:
        self.writes.submit(fence("main", key, self._hear, Deadline(timeout_s)))

    def _hear(self, outcome: Any, error: Error | None) -> None:
        self.heard.append((outcome, error))

    async def until(self, condition: Callable[[], bool]) -> None:
        await until(condition, "what the test waits for")

    def unit(self, number: int) -> Any:
        """The (only) unit of a proposed entry."""
        (unit,) = msgpack.unpackb(self.proposed[number][0])[6]
        return unit

    async def asked_units(self, count: int) -> list[bytes]:
        await self.until(lambda: len(self.asked) >= count)
        units: list[bytes] = self.asked[count - 1][1]["units"]
        return units


async def test_writes_that_still_queue_hear_of_the_stop() -> None:
    """They are routed again when leadership goes; being cancelled at once must not swallow their answer."""
    bench = Bench()
    for _ in range(PIPELINE_MAX):
        bench.write(once=False)
        await asyncio.sleep(0)
    assert len(bench.proposed) == PIPELINE_MAX
    bench.write(once=False)
    bench.view.block("stopping", lambda: NodeStopped("the node is stopping"))
    await bench.writes.stop()
    ((_, error),) = bench.heard
    assert error is not None
    assert error.outcome is Outcome.NOT_APPLIED


async def test_a_write_with_a_key_is_repeated_with_the_same_bytes_until_the_log_answers() -> None:
    bench = Bench(follows=True)
    bench.write()
    first = await bench.asked_units(1)
    bench.answers[0].set_exception(RpcLost("the connection broke"))
    assert await bench.asked_units(2) == first
    bench.answers[1].set_result([error_body(OutcomeUnknown("the leader stopped"))])
    assert await bench.asked_units(3) == first
    bench.answers[2].set_result([pack_outcome((9, DONE))])
    await bench.until(lambda: bool(bench.heard))
    assert bench.heard == [((9, DONE), None)]
    await bench.writes.stop()


async def test_a_write_without_a_key_is_never_repeated() -> None:
    bench = Bench(follows=True)
    bench.write(once=False)
    await bench.asked_units(1)
    bench.answers[0].set_exception(RpcLost("the connection broke"))
    await bench.until(lambda: bool(bench.heard))
    ((_, error),) = bench.heard
    assert isinstance(error, OutcomeUnknown)
    assert error.details == {}
    assert len(bench.asked) == 1
    await bench.writes.stop()


async def test_what_was_overwritten_is_proposed_again() -> None:
    bench = Bench()
    bench.write()
    await bench.until(lambda: len(bench.proposed) == 1)
    bench.proposed[0][1](None, Overwritten("another entry is there"))
    await bench.until(lambda: len(bench.proposed) == 2)
    assert bench.unit(1) == bench.unit(0)
    bench.proposed[1][1]((9, [DONE]), None)
    assert bench.heard == [((9, DONE), None)]


async def test_after_an_uncertain_attempt_only_the_log_says_no() -> None:
    """Busy, a stop or no leader say something of the last attempt only."""
    bench = Bench()
    write = bench.write()
    await bench.until(lambda: len(bench.proposed) == 1)
    bench.proposed[0][1](None, OutcomeUnknown("?"))
    await bench.until(lambda: len(bench.proposed) == 2)
    bench.proposed[1][1](None, Busy("too much"))
    await bench.until(lambda: len(bench.proposed) == 3)
    bench.view.block("stopping", lambda: NodeStopped("the node is stopping"))
    bench.proposed[2][1](None, NotLeader("gone"))
    ((_, error),) = bench.heard
    assert isinstance(error, OutcomeUnknown)
    assert write.key is not None
    assert error.details == {"session": write.key.session, "sequence": write.key.sequence}


async def test_the_statement_s_own_error_is_certain_after_whatever_came_before() -> None:
    bench = Bench()
    bench.write()
    await bench.until(lambda: len(bench.proposed) == 1)
    bench.proposed[0][1](None, OutcomeUnknown("?"))
    await bench.until(lambda: len(bench.proposed) == 2)
    failed = (2067, "UNIQUE constraint failed: t.a", 0)
    bench.proposed[1][1]((9, [failed]), None)
    assert bench.heard == [((9, failed), None)]


async def test_when_the_time_is_over_the_key_is_told() -> None:
    bench = Bench(follows=True)
    write = bench.write(timeout_s=0.05)
    await bench.asked_units(1)
    await bench.until(lambda: write.deadline.passed)
    bench.answers[0].set_exception(RpcLost("the connection broke"))
    await bench.until(lambda: bool(bench.heard))
    ((_, error),) = bench.heard
    assert isinstance(error, OutcomeUnknown)
    assert write.key is not None
    assert error.details == {"session": write.key.session, "sequence": write.key.sequence}
    assert len(bench.asked) == 1
    assert bench.sessions.take("main").session != write.key.session  # it can still be asked for
    await bench.writes.stop()


async def test_a_session_is_used_again_when_the_outcome_is_known() -> None:
    bench = Bench()
    first = bench.write()
    second = bench.write()
    await bench.until(lambda: len(bench.proposed) == 1)
    assert first.key is not None
    assert second.key is not None
    assert first.key.session != second.key.session
    second.give_up()
    bench.proposed[0][1]((9, [DONE, DONE]), None)
    third = bench.write()
    fourth = bench.write()
    assert third.key is not None
    assert fourth.key is not None
    assert third.key.session == first.key.session
    assert third.key.sequence > first.key.sequence
    assert fourth.key.session not in (first.key.session, second.key.session)


async def test_a_new_key_that_is_refused_as_expired_is_replaced_once() -> None:
    bench = Bench()
    bench.write()
    await bench.until(lambda: len(bench.proposed) == 1)
    newer = NOW_US + 5_000_000
    refusal = (SESSION_EXPIRED, f"the session has expired (log time {newer} us)", 0)
    bench.proposed[0][1]((9, [refusal]), None)
    await bench.until(lambda: len(bench.proposed) == 2)
    (old_session, old, _), (session, sequence, _) = bench.unit(0), bench.unit(1)
    assert session != old_session
    assert old <= NOW_US + 1
    assert sequence > newer
    bench.proposed[1][1]((10, [refusal]), None)
    ((_, error),) = bench.heard
    assert isinstance(error, NeverApplied)
    assert error.outcome is Outcome.NOT_APPLIED


async def test_a_key_ahead_of_log_time_is_replaced_by_one_that_is_not() -> None:
    """A leader that restarted with a clock behind makes log time go back."""
    bench = Bench()
    bench.write()
    await bench.until(lambda: len(bench.proposed) == 1)
    older = NOW_US - 60_000_000
    bench.proposed[0][1]((9, [(SESSION_EXPIRED, f"expired (log time {older} us)", 0)]), None)
    await bench.until(lambda: len(bench.proposed) == 2)
    assert older < bench.unit(1)[1] < older + 1_000_000


async def test_a_key_that_expires_between_two_attempts_is_not_replaced() -> None:
    bench = Bench()
    bench.write()
    await bench.until(lambda: len(bench.proposed) == 1)
    bench.proposed[0][1](None, OutcomeUnknown("?"))
    await bench.until(lambda: len(bench.proposed) == 2)
    refusal = (SESSION_EXPIRED, "the session has expired", 0)
    bench.proposed[1][1]((9, [refusal]), None)
    assert bench.heard == [((9, refusal), None)]


async def test_what_is_withdrawn_before_it_is_proposed_never_happens() -> None:
    bench = Bench()
    for _ in range(PIPELINE_MAX):
        bench.write(once=False)
        await asyncio.sleep(0)
    waiting = bench.write()
    bench.writes.withdraw(waiting)
    ((_, error),) = bench.heard
    assert error is not None
    assert error.outcome is Outcome.NOT_APPLIED
    for _, callback in list(bench.proposed):
        callback((9, [DONE]), None)
    await asyncio.sleep(0)
    assert len(bench.proposed) == PIPELINE_MAX


async def test_what_is_withdrawn_too_late_goes_on_and_keeps_its_session() -> None:
    bench = Bench()
    write = bench.write()
    await bench.until(lambda: len(bench.proposed) == 1)
    bench.writes.withdraw(write)
    assert bench.heard == []
    bench.proposed[0][1]((9, [DONE]), None)
    assert bench.heard == [((9, DONE), None)]
    assert write.key is not None
    assert bench.sessions.take("main").session != write.key.session


async def test_resolve_asks_until_the_log_answers() -> None:
    bench = Bench()
    key = WriteKey(b"s" * 16, 77)
    bench.resolve(key)
    await bench.until(lambda: len(bench.proposed) == 1)
    assert bench.unit(0) == [key.session, 77, []]
    bench.proposed[0][1](None, OutcomeUnknown("?"))
    await bench.until(lambda: len(bench.proposed) == 2)
    void = (NEVER_APPLIED, "void", 0)
    bench.proposed[1][1]((9, [void]), None)
    assert bench.heard == [((9, void), None)]


@pytest.mark.parametrize("error", [Busy("full"), NodeStopped("stopping"), OperationalError("no database")])
async def test_a_resolve_that_finds_nothing_out_says_nothing_of_the_write(error: Error) -> None:
    bench = Bench()
    key = WriteKey(b"s" * 16, 77)
    bench.resolve(key, timeout_s=0.0)
    await bench.until(lambda: len(bench.proposed) == 1)
    bench.proposed[0][1](None, error)
    ((_, heard),) = bench.heard
    assert isinstance(heard, OutcomeUnknown)
    assert heard.details == {"session": key.session, "sequence": 77}


async def test_a_stop_ends_what_is_about_to_be_repeated() -> None:
    bench = Bench()
    bench.write()
    await bench.until(lambda: len(bench.proposed) == 1)
    bench.proposed[0][1](None, OutcomeUnknown("?"))
    await bench.writes.stop()
    ((_, error),) = bench.heard
    assert isinstance(error, OutcomeUnknown)


def test_results_too_large_to_be_kept_are_sums() -> None:
    found = unit_result((9, (0, None, 70_000, 5)))
    assert found == (9, None, 70_000)


def test_a_unit_of_the_old_form_has_no_key() -> None:
    assert msgpack.unpackb(encode_unit([("SELECT 1", [])]))[:2] == [None, 0]


async def test_the_leader_gives_a_unit_up_when_its_caller_does() -> None:
    """Also when the request found no leader at first."""
    bench = Bench(follows=True)
    bench.write(timeout_s=20.0)
    await bench.asked_units(1)
    first = bench.asked[0][1]["wait_ms"][0]
    bench.answers[0].set_exception(NotLeader("not now"))
    await bench.asked_units(2)
    assert bench.asked[1][1]["wait_ms"][0] < first


async def test_a_leader_that_refuses_again_and_again_is_asked_in_intervals() -> None:
    """Found by simulation: one that was handing over was asked without a pause, and so came to nothing else."""
    bench = Bench()
    bench.write()
    for count in (1, 2):
        await bench.until(lambda count=count: len(bench.proposed) == count)  # type: ignore[misc]
        bench.proposed[-1][1](None, NotLeader("handing over"))
    await bench.until(lambda: len(bench.writes._pausing) == 1)
    await bench.until(lambda: len(bench.proposed) == 3)
    bench.proposed[-1][1]((9, [DONE]), None)
    assert bench.heard == [((9, DONE), None)]
