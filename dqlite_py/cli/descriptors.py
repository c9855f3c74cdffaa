"""A node of its own process serves thousands of connections: it takes all descriptors that it is allowed."""

from __future__ import annotations

import resource


def raise_limit() -> int:
    """Raise the soft limit to the hard one; returns the limit in force. Never lowers it, never fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # "unlimited" may be more than the kernel takes
        return soft
    return hard
