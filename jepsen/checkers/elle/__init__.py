"""Elle for list-append histories: anomalies of isolation, inferred from what transactions read."""

from jepsen.checkers.elle.check import check_append

__all__ = ["check_append"]
