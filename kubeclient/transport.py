"""How a client reaches the apiserver: TLS, credentials, timeouts and dead-peer detection, over httpx's
transport.

The transport is used without `httpx.AsyncClient`: its cookies, redirects and header merging cost as much per
request as the rest, and the API needs none of them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from componentbase import tlsutil

Timeout = dict[str, float | None]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_REFRESH = 60.0
"""Seconds a token file's content is used before it is read again; the kubelet rotates it well before it
expires.
"""

# A peer that vanished without a word is noticed within half a minute, also by a watch that only reads.
_SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]
# Below the server's idle limit, so that it is never the server who closes a connection under a request.
_KEEPALIVE_EXPIRY = 60.0


class NotInCluster(Exception):
    """The process does not run in a pod, or the pod has no service account token."""


class TokenFile:
    """A bearer token that is read again from its file now and then."""

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._monotonic = monotonic
        self._token = ""
        self._read_at = float("-inf")

    def __call__(self) -> str:
        """The token. Raises OSError while the file has never been readable."""
        now = self._monotonic()
        if now - self._read_at >= TOKEN_REFRESH:
            try:
                self._token = self._path.read_text(encoding="ascii").strip()
            except OSError:
                if not self._token:
                    raise
            self._read_at = now
        return self._token


@dataclass(frozen=True, slots=True)
class Target:
    """Where the apiserver is and how to be someone there."""

    server: str
    context: ssl.SSLContext | None = None
    token: Callable[[], str] | None = None


def from_kubeconfig(path: str | Path) -> Target:
    """The current context of a kubeconfig. Raises pki.kubeconfig.KubeconfigError, OSError, ssl.SSLError."""
    from pki import kubeconfig

    config = kubeconfig.load(path)
    context = None
    if config.server.startswith("https://"):
        context = tlsutil.client_context(
            config.ca_pem, config.cert_pem, config.key_pem, insecure=config.insecure
        )
    token = config.token
    return Target(config.server, context, (lambda: token) if token else None)


def in_cluster(
    monotonic: Callable[[], float], folder: Path = SERVICE_ACCOUNT, environ: dict[str, str] | None = None
) -> Target:
    """What the kubelet gives every pod: the service's address, the cluster CA and a token. Raises
    NotInCluster.
    """
    env = os.environ if environ is None else environ
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise NotInCluster("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be set")
    token = TokenFile(folder / "token", monotonic)
    try:
        token()
        context = tlsutil.client_context(folder / "ca.crt")
    except OSError as error:
        raise NotInCluster(f"no usable service account in {folder}: {error}") from error
    authority = f"[{host}]" if ":" in host else host
    return Target(f"https://{authority}:{port}", context, token)


def open_transport(context: ssl.SSLContext | None) -> httpx.AsyncHTTPTransport:
    """A pool of kept-alive HTTP/1.1 connections; watches hold theirs, so it has no upper bound of its own."""
    _remember_missing("sniffio")
    return httpx.AsyncHTTPTransport(
        verify=context if context is not None else False,
        trust_env=False,
        limits=httpx.Limits(
            max_connections=None, max_keepalive_connections=32, keepalive_expiry=_KEEPALIVE_EXPIRY
        ),
        socket_options=_SOCKET_OPTIONS,
    )


def _remember_missing(module: str) -> None:
    """Let an import that fails do so at once.

    httpcore tries to import sniffio on every request, twice; where it is not installed, searching the path
    each time took a third of a request's CPU. None in sys.modules is Python's own mark for "known to be
    missing".
    """
    if module not in sys.modules and importlib.util.find_spec(module) is None:
        sys.modules[module] = None  # type: ignore[assignment]


def timeouts(connect: float, read: float) -> Timeout:
    """Per-request limits in seconds, in the form httpcore reads from a request's extensions."""
    return {"connect": connect, "read": read, "write": read, "pool": connect}


async def close(transport: httpx.AsyncBaseTransport) -> None:
    """Close the pool, giving its TLS connections a moment for their goodbyes."""
    try:
        async with asyncio.timeout(5):
            await transport.aclose()
    except (TimeoutError, OSError, RuntimeError):
        pass
