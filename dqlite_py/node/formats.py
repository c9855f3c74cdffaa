"""Which formats of what is replicated the members read: a newer one is written only when all of them do.

A node names its formats when it is asked (`raft.formats`, `status`) and when it joins; a release that does not know the
question reads the first versions. Loop thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from dqlite_py.errors import Error, MemberRefused, MembershipRefused, NotSupportedError
from dqlite_py.model import Configuration, NodeId
from dqlite_py.raft.membership import CONFIGURATION_VERSION
from dqlite_py.raft.rpc import RpcError

FORMATS: Final = {"configuration": CONFIGURATION_VERSION}
ASK_S: Final = 2.0

Call = Callable[[NodeId, str, Any, float], Awaitable[Any]]


def configuration_format(formats: Any) -> int:
    """What a node that says this reads."""
    value = formats.get("configuration") if isinstance(formats, dict) else None
    return value if type(value) is int and value > 0 else 1


async def check_members_read(new: Configuration, me: NodeId, call: Call) -> None:
    """Raise MembershipRefused, naming who, unless every member of `new` reads its format."""
    if new.format == 1:
        return
    others = [member.id for member in new.members if member.id != me]
    answers = await asyncio.gather(*(_ask(node_id, call) for node_id in others))
    for node_id, answer in zip(others, answers, strict=True):
        if isinstance(answer, str):
            raise MembershipRefused(
                f"this needs configurations of format {new.format}, and whether member {node_id} reads them is not "
                f"known: {answer}",
                member=node_id,
            )
        if answer < new.format:
            raise MembershipRefused(
                f"this needs configurations of format {new.format}; member {node_id} reads format {answer} only: "
                "upgrade it first",
                member=node_id,
            )


async def _ask(node_id: NodeId, call: Call) -> int | str:
    try:
        return configuration_format(await call(node_id, "raft.formats", {}, ASK_S))
    except NotSupportedError:
        return 1  # it does not know the question
    except (Error, RpcError) as error:
        return str(error)


def check_joiner_reads(wanted: int, formats: Any) -> None:
    """Raise MemberRefused unless who says `formats` reads configurations of format `wanted`."""
    if configuration_format(formats) < wanted:
        raise MemberRefused(
            f"this cluster's configuration has format {wanted}, which the joining node does not read: "
            "upgrade it first"
        )
