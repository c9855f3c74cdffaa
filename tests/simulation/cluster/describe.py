"""A machine's state in a line, for the messages of failures."""

from __future__ import annotations

from tests.simulation.cluster.machine import Machine


def described(machine: Machine, mending: int | None) -> str:
    """`mending`: the node id whose removal the operator waits for."""
    runtime = machine.runtime
    if runtime is None:
        return f"{machine.name}: {'starting' if machine.is_up else 'down'} {mending or ''}"
    core = runtime.core
    role = core.configuration.get(runtime.node_id)
    hashes = ", ".join(
        f"{name}@{w.last_hash.index}={w.last_hash.value:016x}" if w.last_hash else name
        for name, w in sorted(runtime.applier().workers.items())
    )
    return (
        f"{machine.name} {machine.address}: {core.state.value} term {core.term} leader {core.leader_id} "
        f"log {core.first_index}..{core.last_index} commit {core.commit_index} "
        f"applied {runtime.applier().applied_index} {role.role.name if role else 'no member'}"
        f"{' quarantined' if core.is_quarantined else ''}{' failed' if runtime.failed else ''}"
        f"{'' if runtime.view.is_compared else ' not compared'} "
        f"{'' if runtime.view.refusal(write=False) is None else 'refuses '}{hashes}"
    )
