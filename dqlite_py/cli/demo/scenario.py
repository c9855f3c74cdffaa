"""The demo's course: start, write, kill the leader, go on, bring it back, compare. Loop thread.

Every wait has an end; what goes wrong is raised as DemoFailed with the reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from dqlite_py.cli.demo.client import DemoClient, NodeStatus
from dqlite_py.cli.demo.ledger import Ledger
from dqlite_py.cli.demo.processes import NodeProcess, Processes
from dqlite_py.cli.demo.screen import DemoState, NodeView, Screen
from dqlite_py.cli.demo.verdict import NodeContent, Verdict, judge
from dqlite_py.cli.demo.writers import Writers
from dqlite_py.errors import Error
from dqlite_py.wire.rpc import RpcError

POLL_S = 0.1
START_TIMEOUT_S = 30.0
FAILOVER_TIMEOUT_S = 20.0
CATCH_UP_TIMEOUT_S = 30.0
SETTLE_TIMEOUT_S = 15.0


class DemoFailed(Exception):
    """The demo could not go on; the message says what was waited for."""


@dataclass(frozen=True, slots=True)
class Plan:
    rate: float = 100.0  # rows per second through each node
    write_s: float = 5.0  # before the kill
    without_s: float = 4.0  # with two nodes
    after_s: float = 4.0  # with all three again
    kills: int = 1


class Scenario:
    def __init__(self, plan: Plan, processes: Processes, client: DemoClient, screen: Screen) -> None:
        self._plan = plan
        self._processes = processes
        self._client = client
        self._screen = screen
        now_s = time.monotonic()
        self._ledger = Ledger(now_s)
        self._state = DemoState([NodeView(n.name, n.address) for n in processes.nodes], self._ledger, now_s)
        self.gaps_ms: list[float] = []

    async def run(self) -> Verdict:
        watcher = asyncio.create_task(self._watch())
        try:
            await self._start()
            return await self._write_and_kill()
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])
            self._screen.refresh(self._state)

    # -- the course --------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._processes.start_all()
        self._event("three node processes started, each with its own data folder")
        await self._until(self._all_vote, START_TIMEOUT_S, "three voters that know a leader")
        leader = self._leader()
        self._event(
            f"{leader.name} leads in term {leader.status.term if leader.status else 0}; all three vote"
        )
        await self._create_table()

    async def _create_table(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                return await self._client.create_table(self._processes.nodes[-1].address)
            except (Error, RpcError) as error:
                if time.monotonic() > deadline_s:
                    raise DemoFailed(f"the table could not be created: {error}") from error
            await asyncio.sleep(POLL_S)

    async def _write_and_kill(self) -> Verdict:
        nodes = [(n.name, n.address) for n in self._processes.nodes]
        writers = Writers(self._client, self._ledger, nodes, self._plan.rate)
        writing = asyncio.create_task(writers.run())
        try:
            self._phase("writing through every node")
            await self._pause(self._plan.write_s)
            for _ in range(self._plan.kills):
                await self._kill_and_restart()
                await self._pause(self._plan.after_s)
            self._phase("writers stop")
            writers.stop()
            await asyncio.wait_for(writing, SETTLE_TIMEOUT_S)
        finally:
            writing.cancel()
            await asyncio.wait([writing])
        return await self._compare()

    async def _kill_and_restart(self) -> None:
        view = self._leader()
        victim = self._process(view)
        old_term = view.status.term if view.status else 0
        killed_s = time.monotonic()
        pid = victim.pid
        victim.kill()
        self._phase(f"{victim.name} is dead")
        self._event(f"kill -9 {pid}: {victim.name}, the leader, is gone in the middle of its writes")
        await self._until(
            lambda: (
                (new := self._state.leader()) is not None
                and new.status is not None
                and new.status.term > old_term
            ),
            FAILOVER_TIMEOUT_S,
            "a new leader",
        )
        await self._until(
            lambda: self._ledger.acknowledged_since(killed_s, victim.name) > 1,
            FAILOVER_TIMEOUT_S,
            "an acknowledged write through the two nodes left",
        )
        leader = self._leader()
        gap_ms = self._gap_ms(killed_s, victim)
        term = leader.status.term if leader.status else 0
        self._event(f"{leader.name} leads in term {term}; no row was acknowledged for {gap_ms:,.0f} ms")
        await self._pause(self._plan.without_s)
        # A leader may have fallen and another risen meanwhile: the longest silence counts.
        self.gaps_ms.append(self._gap_ms(killed_s, victim))
        await self._restart(victim, view)

    def _gap_ms(self, killed_s: float, victim: NodeProcess) -> float:
        silence = self._ledger.longest_silence(killed_s, victim.name)
        return silence.ms if silence is not None else 0.0

    async def _restart(self, victim: NodeProcess, view: NodeView) -> None:
        commit = max(n.status.commit_index for n in self._state.nodes if n.status is not None)
        view.status = None
        started_s = time.monotonic()
        victim.start()
        self._phase(f"{victim.name} is back and catches up")
        self._event(
            f"{victim.name} started again on its old data folder; the cluster is at log index {commit:,}"
        )
        await self._until(
            lambda: view.status is not None and view.status.applied_index >= commit,
            CATCH_UP_TIMEOUT_S,
            f"{victim.name} to catch up",
        )
        took_s = time.monotonic() - started_s
        applied = view.status.applied_index if view.status is not None else commit
        self._event(f"{victim.name} has caught up to {applied:,} in {took_s:.1f} s, while writes went on")

    async def _compare(self) -> Verdict:
        self._phase("comparing all nodes")
        self._event(f"writers stopped: {len(self._ledger.acknowledged):,} rows were acknowledged; comparing")
        contents = await self._settled_contents()
        verdict = judge(contents, self._ledger.acknowledged.keys(), self._ledger.unknown.keys())
        for gap_ms in self.gaps_ms:
            verdict.facts.append(f"gap in service after kill -9 of the leader: {gap_ms:,.0f} ms")
        if not self._ledger.acknowledged:
            verdict.faults.append("no row was acknowledged at all")
        self._event("all the same" if verdict.is_good else "NOT the same")
        return verdict

    async def _settled_contents(self) -> dict[str, NodeContent]:
        """All nodes at one applied index, or as far as they come."""
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        while True:
            contents = {n.name: await self._client.content(n.address) for n in self._processes.nodes}
            settled = len({c.applied_index for c in contents.values()}) == 1
            if settled or time.monotonic() > deadline_s:
                return contents
            await asyncio.sleep(POLL_S)

    # -- watching ----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.gather(*(self._look(view) for view in self._state.nodes))
            self._screen.refresh(self._state)
            await asyncio.sleep(POLL_S)

    async def _look(self, view: NodeView) -> None:
        process = self._process(view)
        view.is_running = process.is_running
        if not view.is_running:
            return
        status: NodeStatus | None
        try:
            status = await self._client.status(process.address)
        except (Error, RpcError):
            status = None  # shown as starting; who waits for it has a time limit
        view.is_running = process.is_running
        view.status = status

    def _all_vote(self) -> bool:
        dead = [n for n in self._processes.nodes if n.process is not None and not n.is_running]
        if dead:
            tail = "\n    ".join(dead[0].log_tail())
            raise DemoFailed(f"{dead[0].name} stopped by itself. Its last words:\n    {tail}")
        statuses = [n.status for n in self._state.nodes]
        count = len(statuses)
        return all(s is not None and s.voters == count and s.leader_id for s in statuses)

    async def _until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise DemoFailed(f"waited {timeout_s:.0f} s for {what}")
            await asyncio.sleep(POLL_S / 5)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _leader(self) -> NodeView:
        leader = self._state.leader()
        if leader is None:
            raise DemoFailed("no node leads")
        return leader

    def _process(self, view: NodeView) -> NodeProcess:
        return next(n for n in self._processes.nodes if n.name == view.name)

    def _phase(self, text: str) -> None:
        self._state.phase = text

    def _event(self, text: str) -> None:
        self._screen.event(self._state, text)
