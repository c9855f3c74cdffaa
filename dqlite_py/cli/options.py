"""Option types that several commands share: addresses, TLS files. Bad values are named with their option."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dqlite_py.config import TlsSettings
from dqlite_py.errors import InterfaceError
from dqlite_py.model import Address
from dqlite_py.raft.tls import TlsContexts
from dqlite_py.wire.address import split_address

F = TypeVar("F", bound=Callable[..., Any])


class AddressType(click.ParamType[Address]):
    """HOST:PORT; IPv6 hosts in brackets. Port 0 only where the system may choose one."""

    name = "HOST:PORT"

    def __init__(self, *, port_zero: bool = False) -> None:
        self._port_zero = port_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        text = str(value).strip()
        try:
            _host, port = split_address(text)
        except InterfaceError:
            self.fail(f"{text!r} is not HOST:PORT, for example {_example(text)}", param, ctx)
        if port == 0 and not self._port_zero:
            self.fail(f"{text!r} has port 0, which nobody can dial: name the port", param, ctx)
        return Address(text)


class FloatRange(click.FloatRange):
    """A number within bounds; "nan" and "inf", which are beyond comparing, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is no number", param, ctx)
        return found


class AddressListType(click.ParamType[tuple[Address, ...]]):
    """Addresses separated by commas."""

    name = "HOST:PORT,…"

    def __init__(self, *, needed: bool = True) -> None:
        self._needed = needed

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Address, ...]:
        if isinstance(value, (tuple, list)):
            value = ",".join(map(str, value))
        one = AddressType()
        found = tuple(one.convert(part, param, ctx) for part in str(value).split(",") if part.strip())
        if self._needed and not found:
            self.fail("no address is given: write HOST:PORT, for example 10.0.0.1:9001", param, ctx)
        return found


def _example(text: str) -> str:
    host = text.strip("[]").split(":")[0]
    return (
        f"{host}:9001" if host and ":" not in text and not host.isdigit() else "10.0.0.1:9001 or [::1]:9001"
    )


def servers_option(*, required: bool = True) -> Callable[[F], F]:
    """-s/--servers: running nodes of one cluster, as a tuple `servers`."""
    optional: dict[str, Any] = {"required": True} if required else {"default": ()}
    return click.option(
        "-s",
        "--servers",
        "--node",
        "servers",
        **optional,
        type=AddressListType(needed=required),
        help="Running nodes of the cluster; one is enough, the others are found out.",
    )


def timeout_option(default: float, help: str, *, maximum: float = 600) -> Callable[[F], F]:
    """--timeout in seconds, as `timeout_s`."""
    return click.option(
        "--timeout",
        "timeout_s",
        default=default,
        show_default=True,
        metavar="SECONDS",
        type=FloatRange(0.1, maximum),
        help=help,
    )


json_option = click.option("--json", "as_json", is_flag=True, help="As JSON.")


def tls_options(command: F) -> F:
    """--tls-cert, --tls-key and --tls-ca, to be joined by `tls_settings`."""
    for name, text in (
        ("ca", "authority that signed all nodes' certificates (PEM)."),
        ("key", "private key of the certificate (PEM)."),
        ("cert", "this node's certificate (PEM)."),
    ):
        command = click.option(f"--tls-{name}", metavar="FILE", help=f"Mutual TLS: {text}")(command)
    return command


def tls_settings(cert: str | None, key: str | None, ca: str | None) -> TlsSettings | None:
    """All three or none; raises click.UsageError that names what is missing."""
    given = {"--tls-cert": cert, "--tls-key": key, "--tls-ca": ca}
    if not any(given.values()):
        return None
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise click.UsageError(f"TLS needs all three files: {' and '.join(missing)} missing")
    try:
        settings = TlsSettings(str(cert), str(key), str(ca))
        TlsContexts(settings)
    except InterfaceError as error:
        raise click.UsageError(error.message) from None
    except OSError as error:  # ssl.SSLError too: not PEM, or a key of another certificate
        raise click.UsageError(
            f"the files of --tls-cert, --tls-key and --tls-ca do not go together: {error}"
        ) from None
    return settings
