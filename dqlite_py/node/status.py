"""What a node says of itself: plain values for RPC, CLI and the embedded API. Loop thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dqlite_py.node.formats import FORMATS
from dqlite_py.storage.engine import sqlite_identity

if TYPE_CHECKING:
    from dqlite_py.node.runtime import NodeRuntime


def node_status(node: NodeRuntime) -> dict[str, Any]:
    """Identity, consensus, databases, disk and health; every value is msgpack's."""
    core, applier = node.core, node.applier()
    leader = core.leader_id
    progress = node.snapshot_fetcher.progress
    refusal = node.view.refusal(write=True)
    return {
        "node_id": node.node_id,
        "cluster_id": node.cluster_id.hex(),
        "address": node.transport.advertised_address(),
        "state": core.state.value,
        "term": core.term,
        "leader_id": leader or 0,
        "leader_address": node.view.address_of(leader),
        "is_leader": core.is_leader,
        "last_index": core.last_index,
        "commit_index": core.commit_index,
        "applied_index": applier.applied_index,
        "first_index": core.first_index,
        "snapshot_index": node.opened.state.manifest.index,
        "roles": node.role_manager.status(),
        "formats": FORMATS,
        "members": [_member(node, m) for m in core.configuration.members],
        "databases": {
            name: {
                "applied_index": w.last_hash.index if w.last_hash else 0,
                "state_hash": f"{w.last_hash.value:016x}" if w.last_hash else "",
                "pending": len(w.pending),
            }
            for name, w in applier.workers.items()
        },
        "healthy": refusal is None,
        "problem": "" if refusal is None else str(refusal),
        "journal_bytes": node.opened.journal.size_bytes,
        "journal_syncs": node.opened.journal.sync_count,
        "free_bytes": node.storage_watch.free_bytes,
        "snapshot_phase": progress.phase.value,
        "snapshot_bytes": [progress.done_bytes, progress.total_bytes],
        "divergences": node.divergence.detected_count,
        "recovered_from": [p.to_wire() for p in node.opened.predecessors],
        "refusals": node.transport.refusals(),
        "tick_lag_ms": round(node.host.tick_lag_ms, 1),
        **sqlite_identity(),
        **{name: section() for name, section in node.sections.items()},
    }


def _member(node: NodeRuntime, member: Any) -> dict[str, Any]:
    is_self = member.id == node.node_id
    peer = node.core.peers.get(member.id)
    return {
        "id": member.id,
        "address": member.address,
        "role": member.role.name.lower(),
        "weight": member.weight,
        "domain": member.domain,
        **node.role_manager.member_status(member.id),
        "match_index": node.core.last_index if is_self else (peer.match_index if peer else 0),
        "progress": peer.state.value if peer else "",
        "connected": is_self or node.transport.is_connected(member.id),
    }
