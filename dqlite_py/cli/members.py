"""Changes to the members of a running cluster, for `dqlite-py cluster` and the shell. Main thread.

Each function asks once, raises CommandFailed, and returns what was done, for people and for programs.
"""

from __future__ import annotations

from dataclasses import asdict, astuple
from typing import Any, Final, NamedTuple

from dqlite_py.cli.cluster_view import members_of, number_of
from dqlite_py.cli.exits import CommandFailed, explain
from dqlite_py.cli.remote import Remote
from dqlite_py.client.caller import Status
from dqlite_py.errors import Error
from dqlite_py.model import Address, RoleSettings

ROLES: Final = ("voter", "standby", "spare")
ANSWER_S: Final = 2.0  # of a command's time, for the answer to come


class Asked(NamedTuple):
    """A running cluster, as the options of a command name it."""

    remote: Remote
    servers: tuple[Address, ...]
    timeout_s: float

    def status(self) -> tuple[Address, Status]:
        """What one of the nodes says; raises CommandFailed when none does."""
        try:
            return self.remote.any_status(self.servers, self.timeout_s)
        except Error as error:
            raise CommandFailed(explain(error)) from None

    def change(self, method: str, body: Any, *, at_leader: bool = False) -> Any:
        """Ask for a change, once; raises CommandFailed."""
        address = self.servers[0] if len(self.servers) == 1 else self.status()[0]
        try:
            return self.remote.change(address, method, body, self.timeout_s, at_leader=at_leader)
        except Error as error:
            raise CommandFailed(explain(error)) from None


class Done(NamedTuple):
    """`fields`: the same for a program."""

    text: str
    fields: dict[str, Any]


class Found(NamedTuple):
    id: int
    address: str


def find(asked: Asked, text: str) -> Found:
    """A member of the configuration by its id or address."""
    _address, status = asked.status()
    for member in members_of(status):
        if text in (str(number_of(member, "id")), member.get("address")):
            return Found(number_of(member, "id"), str(member.get("address")))
    raise CommandFailed(
        f"there is no member {text!r:.80}: .cluster, or dqlite-py cluster members, lists them"
    )


def add(asked: Asked, new: Address) -> Done:
    """A running node whose folder belongs to this cluster becomes a member again."""
    address, existing = asked.status()
    try:
        joining = asked.remote.status(new, asked.timeout_s)
    except Error as error:
        raise CommandFailed(explain(error)) from None
    if joining.get("cluster_id") != existing.get("cluster_id"):
        raise CommandFailed(
            f"the node at {new} belongs to another cluster ({joining.get('cluster_id')}): stop it, give it an "
            f"empty folder and start it with --join {address}"
        )
    node_id = joining.get("node_id")
    asked.change("join", {"id": node_id, "address": new, "formats": joining.get("formats")}, at_leader=True)
    return Done(
        f"added {node_id} at {new}; it becomes a voter when it has caught up", {"id": node_id, "address": new}
    )


def remove(asked: Asked, member: int) -> Done:
    asked.change("remove", {"id": member})
    return Done(f"removed {member}", {"removed": member})


def assign(asked: Asked, member: int, role: str) -> Done:
    """One of ROLES. Waits until a new voter has caught up."""
    if role not in ROLES:
        raise CommandFailed(f"there is no role {role!r:.40}: {', '.join(ROLES)}")
    asked.change("assign", {"id": member, "role": role, "timeout_s": max(0.1, asked.timeout_s - ANSWER_S)})
    return Done(f"{member} is a {role} now", {"id": member, "role": role})


def describe(asked: Asked, member: int, weight: int | None, domain: int | None) -> Done:
    fields = {"id": member, "weight": weight, "domain": domain}
    asked.change("describe", fields)
    said = [f"{name} {fields[name]}" for name in ("weight", "domain") if fields[name] is not None]
    return Done(f"{member} has {', '.join(said)} now", fields)


def drain(asked: Asked, member: int) -> Done:
    asked.change("leave", {"id": member, "timeout_s": max(0.1, asked.timeout_s - ANSWER_S)})
    return Done(f"{member} has no vote any more and does not lead: its node may stop", {"drained": member})


def roles(asked: Asked, settings: RoleSettings | None) -> Done:
    """None: every member votes."""
    wire = None if settings is None else list(astuple(settings))
    asked.change("roles", {"settings": wire})
    if settings is None:
        return Done("every member gets a vote", {"settings": None})
    if not settings.automatic:
        return Done("roles change by hand only", asdict(settings))
    return Done(
        f"the leader keeps {settings.voters} voters and {settings.standbys} stand-bys; a member that is gone for "
        f"{settings.gone_after_ms / 1000:g} s is replaced",
        asdict(settings),
    )


def transfer(asked: Asked, member: int | None) -> Done:
    """None: to the most caught-up voter."""
    answer = asked.change("transfer", {} if member is None else {"target": member}, at_leader=True)
    target = answer.get("target") if isinstance(answer, dict) else None
    return Done(f"leadership handed to {target}", {"leader": target})


def set_address(asked: Asked, member: int, new: Address) -> Done:
    """By which the others dial a running member, proved by itself."""
    answer = asked.change("set_address", {"id": member, "address": new})
    advertised = answer.get("advertised") if isinstance(answer, dict) else None
    text = f"member {member} is at {new} now"
    if advertised != new:
        text += f"; itself it says {advertised}: start it with --advertise {new} from now on"
    return Done(text, {"id": member, "address": new, "advertised": advertised})
