"""Requests: answers, errors, and what a failed one says about whether it was delivered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from dqlite_py.errors import (
    Busy,
    InterfaceError,
    MalformedMessage,
    NotLeader,
    NotSupportedError,
    OutcomeUnknown,
    RequestTooLarge,
    WrongCluster,
)
from dqlite_py.limits import FRAME_BYTES_MAX, MIB, RPC_RUNNING_MAX, RPC_VALUES_MAX, STRANGER_BYTES_MAX
from dqlite_py.model import Address, NodeId
from dqlite_py.raft.connection import TransportTiming
from dqlite_py.raft.rpc import RpcContext, RpcLost, RpcNotSent
from dqlite_py.wire.handshake import NO_CLUSTER
from tests.support.wire import IMPATIENT, WAIT_S, Relay, Station, stations, until

SLOW = TransportTiming(idle_ms=60_000, handshake_ms=60_000)


class Methods:
    """A station's handlers, and what was asked of them."""

    def __init__(self, station: Station) -> None:
        self.asked: list[Any] = []
        self.contexts: list[tuple[Any, ...]] = []  # without the connection
        self.gate = asyncio.Event()
        register = station.transport.register
        register("echo", self.echo)
        register("held", self.held)
        register("refuse", self.refuse)
        register("crash", self.crash)
        register("size", self.size)
        register("give", self.give)
        register("odd", self.odd)
        register("hello", self.echo, open_to_joiners=True)

    async def echo(self, context: RpcContext, body: Any) -> Any:
        self.contexts.append(context[:3])
        self.asked.append(body)
        return body

    async def held(self, context: RpcContext, body: Any) -> Any:
        self.asked.append(body)
        await self.gate.wait()
        return body

    async def refuse(self, context: RpcContext, body: Any) -> Any:
        raise NotLeader("not here", leader_id=7, leader_address="a:1")

    async def crash(self, context: RpcContext, body: Any) -> Any:
        raise KeyError("secret of the handler")

    async def size(self, context: RpcContext, body: bytes) -> Any:
        self.asked.append(len(body))
        return len(body)

    async def give(self, context: RpcContext, body: int) -> Any:
        return bytes(body)

    async def odd(self, context: RpcContext, body: Any) -> Any:
        return object()


async def test_answers_come_to_whom_they_belong() -> None:
    a, b = Station(1), Station(2)
    async with stations(a, b):
        methods = Methods(b)
        await a.reach(b)
        values = [None, True, 1.5, "text", b"bytes", [1, [2]], {"k": {"n": -1}}, 2**64 - 1]
        assert await asyncio.gather(*(a.transport.call(b.id, "echo", v, WAIT_S) for v in values)) == values
        assert methods.contexts[0] == (a.id, True, a.address)


async def test_by_address_as_by_id() -> None:
    a, b = Station(1, timing=IMPATIENT), Station(2, timing=IMPATIENT)
    async with stations(a, b):
        methods = Methods(b)
        assert await a.transport.call(b.address, "echo", 5, WAIT_S) == 5
        assert methods.contexts == [(a.id, True, a.address)]
        count = b.transport._listener.count
        await a.transport.call(b.address, "echo", 6, WAIT_S)
        assert b.transport._listener.count == count
        # Not used, not kept.
        await until(lambda: b.transport._listener.count == 0)
        assert await a.transport.call(b.address, "echo", 7, WAIT_S) == 7


@pytest.mark.parametrize("size", [0, 262_140, 262_144, 300_000, 60 * MIB])
async def test_bodies_of_any_size_both_ways(size: int) -> None:
    a, b = Station(1, timing=SLOW), Station(2, timing=SLOW)
    async with stations(a, b):
        Methods(b)
        await a.reach(b)
        assert await a.transport.call(b.id, "size", bytes(size), WAIT_S) == size
        assert await a.transport.call(b.id, "give", size, WAIT_S) == bytes(size)


async def test_errors_arrive_as_they_were_raised() -> None:
    a, b = Station(1), Station(2)
    async with stations(a, b):
        Methods(b)
        await a.reach(b)
        with pytest.raises(NotLeader, match="not here") as caught:
            await a.transport.call(b.id, "refuse", None, WAIT_S)
        assert caught.value.details == {"leader_id": 7, "leader_address": "a:1"}
        with pytest.raises(NotSupportedError, match="no method 'nothing'"):
            await a.transport.call(b.id, "nothing", None, WAIT_S)


async def test_a_handlers_crash_is_logged_there_and_not_told_here(caplog: pytest.LogCaptureFixture) -> None:
    a, b = Station(1), Station(2)
    async with stations(a, b):
        Methods(b)
        await a.reach(b)
        with pytest.raises(OutcomeUnknown) as caught:
            await a.transport.call(b.id, "crash", None, WAIT_S)
        assert "secret" not in caught.value.message
        assert "secret of the handler" in caplog.text
        with pytest.raises(OutcomeUnknown, match="cannot be encoded"):  # the handler has done its work
            await a.transport.call(b.id, "odd", None, WAIT_S)
        assert a.transport.is_connected(b.id)


async def test_bodies_that_cannot_be_sent() -> None:
    a, b = Station(1, timing=SLOW), Station(2, timing=SLOW)
    async with stations(a, b):
        methods = Methods(b)
        await a.reach(b)
        with pytest.raises(InterfaceError):
            await a.transport.call(b.id, "echo", object(), WAIT_S)
        with pytest.raises(RequestTooLarge):
            await a.transport.call(b.id, "echo", bytes(FRAME_BYTES_MAX), WAIT_S)
        with pytest.raises(OutcomeUnknown, match="answer cannot be sent"):
            await a.transport.call(b.id, "give", FRAME_BYTES_MAX, WAIT_S)
        with pytest.raises(MalformedMessage):
            await a.transport.call(b.id, "echo", [0] * (RPC_VALUES_MAX + 1), WAIT_S)
        with pytest.raises(MalformedMessage):
            await a.transport.call(b.id, "echo", {1: 2}, WAIT_S)
        assert methods.asked == []
        assert a.events == [("connected", b.id)]


class TestNotDelivered:
    """RpcNotSent: the other side certainly does not have the request."""

    @pytest.mark.rf("RF-13")
    async def test_nobody_there(self) -> None:
        a = Station(1)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            address = Address(f"127.0.0.1:{nobody.getsockname()[1]}")
            async with stations(a):
                with pytest.raises(RpcNotSent):
                    await a.transport.call(address, "echo", 1, WAIT_S)
                with pytest.raises(RpcNotSent, match="not a known peer"):
                    await a.transport.call(NodeId(2), "echo", 1, WAIT_S)
                a.transport.set_peers({NodeId(2): address})
                with pytest.raises(RpcNotSent):
                    await a.transport.call(NodeId(2), "echo", 1, WAIT_S)
                with pytest.raises(RpcNotSent, match="not an address"):
                    await a.transport.call(Address("nonsense"), "echo", 1, WAIT_S)

    async def test_a_call_waits_for_the_connection_that_is_being_made(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b):
            Methods(b)
            a.transport.set_peers({b.id: b.address})
            assert await a.transport.call(b.id, "echo", 1, WAIT_S) == 1

    async def test_no_connection_within_the_time(self) -> None:
        silent = await asyncio.start_server(self._say_nothing, "127.0.0.1", 0)
        a = Station(1, timing=SLOW)
        async with silent, stations(a):
            address = Address(f"127.0.0.1:{silent.sockets[0].getsockname()[1]}")
            with pytest.raises(RpcNotSent, match="in time"):
                await a.transport.call(address, "echo", 1, 0.05)

    @staticmethod
    async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    @pytest.mark.rf("RF-13")
    async def test_a_request_that_was_only_partly_sent_is_not_delivered(self) -> None:
        a, b = Station(1, timing=SLOW), Station(2, timing=SLOW)
        async with stations(a, b):
            methods = Methods(b)
            async with Relay(b.address) as relay:
                await a.reach(b, relay.address)
                relay.hold()
                call = asyncio.ensure_future(a.transport.call(b.id, "size", bytes(50 * MIB), WAIT_S))
                await asyncio.sleep(0.1)
                relay.cut()
                with pytest.raises(RpcNotSent):
                    await call
            assert methods.asked == []

    async def test_a_request_that_timed_out_in_the_queue_is_never_sent(self) -> None:
        a, b = Station(1, timing=SLOW), Station(2, timing=SLOW)
        async with stations(a, b):
            methods = Methods(b)
            async with Relay(b.address) as relay:
                await a.reach(b, relay.address)
                relay.hold()
                first = asyncio.ensure_future(a.transport.call(b.id, "size", bytes(40 * MIB), WAIT_S))
                await asyncio.sleep(0.1)
                with pytest.raises(RpcNotSent, match="queue is full"):
                    await a.transport.call(b.id, "size", bytes(3 * MIB), 0.05)
                cancelled = asyncio.ensure_future(a.transport.call(b.id, "echo", 2, WAIT_S))
                with pytest.raises((RpcNotSent, RpcLost)) as caught:
                    await a.transport.call(b.id, "echo", 1, 0.05)
                cancelled.cancel()
                relay.flow()
                assert await first == 40 * MIB
                assert await a.transport.call(b.id, "echo", 3, WAIT_S) == 3
                if caught.type is RpcNotSent:
                    assert 1 not in methods.asked
                with contextlib.suppress(asyncio.CancelledError):
                    await cancelled


class TestMaybeDelivered:
    """RpcLost: it may have been executed."""

    @pytest.mark.rf("RF-13")
    async def test_no_answer_in_time_and_a_late_answer_meets_nobody(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b):
            methods = Methods(b)
            await a.reach(b)
            with pytest.raises(RpcLost, match="no answer in time"):
                await a.transport.call(b.id, "held", "first", 0.05)
            assert methods.asked == ["first"]
            second = asyncio.ensure_future(a.transport.call(b.id, "held", "second", WAIT_S))
            await until(lambda: methods.asked == ["first", "second"])
            methods.gate.set()
            assert await second == "second"

    async def test_each_call_has_its_own_deadline(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b):
            methods = Methods(b)
            await a.reach(b)
            calls = [
                asyncio.ensure_future(a.transport.call(b.id, "held", wait_s, wait_s))
                for wait_s in (WAIT_S, 0.06, 0.02, 0.04)
            ]
            lost = await asyncio.gather(*calls[1:], return_exceptions=True)
            assert [type(error) for error in lost] == [RpcLost] * 3
            methods.gate.set()
            assert await calls[0] == WAIT_S

    @pytest.mark.rf("RF-13")
    async def test_the_connection_breaks_after_sending(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b):
            methods = Methods(b)
            async with Relay(b.address) as relay:
                await a.reach(b, relay.address)
                call = asyncio.ensure_future(a.transport.call(b.id, "held", 1, WAIT_S))
                await until(lambda: methods.asked == [1])
                relay.cut()
                with pytest.raises(RpcLost):
                    await call
                # The old answer goes nowhere; the new connection's calls get their own.
                await until(lambda: a.transport.is_connected(b.id))
                again = asyncio.ensure_future(a.transport.call(b.id, "held", 2, WAIT_S))
                await until(lambda: methods.asked == [1, 2])
                methods.gate.set()
                assert await again == 2

    async def test_the_other_side_stops(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b):
            methods = Methods(b)
            await a.reach(b)
            call = asyncio.ensure_future(a.transport.call(b.id, "held", 1, WAIT_S))
            await until(lambda: methods.asked == [1])
            await b.transport.stop()
            with pytest.raises(RpcLost):
                await call

    async def test_a_long_call_outlives_the_idle_time(self) -> None:
        a, b = Station(1, timing=IMPATIENT), Station(2, timing=IMPATIENT)
        async with stations(a, b):
            methods = Methods(b)
            call = asyncio.ensure_future(a.transport.call(b.address, "held", 1, WAIT_S))
            await until(lambda: methods.asked == [1])
            await asyncio.sleep(IMPATIENT.idle_ms / 1000 * 1.5)
            methods.gate.set()
            assert await call == 1

    async def test_a_transport_that_is_never_started_can_call(self) -> None:
        a, b = Station(1, advertise="127.0.0.1:1", timing=IMPATIENT), Station(2, timing=IMPATIENT)
        async with stations(b):
            methods = Methods(b)
            try:
                assert await a.transport.call(b.address, "echo", 1, WAIT_S) == 1
                call = asyncio.ensure_future(a.transport.call(b.address, "held", 2, WAIT_S))
                await until(lambda: methods.asked == [1, 2])
                await asyncio.sleep(IMPATIENT.idle_ms / 1000 * 1.5)
                methods.gate.set()
                assert await call == 2
                assert b.learned == []
            finally:
                await a.transport.stop()


class TestBounds:
    async def test_requests_beyond_the_bound_are_refused_unexecuted(self) -> None:
        a, b = Station(1, timing=SLOW), Station(2, timing=SLOW)
        async with stations(a, b):
            methods = Methods(b)
            await a.reach(b)
            held = [
                asyncio.ensure_future(a.transport.call(b.id, "held", n, WAIT_S))
                for n in range(RPC_RUNNING_MAX)
            ]
            await until(lambda: len(methods.asked) == RPC_RUNNING_MAX)
            with pytest.raises(Busy):
                await a.transport.call(b.id, "echo", "too many", WAIT_S)
            methods.gate.set()
            assert await asyncio.gather(*held) == list(range(RPC_RUNNING_MAX))
            assert "too many" not in methods.asked
            assert await a.transport.call(b.id, "echo", 1, WAIT_S) == 1
            await until(lambda: b.transport._server.running_count == 0)

    async def test_a_caller_that_floods_and_reads_nothing_is_let_go(self) -> None:
        a, b = Station(1, timing=SLOW), Station(2, timing=SLOW)
        async with stations(a, b):
            methods = Methods(b)
            await a.reach(b)
            calls = [
                asyncio.ensure_future(a.transport.call(b.id, "held", n, WAIT_S))
                for n in range(2 * RPC_RUNNING_MAX + 1)
            ]
            results = asyncio.gather(*calls, return_exceptions=True)
            # Refusals of one chunk are answered in the next iteration: all of them count until then.
            await until(lambda: len(methods.asked) >= RPC_RUNNING_MAX)
            methods.gate.set()
            kinds = {type(result) for result in await results}
            assert kinds <= {int, Busy, RpcLost}
            assert Busy in kinds or RpcLost in kinds
            assert len(methods.asked) <= RPC_RUNNING_MAX

    async def test_answers_wait_for_room_in_the_queue(self) -> None:
        a, b = Station(1, timing=SLOW), Station(2, timing=SLOW)
        async with stations(a, b):
            Methods(b)
            async with Relay(b.address) as relay:
                await a.reach(b, relay.address)
                calls = [
                    asyncio.ensure_future(a.transport.call(b.id, "give", 8 * MIB, WAIT_S)) for _ in range(8)
                ]
                await asyncio.sleep(0.05)
                relay.hold()
                await asyncio.sleep(0.2)
                relay.flow()
                assert [len(body) for body in await asyncio.gather(*calls)] == [8 * MIB] * 8


class TestKeptOpen:
    async def test_a_connection_without_calls_is_closed_unless_it_is_kept(self) -> None:
        a, b, c = (Station(number, timing=IMPATIENT) for number in (1, 2, 3))
        async with stations(a, b, c):
            for other in (b, c):
                Methods(other)
                assert await a.transport.call(other.address, "echo", 1, WAIT_S) == 1
            kept, unused = (a.transport.callers._tasks[other.address].result() for other in (b, c))
            let_go = a.transport.callers.keep_open(b.address)
            await until(lambda: unused.is_closed, "the unused one is closed")
            assert await a.transport.call(c.address, "echo", 1, WAIT_S) == 1
            again = a.transport.callers._tasks[c.address].result()
            await until(lambda: again.is_closed, "so is the next one")
            assert kept.is_open
            let_go()
            await until(lambda: kept.is_closed, "and the one that was kept")

    async def test_nothing_to_keep(self) -> None:
        a = Station(1)
        async with stations(a):
            a.transport.callers.keep_open(Address("127.0.0.1:1"))()


class TestJoiners:
    @pytest.mark.rf("RF-16")
    async def test_a_caller_without_a_cluster_reaches_open_methods_only(self) -> None:
        joiner, b = Station(1, cluster=NO_CLUSTER), Station(2)
        async with stations(joiner, b):
            methods = Methods(b)
            assert await joiner.transport.call(b.address, "hello", 1, WAIT_S) == 1
            assert methods.contexts[-1] == (joiner.id, False, joiner.address)
            with pytest.raises(WrongCluster, match="nodes of this cluster only"):
                await joiner.transport.call(b.address, "echo", 1, WAIT_S)
            with pytest.raises((RpcLost, RpcNotSent)):
                await joiner.transport.call(b.address, "hello", bytes(2 * STRANGER_BYTES_MAX), WAIT_S)
            assert methods.asked == [1]
            assert b.learned == []

    async def test_a_member_calls_a_joiner(self) -> None:
        a, joiner = Station(1), Station(2, cluster=NO_CLUSTER)
        async with stations(a, joiner):
            methods = Methods(joiner)
            assert await a.transport.call(joiner.address, "hello", 1, WAIT_S) == 1
            assert methods.contexts == [(a.id, False, a.address)]
            with pytest.raises(WrongCluster):
                await a.transport.call(joiner.address, "echo", 1, WAIT_S)

    @pytest.mark.rf("RF-16")
    async def test_another_cluster_is_refused_by_name(self) -> None:
        a, b = Station(1), Station(2, cluster=b"some-other-group")
        async with stations(a, b):
            methods = Methods(b)
            with pytest.raises(WrongCluster, match="belongs to cluster"):
                await a.transport.call(b.address, "hello", 1, WAIT_S)
            assert methods.asked == []


def test_ids_start_at_random() -> None:
    async def first_ids() -> set[int]:
        from unittest.mock import sentinel

        from dqlite_py.raft.rpc import PendingCalls

        return {next(PendingCalls(sentinel.connection)._ids) for _ in range(20)}

    ids = asyncio.run(first_ids())
    assert len(ids) == 20
    assert max(ids) > 2**58


async def test_a_method_is_registered_once() -> None:
    b = Station(2)
    Methods(b)
    with pytest.raises(InterfaceError, match="registered twice"):
        Methods(b)


async def test_who_watches_callers_hears_when_a_connection_is_closed() -> None:
    a, b = Station(1), Station(2)
    gone: list[Any] = []
    asked: list[Any] = []
    async with stations(a, b):

        async def ask(context: RpcContext, _body: Any) -> Any:
            asked.append(context.connection)

        b.transport.register("ask", ask)
        b.transport.watch_callers(gone.append)
        await a.reach(b)
        await a.transport.call(b.id, "ask", None, WAIT_S)
        assert gone == []
        await a.transport.stop()
        await until(lambda: bool(gone), "the connection is gone")
        assert asked[0] in gone
