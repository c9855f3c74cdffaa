"""dqlite-wire as a judge of our bytes; a program for a Python that has it (3.13 or later), not for our tests' own.

`python oracle.py golden`: prints what dqlite-wire makes of the messages below, "name direction hex" a line
(golden.txt). `python oracle.py echo`: reads "direction hex" lines, prints each as dqlite-wire decodes it and encodes
it again. Direction is > for requests, < for responses.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from dqlitewire import messages as m
from dqlitewire.codec import REQUEST_TYPES, RESPONSE_TYPES
from dqlitewire.constants import NodeRole, ValueType
from dqlitewire.exceptions import ProtocolError
from dqlitewire.messages.base import Header

PARAMS = [1, -5, 2.5, "täxt", b"\x00\x01\x02", None, True]


def golden() -> Iterator[tuple[str, str, Any]]:
    yield "leader", ">", m.LeaderRequest()
    yield "client", ">", m.ClientRequest(7)
    yield "open", ">", m.OpenRequest("app", 0, "volatile")
    yield "prepare", ">", m.PrepareRequest(0, "SELECT ?")
    yield "prepare with tail", ">", m.PrepareRequest(0, "SELECT 1; SELECT 2", schema=1)
    yield "exec", ">", m.ExecRequest(0, 3, PARAMS)
    yield "exec of many", ">", m.ExecRequest(0, 3, list(range(300)))
    yield "query", ">", m.QueryRequest(0, 4, ["x"])
    yield "finalize", ">", m.FinalizeRequest(0, 3)
    yield "exec_sql", ">", m.ExecSqlRequest(0, "INSERT INTO t VALUES (?)", [1])
    yield "query_sql", ">", m.QuerySqlRequest(0, "SELECT 1", [])
    yield "interrupt", ">", m.InterruptRequest(0)
    yield "add", ">", m.AddRequest(3, "10.0.0.3:9001")
    yield "assign", ">", m.AssignRequest(3, NodeRole.STANDBY)
    yield "remove", ">", m.RemoveRequest(3)
    yield "dump", ">", m.DumpRequest("app")
    yield "cluster", ">", m.ClusterRequest(1)
    yield "transfer", ">", m.TransferRequest(2)
    yield "describe", ">", m.DescribeRequest(0)
    yield "weight", ">", m.WeightRequest(5)
    yield "failure", "<", m.FailureResponse(2067, "UNIQUE constraint failed: t.a")
    yield "server", "<", m.LeaderResponse(2, "10.0.0.2:9001")
    yield "no leader", "<", m.LeaderResponse(0, "")
    yield "welcome", "<", m.WelcomeResponse(15000)
    nodes = [m.NodeInfo(1, "10.0.0.1:9001", NodeRole.VOTER), m.NodeInfo(2, "10.0.0.2:9001", NodeRole.SPARE)]
    yield "servers", "<", m.ServersResponse(nodes)
    yield "db", "<", m.DbResponse(0)
    yield "stmt", "<", m.StmtResponse(0, 3, 2)
    yield "stmt with tail", "<", m.StmtResponse(0, 3, 2, tail_offset=10)
    yield "result", "<", m.ResultResponse(42, 3)
    yield "rows", "<", m.RowsResponse(["a", "b", "c"], rows=[[1, "x", None], [2.5, b"abc", -7]])
    yield "more rows", "<", m.RowsResponse(["a"], rows=[[1]], has_more=True)
    times = [ValueType.UNIXTIME, ValueType.ISO8601, ValueType.BOOLEAN]
    yield (
        "rows by declared type",
        "<",
        m.RowsResponse(["u", "i", "b"], row_types=[times], rows=[[1700000000, "2026-11-28 08:00:00", True]]),
    )
    yield "empty", "<", m.EmptyResponse()
    yield "files", "<", m.FilesResponse({"app": bytes(range(16)), "app-wal": b""})
    yield "metadata", "<", m.MetadataResponse(4, 9)


def echo(direction: str, raw: bytes) -> str:
    head, body = Header.decode(raw[:8]), raw[8:]
    kind = (REQUEST_TYPES if direction == ">" else RESPONSE_TYPES)[head.msg_type]
    return str(kind.decode_body(body, head.schema).encode().hex())


if sys.argv[1] == "golden":
    for name, direction, message in golden():
        print(f"{name.replace(' ', '_')} {direction} {message.encode().hex()}")
else:
    for line in sys.stdin:
        direction, text = line.split()
        try:
            print(echo(direction, bytes.fromhex(text)))
        except ProtocolError as error:
            print(f"{type(error).__name__}: {error}".replace("\n", " "))
