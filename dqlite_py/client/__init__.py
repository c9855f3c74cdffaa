"""Programs outside the nodes' processes: how they reach a cluster."""
