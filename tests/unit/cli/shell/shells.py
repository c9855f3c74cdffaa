"""A shell's session over a gateway of the test: what it wrote, and what it said."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dqlite_py.cli.members import Asked
from dqlite_py.cli.remote import Remote
from dqlite_py.cli.shell.formats import Look
from dqlite_py.cli.shell.output import Output
from dqlite_py.cli.shell.session import Session
from dqlite_py.dbapi import connect
from dqlite_py.model import Address
from tests.support.fakegateway import FakeGateway

SERVER = Address("127.0.0.1:1")


class Shell:
    def __init__(
        self, gateway: FakeGateway, *, servers: tuple[Address, ...] = (SERVER,), **options: Any
    ) -> None:
        self.gateway = gateway
        self.written = io.StringIO()

        def connected(_servers: str, name: str, *, tls: Any, **settings: Any) -> Any:
            return connect(gateway, name, **settings)

        self.session = Session(
            Asked(Remote(), servers, 2.0),
            options.pop("database", "app"),
            look=options.pop("look", Look()),
            output=Output(self.written),
            connect=connected,
            **options,
        )

    def run(self, text: str) -> str:
        """What it writes to stdout."""
        begin = len(self.written.getvalue())
        self.session.run_text(text)
        return self.written.getvalue()[begin:]


@contextmanager
def shell(**options: Any) -> Iterator[Shell]:
    with FakeGateway() as gateway:
        found = Shell(gateway, **options)
        try:
            yield found
        finally:
            found.session.output.close()
            found.session.close()
