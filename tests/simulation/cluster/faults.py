"""The fault atlas: every fault a simulated cluster has to survive, why it must, and how it is done to a World.

A fault acts at random times with a rate per simulated second; plans.py draws which kinds a seed has and how often.
Faults that destroy durable data (rot, a wiped folder) hit one machine at a time, and only while all others are sound:
a majority of sound disks is what the cluster's promise hangs on. Power loss destroys nothing durable and may hit all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dqlite_py.wire.handshake import PROTOCOL_VERSION

if TYPE_CHECKING:
    from tests.simulation.cluster.machine import Machine
    from tests.simulation.cluster.world import World

Act = Callable[["World", random.Random], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """`per_s`: the most often it comes, per simulated second; `survivable`: why the cluster must stand it."""

    name: str
    per_s: float
    survivable: str
    act: Act


def _machine_down(world: World, rng: random.Random, *, lose: bool) -> None:
    machine = world.any_up(rng, prefer_leader=0.4)
    if machine is not None:
        machine.crash(lose_unsynced=lose)
        world.restart_later(machine, rng.uniform(0.02, 2.0))


def kill(world: World, rng: random.Random) -> None:
    _machine_down(world, rng, lose=False)


def dead_for_long(world: World, rng: random.Random) -> None:
    """For longer than it takes until somebody else has its role."""
    machine = world.any_up(rng, prefer_leader=0.4)
    if machine is not None:
        machine.crash(lose_unsynced=rng.random() < 0.3)
        world.restart_later(machine, rng.uniform(2.0, 8.0))


def change_numbers(world: World, rng: random.Random) -> None:
    world.roles.change_numbers(rng)


def blink(world: World, rng: random.Random) -> None:
    """Killed, and back before anybody else has noticed: sooner than a promise to its leader ends."""
    machine = world.any_up(rng)
    if machine is not None:
        machine.crash(lose_unsynced=rng.random() < 0.5)
        world.restart_later(machine, rng.uniform(0.005, 0.1))


def power_loss(world: World, rng: random.Random) -> None:
    _machine_down(world, rng, lose=True)


def power_loss_of_all(world: World, rng: random.Random) -> None:
    for machine in world.machines:
        if machine.is_up and rng.random() < 0.9:
            machine.crash(lose_unsynced=True)
            world.restart_later(machine, rng.uniform(0.02, 1.0))


def crash_at_operation(world: World, rng: random.Random) -> None:
    """At some disk operation from now on, be it the journal's or SQLite's, whole or torn."""
    machine = world.any_up(rng, prefer_leader=0.4)
    if machine is not None:
        machine.crash_within(1 + int(rng.expovariate(1 / 30)), lose_unsynced=rng.random() < 0.8)
        world.watch_for_crash(machine, rng.uniform(0.02, 2.0))


def crash_while_starting(world: World, rng: random.Random) -> None:
    """Kill a machine and let the next life end at one of its first disk operations."""
    machine = world.any_up(rng, prefer_leader=0.2)
    if machine is not None:
        machine.crash(lose_unsynced=rng.random() < 0.5)
        world.restart_later(machine, rng.uniform(0.02, 0.5), crash_within=1 + int(rng.expovariate(1 / 25)))


def pause(world: World, rng: random.Random) -> None:
    machine = world.any_up(rng, prefer_leader=0.5)
    if machine is not None:
        machine.pause(rng.choice((0.05, 0.5, 1.0, 3.0)) * rng.random())


def isolate(world: World, rng: random.Random) -> None:
    machine = world.any_up(rng, prefer_leader=0.5)
    if machine is not None:
        for other in world.machines:
            if other is not machine:
                world.injection.cut_for(machine, other, rng.uniform(0.1, 3.0), both=True)


def one_way(world: World, rng: random.Random) -> None:
    """One machine is not heard by some others, though it hears them; or the other way round."""
    machine = world.any_up(rng, prefer_leader=0.5)
    if machine is None:
        return
    seconds, outwards = rng.uniform(0.1, 3.0), rng.random() < 0.5
    for other in world.machines:
        if other is not machine and rng.random() < 0.7:
            world.injection.cut_for(
                *((machine, other) if outwards else (other, machine)), seconds, both=False
            )


def halves(world: World, rng: random.Random) -> None:
    side = set(rng.sample(range(len(world.machines)), len(world.machines) // 2))
    seconds = rng.uniform(0.1, 3.0)
    for i, one in enumerate(world.machines):
        for j, other in enumerate(world.machines):
            if (i in side) and (j not in side):
                world.injection.cut_for(one, other, seconds, both=True)


def ring(world: World, rng: random.Random) -> None:
    """Everybody hears only its neighbours: no two have the same majority."""
    count = len(world.machines)
    seconds = rng.uniform(0.2, 3.0)
    for i, one in enumerate(world.machines):
        for j, other in enumerate(world.machines):
            if i < j and (j - i) % count not in (1, count - 1):
                world.injection.cut_for(one, other, seconds, both=True)


def reset_connections(world: World, rng: random.Random) -> None:
    one = rng.choice(world.machines)
    world.network.reset_connections(one.ip, None if rng.random() < 0.3 else rng.choice(world.machines).ip)


def slow_disk(world: World, rng: random.Random) -> None:
    world.injection.slow_disk_for(rng.uniform(0.1, 1.5))


def full_disk(world: World, rng: random.Random) -> None:
    world.injection.fill_disk_for(rng.choice(world.machines), rng.uniform(0.2, 3.0))


def failing_sync(world: World, rng: random.Random) -> None:
    machine = world.any_up(rng, prefer_leader=0.4)
    if machine is not None:
        machine.disk.fail_syncs = 1


def rot(world: World, rng: random.Random) -> None:
    world.operator.rot(rng)


def wipe(world: World, rng: random.Random) -> None:
    world.operator.wipe(rng)


def wall_jump(world: World, rng: random.Random) -> None:
    machine = rng.choice(world.machines)
    hours = rng.choice((0.001, 1.0, 24.0 * 365)) * rng.uniform(-1, 1)
    machine.wall_offset_us = int(hours * 3.6e9)
    if machine.life is not None:
        machine.life.wall_offset_us = machine.wall_offset_us


def clock_drift(world: World, rng: random.Random) -> None:
    """Clocks run up to 5 % fast or slow; more breaks the bound that stickiness hangs on (availability, not safety)."""
    machine = rng.choice(world.machines)
    machine.clock_rate = rng.uniform(0.95, 1.05)
    if machine.life is not None:
        machine.life.set_rate(machine.clock_rate)


def disturb(world: World, rng: random.Random) -> None:
    """A node campaigns though it has a leader."""
    machine = world.any_up(rng)
    runtime = machine.runtime if machine is not None else None
    if machine is not None and machine.life is not None and runtime is not None:
        machine.life.run(world.campaign, runtime)


def transfer(world: World, rng: random.Random) -> None:
    world.operator.transfer_leadership()


def stop(world: World, rng: random.Random) -> None:
    """End a node as its embedding server does: leadership handed over, callers answered, files closed."""
    machine = world.any_up(rng, prefer_leader=0.4)
    if machine is not None and machine.life is not None and machine.life.node is not None:
        machine.life.run(machine.life.node._request_stop)


def crash_while_creating(world: World, rng: random.Random) -> None:
    """The next machine that begins with an empty disk does not get far."""
    world.operator.crash_next_creation = 1 + int(rng.expovariate(1 / 20))


def compact(world: World, rng: random.Random) -> None:
    machine = world.any_up(rng)
    if machine is not None:
        world.operator.compact(machine)


def crash_while_installing(world: World, rng: random.Random) -> None:
    """End a machine at one of the disk operations with which it fetches and installs a snapshot."""
    machine = world.machine_that_installs()
    if machine is not None:
        machine.crash_within(1 + int(rng.expovariate(1 / 12)), lose_unsynced=rng.random() < 0.8)
        world.watch_for_crash(machine, rng.uniform(0.02, 0.5))


def long_reader(world: World, rng: random.Random) -> None:
    """A read that lasts holds an old state of the WAL."""
    machine = world.any_up(rng)
    if machine is not None:
        world.injection.hold_reader(machine, rng.uniform(0.2, 2.0))


def remove_and_rejoin(world: World, rng: random.Random) -> None:
    """An operator takes a member out, wipes it and lets it join again."""
    leader = world.leader()
    if leader is not None and rng.random() < 0.5:
        world.operator.remove_member(leader)
    else:
        world.operator.remove_member(rng.choice(world.machines))


def odd_requests(world: World, rng: random.Random) -> None:
    """What people ask wrongly, twice, or of the wrong node."""
    world.requests.one(rng)


def assign(world: World, rng: random.Random) -> None:
    """A member is given another role, or the one that it has."""
    world.roles.one(rng)


def set_address(world: World, rng: random.Random) -> None:
    """An operator says where a member is; it may be wrong."""
    world.addresses.one(rng)


def moved(world: World, rng: random.Random) -> None:
    """A machine, or each of them, comes back at another address or port."""
    if rng.random() < 0.15:
        for machine in world.machines:
            world.injection.move(machine, rng, rng.uniform(0.02, 1.0))
    else:
        world.injection.move(rng.choice(world.machines), rng, rng.uniform(0.02, 2.0))


def caller_cut_off(world: World, rng: random.Random) -> None:
    """A program outside does not reach a node, or is not reached by its answers."""
    world.injection.cut_caller(rng.choice(world.remotes).ip, rng.choice(world.machines), rng)


def crash_while_sending(world: World, rng: random.Random) -> None:
    """End a machine that makes or sends a snapshot."""
    machine = world.machine_that_sends()
    if machine is not None:
        machine.crash_within(1 + int(rng.expovariate(1 / 20)), lose_unsynced=rng.random() < 0.8)
        world.watch_for_crash(machine, rng.uniform(0.02, 0.5))


def other_release(world: World, rng: random.Random) -> None:
    """A node is upgraded to a release whose protocol the others do not know, and taken back later."""
    machine = rng.choice(world.machines)
    if machine.is_up and machine.release == PROTOCOL_VERSION:
        world.injection.change_release(machine, PROTOCOL_VERSION + 1)
        world.scheduler.call_later(rng.uniform(0.5, 4.0), _taken_back, world, machine)


def _taken_back(world: World, machine: Machine) -> None:
    if machine.release != PROTOCOL_VERSION:
        world.injection.change_release(machine, PROTOCOL_VERSION)


ATLAS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("kill", 0.5, "every acknowledged entry is in the page cache or on disk of a majority", kill),
        Fault("power loss", 0.5, "acknowledged means synced on a majority", power_loss),
        Fault("power loss of all", 0.12, "acknowledged means synced, so all may lose power", power_loss_of_all),
        Fault("crash at a disk operation", 0.5, "any prefix of what is written is sound", crash_at_operation),
        Fault("crash while starting", 0.25, "recovery itself may be interrupted", crash_while_starting),
        Fault("pause", 0.4, "a late process is a slow one", pause),
        Fault("isolate", 0.3, "a majority remains connected", isolate),
        Fault("one way", 0.3, "who is not answered steps down or is not elected", one_way),
        Fault("halves", 0.2, "one half has the majority, or nobody writes until the partition ends", halves),
        Fault("ring", 0.15, "as above", ring),
        Fault("reset connections", 1.0, "raft sends again what a connection lost", reset_connections),
        Fault("slow disk", 0.3, "nothing is acknowledged before its sync", slow_disk),
        Fault("full disk", 0.15, "nothing is acknowledged before there is room for it", full_disk),
        Fault("failing sync", 0.1, "the node stops; what it acknowledged was synced before", failing_sync),
        Fault("rot", 0.08, "checksums find it; sound copies are on a majority", rot),
        Fault("wipe", 0.04, "the old identity is removed before the new one joins", wipe),
        Fault("wall clock jump", 0.3, "no rule of consensus looks at the wall clock", wall_jump),
        Fault("clock drift", 0.2, "time-outs bound availability only; leases allow for drift", clock_drift),
        Fault("disturb", 0.4, "pre-vote and stickiness", disturb),
        Fault("transfer", 0.3, "the old leader refuses writes until the new one leads", transfer),
        Fault("compact", 1.0, "the manifest is durable before a segment goes", compact),
        Fault("crash while installing", 5.0, "state and log are switched one after the other", crash_while_installing),
        Fault("long reader", 0.3, "checkpoints wait for readers and lose nothing", long_reader),
        Fault("other release", 0.1, "it is refused by name, as if it were not there", other_release),
        Fault("crash while sending", 2.0, "who fetches resumes, or starts again elsewhere", crash_while_sending),
        Fault("blink", 0.2, "what was promised holds through a restart", blink),
        Fault("moved", 0.15, "a node is its id, not its address", moved),
        Fault("caller cut off", 0.3, "what was sent and not answered is told as unknown", caller_cut_off),
        Fault("odd requests", 0.5, "refused, or done once", odd_requests),
        Fault("stop", 0.2, "an orderly end is a crash at the best of moments", stop),
        Fault("crash while creating", 0.5, "a folder that never served is made anew", crash_while_creating),
        Fault("dead for long", 0.1, "a majority is left, or comes back", dead_for_long),
        Fault("change numbers", 0.3, "one voter at a time, and a majority of those that stay is there", change_numbers),
        Fault("assign", 1.0, "one voter at a time, and none that is behind", assign),
        Fault("set address", 1.0, "whoever answers there has shown its id before", set_address),
        Fault("remove and rejoin", 0.08, "one voter at a time", remove_and_rejoin),
    )
}  # fmt: skip
# Drawn apart, see roles.py, addresses.py and canaries_roles.py.
OWN_DRAW = frozenset({"assign", "dead for long", "change numbers", "set address"})
DESTROYS_DATA = frozenset({"rot", "wipe", "remove and rejoin"})
