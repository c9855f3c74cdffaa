"""Malformed RPC bodies: each is answered with a clear error, and the node goes on."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py.errors import Error, MalformedMessage, NotSupportedError, Outcome
from tests.integration.cluster import Client

METHODS = (
    "sql.write",
    "sql.read",
    "sql.open",
    "sql.drop",
    "sql.execute",
    "sql.resolve",
    "sql.query",
    "sql.fetch",
    "sql.begin_read",
    "sql.interrupt",
    "sql.close",
    "sql.is_read",
    "tx.begin",
    "tx.run",
    "tx.commit",
    "tx.rollback",
    "tx.interrupt",
    "state.hash",
    "state.hash_at",
    "state.suspect",
    "raft.read_index",
    "raft.configuration",
    "leader.write",
    "leader.open",
    "leader.drop",
    "leader.remove",
    "leader.address",
    "remove",
    "transfer",
    "join",
    "status",
    "members",
    "snapshot.begin",
    "snapshot.chunk",
    "no.such.method",
)
BODIES: tuple[Any, ...] = (
    {},
    None,
    7,
    "text",
    [],
    {"database": 5},
    {"database": "../etc", "unit": b"", "sql": "SELECT 1"},
    {"database": "app", "unit": b"\xc1", "sql": "SELECT 1", "params": 3},
    {"database": "app", "sql": "SELECT ?", "params": [], "level": "strong"},
    {"database": "app", "sql": "SELECT 1", "timeout_s": -1, "unit": b"\x93\xc0\x00\x90"},
    {"database": "app", "units": []},
    {"database": "app", "units": [b"\xc1", 7]},
    {"database": "app", "units": [b"\x93\xc0\x00\x90"]},
    {"id": -1, "address": "nonsense", "index": "x", "hash": None, "target": "x"},
    {"id": 2**63, "address": "", "index": -1, "database": "app", "hash": 1},
    {"id": bytes(16), "database": "app", "sql": "SELECT 1", "params": [[]], "body": b"\x90", "key": [1, 2]},
    {"id": bytes(16), "database": "app", "sql": "SELECT 1", "transaction": bytes(16), "key": bytes(16)},
    {
        "id": bytes(16),
        "database": "app",
        "sql": "x",
        "log_index": -1,
        "body": b"",
        "idle_s": -1,
        "hold_s": "x",
    },
    {"id": bytes(16), "database": "app", "wait_s": 0, "idle_s": 1e300, "hold_s": float("nan")},
    {"id": bytes(15), "database": "app", "timeout_s": float("nan"), "max_staleness_s": "x"},
)


def test_every_method_survives_every_body(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    try:
        with dqlite_py.Node(tmp_path / "n") as node:
            node.wait_ready()
            connection = node.connect("app", isolation_level=None)
            connection.execute("CREATE TABLE t(v)")
            for method in METHODS:
                for body in BODIES:
                    with contextlib.suppress(Error):  # any other exception fails the test
                        client.call(node.address, method, body, timeout_s=5.0)
            assert isinstance(client.call(node.address, "raft.read_index"), int)  # it is heard as a node
            assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
            assert node.status()["healthy"]
            assert [member["id"] for member in node.members()] == [node.node_id]
            again = node.connect("app", isolation_level=None)  # one body was a valid sql.drop
            again.execute("CREATE TABLE IF NOT EXISTS t(v)")
            again.execute("INSERT INTO t VALUES (1)")
    finally:
        client.close()


def test_refusals_name_the_field(tmp_path: Path) -> None:
    client = Client()
    try:
        with dqlite_py.Node(tmp_path / "n") as node:
            node.wait_ready()
            for method, body, words, kind in (
                ("sql.write", {"database": "app", "unit": "text"}, "unit", MalformedMessage),
                ("sql.write", {"database": "a/b", "unit": b""}, "a/b", MalformedMessage),
                (
                    "sql.read",
                    {"database": "app", "sql": "SELECT 1", "level": "strong"},
                    "strong",
                    NotSupportedError,
                ),
                ("no.such.method", {}, "no.such.method", NotSupportedError),
            ):
                with pytest.raises(kind, match=words) as caught:
                    client.call(node.address, method, body)
                assert caught.value.outcome is Outcome.NOT_APPLIED
    finally:
        client.close()
