"""dqlite's protocol inside TLS: decided before the protocol is, with certificates on both sides."""

from __future__ import annotations

import contextlib
import logging
import ssl
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.config import TlsSettings
from dqlite_py.wire.dqlite.requests import RequestType
from dqlite_py.wire.dqlite.responses import Empty
from dqlite_py.wire.dqlite.rows import RowsBatch
from dqlite_py.wire.dqlite.values import typed
from tests.integration.test_dqlite_sql import COUNTING
from tests.support.dqliteclient import DqliteClient

FILES = Path(__file__).parents[1] / "support" / "tls"


def test_clients_over_tls_and_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    tls = TlsSettings(cert=str(FILES / "node.pem"), key=str(FILES / "node.key"), ca=str(FILES / "ca.pem"))
    context = ssl.create_default_context(cafile=str(FILES / "ca.pem"))
    context.load_cert_chain(FILES / "node.pem", FILES / "node.key")
    with dqlite_py.Node(tmp_path / "node", tls=tls) as node:
        node.wait_ready()
        with DqliteClient(node.address, database="app", tls=context) as client:
            client.done("CREATE TABLE t (a)")
            assert client.done("INSERT INTO t VALUES (zeroblob(3000000))")[1] == 1
            assert client.values("SELECT length(a), a FROM t") == [(3_000_000, bytes(3_000_000))]
            client.send(RequestType.QUERY_SQL, 0, COUNTING, (typed(10**12),))
            assert isinstance(client.receive(), RowsBatch)
            client.send(RequestType.INTERRUPT, 0)
            while isinstance(answer := client.receive(), RowsBatch):
                assert not answer.is_last
            assert answer == Empty()
        with DqliteClient(node.address) as client:
            with contextlib.suppress(ConnectionError):
                client.send(RequestType.LEADER, 0)
            assert client.is_closed_by_server()
        assert node.status()["dqlite"]["accepted"] == 1
