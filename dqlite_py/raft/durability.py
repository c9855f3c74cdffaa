"""Which parts of the log and of the hard state are on disk. Tokens name journal batches; no I/O.

Batches become durable in the order submitted, so the disk always holds a prefix of this node's history. A
message that tells of something may leave once the batch holding it is durable; then it stays true whatever
came later.
"""

from __future__ import annotations

from collections import deque

from dqlite_py.errors import RaftInvariantBroken
from dqlite_py.model import LogIndex, NodeId
from dqlite_py.raft.effects import Effects
from dqlite_py.raft.messages import Message


class Durability:
    """Token bookkeeping of one core."""

    __slots__ = ("_batches", "_hard_token", "_held", "_next_token", "_persisted_token", "durable_index")

    def __init__(self, durable_index: LogIndex) -> None:
        self.durable_index = durable_index  # entries of today's log up to here are on disk
        self._next_token = 1
        self._persisted_token = 0
        self._hard_token = 0  # the batch with the newest hard state
        self._batches: deque[tuple[int, LogIndex]] = deque()  # (token, last index once it is durable)
        self._held: deque[tuple[int, NodeId, Message]] = deque()

    @property
    def hard_state_durable(self) -> bool:
        return self._hard_token <= self._persisted_token

    def hard_state_changed(self) -> None:
        self._hard_token = self._next_token

    def truncated(self, index: LogIndex) -> None:
        last = LogIndex(index - 1)
        self.durable_index = min(self.durable_index, last)
        self._batches = deque((token, min(reached, last)) for token, reached in self._batches)

    def reset(self) -> None:
        """The whole log was replaced: nothing of the new one is durable yet."""
        self.durable_index = LogIndex(0)
        self._batches.clear()

    def close_batch(self, last_index: LogIndex) -> int:
        """The effects being built become one journal batch; returns its token."""
        token = self._next_token
        self._next_token = token + 1
        self._batches.append((token, last_index))
        return token

    def send(self, effects: Effects, peer: NodeId, message: Message) -> None:
        """Send once the hard state is durable that `message` may reveal."""
        if self._hard_token <= self._persisted_token:
            effects.messages.append((peer, message))
        elif self._hard_token == self._next_token:
            effects.messages_when_durable.append((peer, message))
        else:
            self._held.append((self._hard_token, peer, message))

    def persisted(self, token: int, effects: Effects) -> None:
        """Batches up to `token` are durable."""
        if not self._persisted_token < token < self._next_token:
            raise RaftInvariantBroken(
                f"batch {token} reported durable; durable up to {self._persisted_token}, next is {self._next_token}"
            )
        self._persisted_token = token
        batches = self._batches
        while batches and batches[0][0] <= token:
            self.durable_index = batches.popleft()[1]
        while self._held and self._held[0][0] <= token:
            _, peer, message = self._held.popleft()
            effects.messages.append((peer, message))
