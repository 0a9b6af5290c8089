"""Looking at one daemon: small blocking HTTP requests made inside a host's network namespace."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import ssl
import struct
from pathlib import Path

from deploy import namespaces

TIMEOUT = 1.0


class _Dialled(http.client.HTTPConnection):
    """An HTTP connection over a socket that somebody else opened."""

    def __init__(self, address: str, sock: socket.socket) -> None:
        super().__init__(address)
        self.sock = sock


def dial(namespace: str | Path, address: str, port: int, timeout: float = TIMEOUT) -> socket.socket:
    """A TCP connection made inside the network namespace at `namespace`. Raises OSError."""
    sock = namespaces.socket_in(namespace, socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def fetch(
    namespace: str | Path,
    address: str,
    port: int,
    path: str,
    context: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
) -> tuple[int, bytes]:
    """GET `path`; the status code and body. `timeout` in seconds is for each step. Raises OSError,
    http.client.HTTPException.
    """
    sock: socket.socket = dial(namespace, address, port, timeout)
    with sock:
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=address)
        connection = _Dialled(address, sock)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def lacking(
    namespace: str | Path, address: str, port: int, path: str, context: ssl.SSLContext | None = None
) -> str | None:
    """None when `path` answers 200, else what is wrong in a few words."""
    try:
        status, body = fetch(namespace, address, port, path, context)
    except (OSError, http.client.HTTPException) as error:
        return f"{address}:{port}{path}: {error or type(error).__name__}"
    if status == 200:
        return None
    return f"{address}:{port}{path}: {status} {body[:200].decode(errors='replace').strip()}"


def etcd_lacking(namespace: str | Path) -> str | None:
    """None when the member on this host says, on its metrics port, that it is part of a working cluster."""
    try:
        status, body = fetch(namespace, "127.0.0.1", 2381, "/health")
        healthy = str(json.loads(body).get("health")).lower() == "true"
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        return f"127.0.0.1:2381/health: {error or type(error).__name__}"
    return None if status == 200 and healthy else f"/health: {body[:200].decode(errors='replace').strip()}"


def dns_query(name: str, identifier: int) -> bytes:
    """A question for the IPv4 addresses of `name`, recursion desired (RFC 1035 section 4.1)."""
    header = struct.pack(">HHHHHH", identifier, 0x0100, 1, 0, 0, 0)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return header + labels + b"\0" + struct.pack(">HH", 1, 1)


def dns_lacking(namespace: str | Path, server: str, name: str) -> str | None:
    """None when the DNS server at `server`, asked over UDP from inside `namespace`, knows an address of
    `name`."""
    identifier = secrets.randbelow(1 << 16)
    with namespaces.socket_in(namespace, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.3)
        try:
            sock.connect((server, 53))
            sock.send(dns_query(name, identifier))
            answer = sock.recv(1500)
        except OSError as error:
            return f"{name} at {server}: {error or type(error).__name__}"
    if len(answer) < 12:
        return f"{name} at {server}: the answer is too short"
    echoed, flags, _, count = struct.unpack(">HHHH", answer[:8])
    if echoed != identifier or flags & 0xF or count == 0:
        return f"{name} at {server}: code {flags & 0xF}, {count} answers"
    return None
