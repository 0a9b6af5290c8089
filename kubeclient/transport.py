"""Which apiserver a client speaks to, and who it is there: from a kubeconfig or from the pod it runs in."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from componentbase import tlsutil
from kubeclient.http1.message import Transport
from kubeclient.http1.pool import Pool

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_REFRESH = 60.0
"""Seconds a token file's content is used before it is read again; the kubelet rotates it well before it
expires.
"""


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


def open_transport(target: Target) -> Transport:
    """Connections to the target's server, opened as they are needed. Raises ValueError for a bad URL."""
    return Pool(target.server, target.context)
