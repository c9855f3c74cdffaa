"""Clusters of real node processes for the suite: started, broken and removed here."""

from jepsen.cluster.api import Cluster, ClusterNode, FinalState, Network, ServerSettings
from jepsen.cluster.client import ClientError, Failed, NodeClient, Result, Unknown
from jepsen.cluster.make import KINDS, make_cluster, why_no_namespaces

__all__ = [
    "KINDS",
    "ClientError",
    "Cluster",
    "ClusterNode",
    "Failed",
    "FinalState",
    "Network",
    "NodeClient",
    "Result",
    "ServerSettings",
    "Unknown",
    "make_cluster",
    "why_no_namespaces",
]
