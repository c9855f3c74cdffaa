"""What one seed has of the fault atlas: a mixture of its own, or one of the profiles that lead to rare paths."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from tests.simulation.cluster.faults import ATLAS, OWN_DRAW

PROFILE_SHARE: Final = 0.3


@dataclass
class Mixture:
    """What one seed has: rates per second by fault name; probabilities of message and connection faults."""

    rates: dict[str, float]
    loss: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    late_segment: float = 0.0
    slow_apply: float = 0.0

    def describe(self) -> str:
        parts = [f"{name} {rate:.2f}/s" for name, rate in self.rates.items()]
        for name in ("loss", "duplicate", "late", "late_segment", "slow_apply"):
            if value := getattr(self, name):
                parts.append(f"{name} {value:.3f}")
        return ", ".join(parts) or "none"


PROFILES: Final[dict[str, Mixture]] = {
    # Followers are often away, and what they miss is compacted.
    "away": Mixture(
        {
            "kill": 0.5,
            "isolate": 0.8,
            "compact": 4.0,
            "transfer": 0.3,
            "crash at a disk operation": 0.4,
            "crash while installing": 5.0,
        }
    ),
    # Leaders change all the time, and old messages arrive.
    "churn": Mixture(
        {"transfer": 4.0, "disturb": 4.0, "one way": 0.7, "slow disk": 0.5}, 0.1, 0.2, 0.3, 0.05, 0.0
    ),
    # Leaders are cut off or stand still while others take over.
    "deposed": Mixture(
        {"isolate": 0.8, "one way": 0.8, "pause": 1.5, "halves": 0.3}, 0.0, 0.05, 0.1, 0.02, 0.0
    ),
    # Members go and come while messages are lost and leaders change.
    "members": Mixture(
        {
            "remove and rejoin": 0.5,
            "isolate": 0.3,
            "transfer": 0.5,
            "slow disk": 0.3,
            "disturb": 0.5,
            "crash while creating": 1.0,
            "stop": 0.2,
        },
        0.15,
        0.0,
        0.1,
    ),
    # Nothing written is safe until it is synced, at any moment.
    "power": Mixture(
        {
            "power loss": 0.6,
            "power loss of all": 0.3,
            "crash at a disk operation": 1.0,
            "crash while starting": 0.5,
            "failing sync": 0.2,
            "slow disk": 0.5,
            "compact": 1.0,
        }
    ),
    # Disks are slow and full, readers hinder, statements take long.
    "clogged": Mixture(
        {
            "slow disk": 1.0,
            "full disk": 0.6,
            "long reader": 1.5,
            "compact": 2.0,
            "isolate": 0.3,
            "kill": 0.2,
            "power loss": 0.3,
        },
        slow_apply=0.05,
    ),
    # Nobody stays where it was.
    "moving": Mixture(
        {"moved": 0.6, "kill": 0.2, "isolate": 0.2, "transfer": 0.3, "compact": 1.0, "odd requests": 0.5},
        late=0.05,
    ),
    # What is large travels while those who send and fetch it die.
    "snapshots": Mixture(
        {
            "kill": 0.3,
            "isolate": 0.5,
            "compact": 4.0,
            "crash while installing": 8.0,
            "crash while sending": 4.0,
            "reset connections": 1.0,
            "remove and rejoin": 0.2,
        }
    ),
    # Bits turn.
    "rot": Mixture({"rot": 0.5, "kill": 0.3, "compact": 1.0, "wipe": 0.1}),
}


def mixture(rng: random.Random, only: list[str] | None = None) -> Mixture:
    """A profile in some seeds; else each kind is in about one of three, so that most combine several; few have all."""
    profile = rng.choice(list(PROFILES))
    if rng.random() < PROFILE_SHARE and only is None:
        return replace(PROFILES[profile], rates=dict(PROFILES[profile].rates))
    chosen = only if only is not None else [n for n in ATLAS if n not in OWN_DRAW and rng.random() < 0.35]

    def maybe(value: float) -> float:
        return value * rng.uniform(0.1, 1.0) if rng.random() < 0.5 else 0.0

    return Mixture(
        rates={name: ATLAS[name].per_s * rng.uniform(0.2, 1.0) for name in chosen},
        loss=maybe(0.1),
        duplicate=maybe(0.1),
        late=maybe(0.1),
        late_segment=maybe(0.05),
        slow_apply=maybe(0.03),
    )
