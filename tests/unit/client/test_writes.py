"""Writes of a program: what is repeated, by which key, and what is true when it is given up."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

from dqlite_py.client.gateway import AsyncRemoteGateway
from dqlite_py.client.shared import shared_link
from dqlite_py.client.wire import CALLS_MAX
from dqlite_py.errors import (
    DatabaseLocked,
    Error,
    IntegrityError,
    NeverApplied,
    NodeStopped,
    NoLeader,
    NotLeader,
    Outcome,
    OutcomeUnknown,
    RequestTooLarge,
    ResultNotKept,
    SessionExpired,
    StorageFull,
    WrongCluster,
)
from dqlite_py.gateway import StatementResult, TransactionLimits, UnitResult
from dqlite_py.limits import RPC_RUNNING_MAX
from dqlite_py.model import WriteKey
from dqlite_py.resultcodes import SESSION_EXPIRED, SESSION_SUPERSEDED
from tests.unit.client.cluster import (
    BODY,
    Script,
    asked,
    cutting,
    gateway,
    keys,
    lead,
    nodes,
    unit,
    wait_until,
)

WAIT_S = 20.0
NOW_US = 1_700_000_000_000_000


def expired(code: int = SESSION_EXPIRED) -> SessionExpired:
    return SessionExpired("the key is older than what the cluster remembers", code=code, log_time_us=NOW_US)


def test_a_write_goes_to_the_leader_with_a_key() -> None:
    with nodes({}, {"sql.execute": Script(unit(log_time_us=500))}, leader=1) as peers:
        found = gateway(peers[0]).execute_unit("app", BODY, WAIT_S)
        assert found == UnitResult(7, [StatementResult(1, 5)])
        [body] = asked(peers[1], "sql.execute")
        assert (body["database"], body["body"]) == ("app", BODY)
        assert len(body["key"][0]) == 16


def test_keys_follow_the_log_time_and_one_session_is_enough() -> None:
    answers = Script(unit(log_time_us=500), unit(log_time_us=400), IntegrityError("no", code=19), unit())
    with nodes({"sql.execute": answers}) as peers:
        remote = gateway(*peers)
        for _ in range(2):
            remote.execute_unit("app", BODY, WAIT_S)
        with pytest.raises(IntegrityError):
            remote.execute_unit("app", BODY, WAIT_S)
        remote.execute_unit("app", BODY, WAIT_S)
        remote.execute_unit("other", BODY, WAIT_S)
        found = keys(*peers)
        assert len({session for session, _ in found[:4]}) == 1
        assert found[4][0] != found[0][0]
        assert [sequence for _, sequence in found[1:4]] == [501, 502, 503]


def test_what_may_have_happened_is_repeated_by_the_same_key() -> None:
    with nodes({"sql.execute": Script(OutcomeUnknown("lost"), unit(log_index=9))}) as peers:
        assert gateway(*peers).execute_unit("app", BODY, WAIT_S).log_index == 9
        first, second = keys(*peers)
        assert first == second


def test_a_broken_connection_goes_on_at_the_next_leader() -> None:
    async def cut_and_depose(_body: Any) -> Any:
        lead(peers, 1)
        peers[0].cut()

    with nodes({"sql.execute": cut_and_depose}, {"sql.execute": Script(unit(log_index=9))}) as peers:
        assert gateway(*peers).execute_unit("app", BODY, WAIT_S).log_index == 9
        assert len(asked(peers[0], "sql.execute")) == 1
        assert keys(peers[0]) == keys(peers[1])


async def test_more_writes_at_once_than_a_node_takes_wait_for_their_turn() -> None:
    """A node refuses what is too much, and in the end the connection with all that is under way on it."""
    count = 4 * RPC_RUNNING_MAX
    with nodes({"sql.execute": Script(unit(log_time_us=1_000))}) as peers:
        remote = AsyncRemoteGateway(shared_link([peers[0].address], None))
        writes = [remote.execute_unit("app", BODY, WAIT_S) for _ in range(count)]
        found = await asyncio.gather(*writes, return_exceptions=True)
        assert [error for error in found if isinstance(error, BaseException)] == []
        assert len(keys(*peers)) == len(set(keys(*peers))) == count
        assert peers[0].programs.refused_count == 0


async def test_what_waits_for_its_turn_ends_with_its_caller_and_its_time() -> None:
    gate = asyncio.Event()

    async def wait(_body: Any) -> None:
        await gate.wait()

    done = msgpack.packb([0, [[1, 5, None, None]]])
    begun = {"tx.begin": Script([bytes(16), NOW_US]), "tx.run": Script([done, True, None])}
    with nodes({"sql.execute": wait, **begun}) as peers:
        remote = AsyncRemoteGateway(shared_link([peers[0].address], None))
        transaction = await remote.begin("app", 3.0, TransactionLimits(10.0, 60.0))
        writes = [
            asyncio.create_task(remote.execute_unit("app", BODY, WAIT_S)) for _ in range(RPC_RUNNING_MAX)
        ]
        await asyncio.to_thread(wait_until, lambda: len(asked(peers[0], "sql.execute")) == CALLS_MAX)
        with pytest.raises(NoLeader, match="its turn did not come"):
            await remote.execute_unit("app", BODY, 0.2, once=False)
        await transaction.run(BODY, WAIT_S)  # what the others may be waiting for does not wait
        for write in reversed(writes):
            write.cancel()
        await asyncio.gather(*writes, return_exceptions=True)
        assert len(asked(peers[0], "sql.execute")) == CALLS_MAX
        peers[0].methods["sql.execute"] = Script(unit())
        await remote.execute_unit("app", BODY, WAIT_S)


@pytest.mark.parametrize("failure", [NodeStopped("stopping"), NoLeader("none"), NotLeader("not I")])
def test_a_refusal_of_one_node_goes_on_at_another(failure: Error) -> None:
    async def refuse(_body: Any) -> Any:
        lead(peers, 1)
        raise failure

    with nodes({"sql.execute": refuse}, {"sql.execute": Script(unit(log_index=9))}) as peers:
        assert gateway(*peers).execute_unit("app", BODY, WAIT_S, once=False).log_index == 9


def test_not_leader_names_the_leader() -> None:
    answering = {"sql.execute": Script(unit(log_index=9))}
    with nodes(answering, answering) as peers:
        peers[0].methods["sql.execute"] = Script(NotLeader("not I", leader_address=peers[1].address))
        remote = gateway(*peers)
        assert remote.execute_unit("app", BODY, WAIT_S).log_index == 9
        assert [name for name, _ in peers[1].asked] == ["sql.execute"]


def test_a_lost_attempt_before_the_addresses_became_another_clusters_says_nothing() -> None:
    async def cut_and_move(_body: Any) -> Any:
        peers[0].cluster_id = b"a-recovered-one!"
        peers[0].cut()

    with nodes({"sql.execute": cut_and_move}) as peers:
        remote = gateway(*peers)
        with pytest.raises(OutcomeUnknown, match="another cluster") as caught:
            remote.execute_unit("app", BODY, WAIT_S)
        [key] = keys(*peers)
        assert (caught.value.details["session"], caught.value.details["sequence"]) == key
        with pytest.raises(OutcomeUnknown, match="another cluster"):
            remote.resolve("app", WriteKey(*key), WAIT_S)
        with pytest.raises(WrongCluster):
            remote.execute_unit("app", BODY, WAIT_S)


@pytest.mark.parametrize("lost", [OutcomeUnknown("lost"), None])
def test_without_a_key_nothing_is_repeated_that_may_have_happened(lost: Error | None) -> None:
    with nodes({"sql.execute": cutting(lambda: peers[0]) if lost is None else Script(lost)}) as peers:
        with pytest.raises(OutcomeUnknown) as caught:
            gateway(*peers).execute_unit("app", BODY, WAIT_S, once=False)
        assert "session" not in caught.value.details
        [body] = asked(peers[0], "sql.execute")
        assert ("key" in body, body["once"]) == (False, False)


@pytest.mark.parametrize(
    "failure",
    [
        IntegrityError("UNIQUE constraint failed: t.k", code=2067, statement=0),
        StorageFull("the reserve is reached"),
        RequestTooLarge("too large"),
        ResultNotKept("took effect before", code=0),
    ],
)
def test_certain_errors_are_raised_at_once(failure: Error) -> None:
    with nodes({"sql.execute": Script(failure)}) as peers:
        with pytest.raises(type(failure)) as caught:
            gateway(*peers).execute_unit("app", BODY, WAIT_S)
        assert (caught.value.message, caught.value.code) == (failure.message, failure.code)
        assert len(asked(peers[0], "sql.execute")) == 1


def test_a_repeated_write_hears_its_own_error_and_nothing_else() -> None:
    """A refusal after a lost attempt says nothing of that attempt."""
    answers = Script(OutcomeUnknown("lost"), StorageFull("full"), IntegrityError("no", code=19))
    with nodes({"sql.execute": answers}) as peers:
        with pytest.raises(IntegrityError):
            gateway(*peers).execute_unit("app", BODY, WAIT_S)
        assert len(set(keys(*peers))) == 1


def test_a_locked_database_after_a_lost_attempt_says_nothing_of_that_attempt() -> None:
    """The lost attempt may be in the log, in front of the transaction that the repetition waits for."""
    locked = DatabaseLocked("database is locked: another transaction writes to app", code=5)
    with nodes({"sql.execute": Script(OutcomeUnknown("lost"), locked, unit(log_index=9))}) as peers:
        assert gateway(*peers).execute_unit("app", BODY, WAIT_S).log_index == 9
        assert len(set(keys(*peers))) == 1
    with nodes({"sql.execute": Script(unit(), OutcomeUnknown("lost"), locked)}) as peers:
        remote = gateway(*peers)
        remote.execute_unit("app", BODY, WAIT_S)  # now it is connected
        with pytest.raises(OutcomeUnknown):
            remote.execute_unit("app", BODY, 0.3)
    with nodes({"sql.execute": Script(locked)}) as peers:
        with pytest.raises(DatabaseLocked):  # the first attempt: certainly not applied
            gateway(*peers).execute_unit("app", BODY, WAIT_S)
        assert len(asked(peers[0], "sql.execute")) == 1


def test_the_time_is_over_after_a_lost_attempt() -> None:
    with nodes({"sql.execute": Script(unit(), OutcomeUnknown("lost"), StorageFull("full"))}) as peers:
        remote = gateway(*peers)
        remote.execute_unit("app", BODY, WAIT_S)  # now it is connected
        with pytest.raises(OutcomeUnknown) as caught:
            remote.execute_unit("app", BODY, 0.3)
        details = caught.value.details
        assert {(details["session"], details["sequence"])} == set(keys(*peers)[1:])
        peers[0].methods["sql.execute"] = Script(unit())
        remote.execute_unit("app", BODY, WAIT_S)
        assert keys(*peers)[-1][0] != details["session"]  # the old one is left for `resolve`


def test_the_time_is_over_and_nothing_was_sent() -> None:
    with nodes({"sql.execute": Script(NoLeader("no leader here"))}, leader=-1) as peers:
        with pytest.raises(NoLeader, match="no leader here") as caught:
            gateway(*peers).execute_unit("app", BODY, 0.3)
        assert caught.value.outcome is Outcome.NOT_APPLIED


def test_a_new_session_may_be_behind_the_times() -> None:
    with nodes({"sql.execute": Script(expired(), unit())}) as peers:
        gateway(*peers).execute_unit("app", BODY, WAIT_S)
        (first, _), (second, sequence) = keys(*peers)
        assert first != second
        assert sequence > NOW_US


def test_a_new_session_that_is_refused_again_did_not_write() -> None:
    with nodes({"sql.execute": Script(expired())}) as peers:
        with pytest.raises(NeverApplied):
            gateway(*peers).execute_unit("app", BODY, WAIT_S)
        assert len(keys(*peers)) == 2


@pytest.mark.parametrize(
    "answers",
    [
        (OutcomeUnknown("lost"), expired()),
        (expired(), OutcomeUnknown("lost"), expired()),
        (expired(SESSION_SUPERSEDED),),
    ],
)
def test_an_expired_key_after_a_lost_attempt_says_nothing(answers: tuple[Error, ...]) -> None:
    with nodes({"sql.execute": Script(*answers)}) as peers:
        with pytest.raises(SessionExpired) as caught:
            gateway(*peers).execute_unit("app", BODY, WAIT_S)
        assert caught.value.outcome is Outcome.UNKNOWN
        assert len(keys(*peers)) == len(answers)


def test_results_of_all_kinds() -> None:
    returning = [0, [[1, 5, ["a", "b"], [[1, None], ["x", b"y"]]], [-1, 0, None, None]]]
    answers = Script(unit(result=returning), unit(result=[0, None, 12, 3]), unit(result=[2067, "UNIQUE", 1]))
    with nodes({"sql.execute": answers}) as peers:
        remote = gateway(*peers)
        first, second = remote.execute_unit("app", BODY, WAIT_S).statements or ()
        assert first == StatementResult(1, 5, ("a", "b"), ((1, None), ("x", b"y")))
        assert second == StatementResult(-1, 0)
        assert remote.execute_unit("app", BODY, WAIT_S) == UnitResult(7, None, 12)
        with pytest.raises(IntegrityError, match="UNIQUE") as caught:
            remote.execute_unit("app", BODY, WAIT_S)
        assert (caught.value.code, caught.value.details) == (2067, {"statement": 1})


@pytest.mark.parametrize(
    "answer",
    [
        None,
        7,
        {},
        unit()[:2],
        [7, b"", 1],
        [7, b"\xc1", 1],
        ["7", *unit()[1:]],
        [*unit()[:2], None],
        unit(result=7),
        unit(result=[]),
        unit(result=[0]),
        unit(result=[1, [[1, 5, None, None]]]),
        unit(result=[0, "text", 0]),
        unit(result=[0, [[1, 2, 3]]]),
        unit(result=[0, [7]]),
        unit(result=[0, [[1, "x", None, None]]]),
        unit(result=[0, [[1, 2, ["a"], [[1], 2]]]]),
        unit(result=[0, [[1, 2, ["a"], None]]]),
        unit(result=[0, [[1, 2, [7], []]]]),
    ],
)
def test_an_answer_that_makes_no_sense_leaves_the_outcome_unknown(answer: Any) -> None:
    with nodes({"sql.execute": Script(answer)}) as peers:
        with pytest.raises(OutcomeUnknown, match="not readably"):
            gateway(*peers).execute_unit("app", BODY, WAIT_S, once=False)
        with pytest.raises(OutcomeUnknown) as caught:
            gateway(*peers).execute_unit("app", BODY, 0.1)
        assert caught.value.details["sequence"] > 0


def test_resolve_asks_until_it_is_known() -> None:
    key = WriteKey(bytes(16), 5)
    answers = Script(NodeStopped("stopping"), StorageFull("full"), OutcomeUnknown("lost"), unit(log_index=9))
    with nodes({"sql.resolve": answers}) as peers:
        assert gateway(*peers).resolve("app", key, WAIT_S).log_index == 9
        bodies = asked(peers[0], "sql.resolve")
        assert {tuple(body["key"]) for body in bodies} == {tuple(key)}


def test_resolve_never_says_that_nothing_happened_when_it_does_not_know() -> None:
    with nodes({"sql.resolve": Script(NoLeader("none"))}, leader=-1) as peers:
        with pytest.raises(OutcomeUnknown) as caught:
            gateway(*peers).resolve("app", WriteKey(bytes(16), 5), 0.3)
        assert caught.value.details["sequence"] == 5


def test_resolve_tells_that_it_never_happened() -> None:
    with (
        nodes({"sql.resolve": Script(NeverApplied("void", code=4 | 202 << 8))}) as peers,
        pytest.raises(NeverApplied),
    ):
        gateway(*peers).resolve("app", WriteKey(bytes(16), 5), WAIT_S)
