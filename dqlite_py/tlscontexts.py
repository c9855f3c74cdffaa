"""TLS for the cluster's one port: both sides show a certificate of the cluster's authority."""

from __future__ import annotations

import ssl

from dqlite_py.config import TlsSettings


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """For who accepts; raises ssl.SSLError or OSError for unusable files."""
    return _context(ssl.PROTOCOL_TLS_SERVER, settings)


def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """For who dials: the host must be in the other side's certificate. Raises as `server_context`."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, settings)
    context.check_hostname = True
    return context


def _context(protocol: int, settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(settings.cert, settings.key)
    context.load_verify_locations(settings.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
