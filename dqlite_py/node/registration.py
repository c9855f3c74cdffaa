"""Which groups of RPC methods a node has. Called once, when it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dqlite_py.node.address_services import AddressServices
from dqlite_py.node.member_services import MemberServices
from dqlite_py.node.services import Services
from dqlite_py.node.transaction_services import TransactionServices

if TYPE_CHECKING:
    from dqlite_py.node.runtime import NodeRuntime


def register_services(node: NodeRuntime) -> None:
    Services(node).register()
    MemberServices(node).register()
    AddressServices(node).register()
    TransactionServices(node).register()
    node.read_services.register()
    node.dumps.register()
    node.change_services.register(node.programs)
    node.transport.register("snapshot.begin", node.snapshot_source.begin)
    node.transport.register("snapshot.chunk", node.snapshot_source.chunk)
