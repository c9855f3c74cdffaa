"""Runs: a cluster, client threads, a nemesis, the healing, the checks."""
