"""Configurations: their bytes, their history along the log, and which changes are safe. Pure; no I/O.

The configuration in force is the latest in log or snapshot, from the moment it is appended (thesis 4.1); it
goes back when its entry is truncated. Changes touch one member at a time, hence at most one voter, so that
old and new majorities overlap. CONFIGURATION payload: msgpack [1, rows] or [2, rows, settings], the oldest that can say
it (model.Configuration has both forms).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgpack

from dqlite_py.errors import MalformedMessage, MembershipRefused, UnknownFormat
from dqlite_py.model import Address, Configuration, Entry, LogIndex, Member, NodeId, Role

CONFIGURATION_VERSION = 2  # the newest that is read


def encode_configuration(configuration: Configuration) -> bytes:
    wire = configuration.to_wire()
    return bytes(msgpack.packb([1, wire] if configuration.format == 1 else wire, use_bin_type=True))


def decode_configuration(entry: Entry) -> Configuration:
    """The configuration that a CONFIGURATION entry holds; raises MalformedMessage or UnknownFormat."""
    try:
        value = msgpack.unpackb(entry.payload, raw=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as error:
        raise MalformedMessage(f"configuration entry {entry.index}: {error}", what="configuration") from None
    if not (isinstance(value, list) and value):
        raise MalformedMessage(
            f"configuration entry {entry.index} is not [version, ...]", what="configuration"
        )
    if type(value[0]) is not int or not 0 < value[0] <= CONFIGURATION_VERSION:
        raise UnknownFormat(
            f"configuration format {value[0]!r} in entry {entry.index} is not known to this release "
            f"(it knows 1 to {CONFIGURATION_VERSION})",
            version=repr(value[0])[:40],
        )
    if len(value) != 1 + value[0]:
        raise MalformedMessage(
            f"configuration entry {entry.index} of version {value[0]} has {len(value)} fields",
            what="configuration",
        )
    return Configuration.from_wire(value[1] if value[0] == 1 else value, entry.index)


class ConfigurationHistory:
    """The snapshot's configuration and every later one in the log, oldest first.

    `format`: the newest of what the log holds, also before the snapshot, or held: whoever is sent it must read that.
    """

    __slots__ = ("_history", "format", "latest", "voters")

    def __init__(
        self, base: Configuration, later: Iterable[Configuration], earlier: Iterable[Configuration] = ()
    ) -> None:
        self._history = [base, *later]
        self.format = max(c.format for c in (*self._history, *earlier))
        self._look_up()

    def _look_up(self) -> None:
        self.latest = self._history[-1]
        self.voters = self.latest.voters  # kept: asked for with every acknowledgement

    def at(self, index: LogIndex) -> Configuration:
        """The configuration of the state at `index` (the base's, below it)."""
        for configuration in reversed(self._history):
            if configuration.index <= index:
                return configuration
        return self._history[0]

    def has_voted_since(self, node_id: NodeId, index: LogIndex) -> bool:
        """Whether `node_id` is a voter in the configuration of the state at `index`, or in any later one."""
        for configuration in reversed(self._history):
            if node_id in configuration.voters:
                return True
            if configuration.index <= index:
                return False
        return False

    def holds(self, node_id: NodeId) -> bool:
        """Whether `node_id` is a member in any of them."""
        return any(configuration.get(node_id) is not None for configuration in self._history)

    def appended(self, configuration: Configuration) -> None:
        self._history.append(configuration)
        self.format = max(self.format, configuration.format)
        self._look_up()

    def truncated(self, index: LogIndex) -> bool:
        """Entries >= `index` went; True when the configuration in force changed."""
        before = len(self._history)
        while len(self._history) > 1 and self._history[-1].index >= index:
            self._history.pop()
        self._look_up()
        return len(self._history) != before

    def rebased(self, base: Configuration, index: LogIndex, *, keep_later: bool) -> None:
        """The snapshot is now at `index` with configuration `base`; later ones stay with the log's suffix."""
        later = [c for c in self._history if c.index > index] if keep_later else []
        self._history = [base, *later]
        if not keep_later:
            self.format = base.format
        self._look_up()


def check_change(current: Configuration, new: Configuration, members_max: int) -> Member | None:
    """Raise MembershipRefused unless exactly one member differs, or the settings only; returns its new entry (None:
    removed, or settings).

    Addresses of several may change at once, when nothing else does: they are no part of a quorum.
    """
    changed = {m.id for m in set(current.members) ^ set(new.members)}
    if new.settings != current.settings:
        if changed:
            raise MembershipRefused("members and settings cannot change together")
        return None
    if not changed:
        raise MembershipRefused("the configuration would not change")
    if len(changed) > 1 and not _only_addresses_differ(current, new):
        raise MembershipRefused(
            f"one member may change at a time, not {len(changed)}: {sorted(changed)}", members=len(changed)
        )
    if not new.voters:
        raise MembershipRefused("the last voter cannot be removed or demoted")
    if len(new.members) > members_max:
        raise MembershipRefused(f"a cluster has at most {members_max} members")
    if len({m.id for m in new.members}) != len(new.members):
        raise MembershipRefused("a member is listed twice")
    if len({m.address for m in new.members}) != len(new.members):
        raise MembershipRefused("two members would have the same address")
    try:
        Configuration.from_wire(new.to_wire())
    except MalformedMessage as error:
        # Once in the log, every member would have to refuse it.
        raise MembershipRefused(f"not a valid configuration: {error}") from None
    return new.get(min(changed))


def _only_addresses_differ(current: Configuration, new: Configuration) -> bool:
    def rest(configuration: Configuration) -> list[Member]:
        return [replace(member, address=Address("")) for member in configuration.members]

    return rest(current) == rest(new)


def is_new_voter(current: Configuration, node_id: NodeId, member: Member | None) -> bool:
    """True when the change gives `node_id` a vote that it does not have."""
    return member is not None and member.role is Role.VOTER and node_id not in current.voters
