"""Linearizability of histories: `check_register`, `check_model`, and the data types they know."""

from __future__ import annotations

from jepsen.checkers.linearizable.check import by_key, check_model, check_register
from jepsen.checkers.linearizable.model import ILLEGAL, Call, Model
from jepsen.checkers.linearizable.models import Counter, FifoQueue, GrowSet, MultiRegister, Mutex, Register

__all__ = [
    "ILLEGAL",
    "Call",
    "Counter",
    "FifoQueue",
    "GrowSet",
    "Model",
    "MultiRegister",
    "Mutex",
    "Register",
    "by_key",
    "check_model",
    "check_register",
]
