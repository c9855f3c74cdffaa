"""A program's connections over TLS: both sides show a certificate of one authority, and who does not is told why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py.config import TlsSettings
from dqlite_py.errors import NoLeader
from tests.integration.embedded import embedded_cluster

FILES = Path(__file__).parents[1] / "support" / "tls"
WAIT_S = 30.0


def tls(name: str, ca: str = "ca") -> TlsSettings:
    return TlsSettings(str(FILES / f"{name}.pem"), str(FILES / f"{name}.key"), str(FILES / f"{ca}.pem"))


@pytest.fixture
def node(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[dqlite_py.Node]:
    caplog.set_level(logging.CRITICAL)  # refused connections are logged
    with embedded_cluster(tmp_path, 1, tls=tls("node")) as [made]:
        yield made


def refusal(address: str, **options: Any) -> str:
    with pytest.raises(NoLeader) as caught:
        dqlite_py.connect(f"{address}/app", timeout=1.0, **options)
    assert caught.value.message.count(f"{address}: ") == 1
    return caught.value.message


def test_reads_and_writes_of_programs(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path, 2, tls=tls("node")) as nodes:
        _read_and_write(",".join(node.address for node in nodes))


def _read_and_write(addresses: str) -> None:
    large = bytes(range(256)) * 8000  # several TLS records, and several frames
    with dqlite_py.connect(f"{addresses}/app", tls=tls("node"), timeout=WAIT_S) as connection:
        assert connection.server.name == "dqlite-py"
        connection.execute("CREATE TABLE t (a, b)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(number, large) for number in range(5)])
        connection.commit()
        assert connection.execute("SELECT a, b FROM t").fetchall() == [(n, large) for n in range(5)]
        connection.execute("UPDATE t SET b = NULL")
        connection.rollback()
        assert connection.execute("SELECT count(b) FROM t").fetchone() == (5,)

    async def same() -> Any:
        target = dqlite_py.connect_async(f"{addresses}/app", tls=tls("node"), timeout=WAIT_S)
        async with target as other:
            return await (await other.execute("SELECT max(a) FROM t")).fetchone()

    assert asyncio.run(same()) == (4,)


def test_a_certificate_of_another_authority_is_refused_by_the_node(node: dqlite_py.Node) -> None:
    assert "this program's certificate" in refusal(node.address, tls=tls("stranger"))


def test_a_node_of_another_authority_is_refused_by_the_program(node: dqlite_py.Node) -> None:
    assert "TLS handshake failed: " in refusal(node.address, tls=tls("node", "other-ca"))


def test_a_program_without_tls(node: dqlite_py.Node) -> None:
    assert "it may require TLS" in refusal(node.address)


def test_a_node_without_tls(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path, 1) as [node]:
        assert "is the node configured without TLS?" in refusal(node.address, tls=tls("node"))
