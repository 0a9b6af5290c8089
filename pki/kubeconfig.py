"""kubeconfig files: how a client finds and proves itself to the apiserver (client-go `clientcmd/api/v1`)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class KubeconfigError(ValueError):
    """A kubeconfig that cannot be used; the message names the file and the field."""


@dataclass(frozen=True)
class Kubeconfig:
    """The current context of a kubeconfig, with every file reference resolved to its content."""

    server: str
    ca_pem: bytes | None = None
    cert_pem: bytes | None = None
    key_pem: bytes | None = None
    token: str | None = None
    insecure: bool = False

    def __repr__(self) -> str:
        """Name the server and nothing that is secret."""
        return f"Kubeconfig(server={self.server!r})"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def build(
    cluster_name: str, server: str, ca_pem: bytes, cert_pem: bytes, key_pem: bytes, *, user: str = "default"
) -> dict[str, Any]:
    """A kubeconfig with one cluster, one user, one context, and the PEM data embedded."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster_name,
                "cluster": {"certificate-authority-data": _base64(ca_pem), "server": server},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _base64(cert_pem),
                    "client-key-data": _base64(key_pem),
                },
            }
        ],
        "contexts": [{"name": cluster_name, "context": {"cluster": cluster_name, "user": user}}],
        "current-context": cluster_name,
        "preferences": {},
    }


def dump(document: Mapping[str, Any]) -> bytes:
    """YAML bytes, fields in the order given."""
    return yaml.safe_dump(dict(document), sort_keys=False).encode()


def _named(document: Mapping[str, Any], section: str, name: str, inner: str) -> Mapping[str, Any]:
    for entry in document.get(section) or []:
        if entry.get("name") == name:
            value = entry.get(inner) or {}
            if isinstance(value, Mapping):
                return value
    raise KubeconfigError(f"{section}: no entry named {name!r}")


def _data(entry: Mapping[str, Any], field: str, base: Path) -> bytes | None:
    """`<field>-data` (base64) if given, else the content of the file `<field>` names, relative to the
    kubeconfig."""
    if encoded := entry.get(f"{field}-data"):
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise KubeconfigError(f"{field}-data: not base64") from error
    if name := entry.get(field):
        return (base / str(name)).read_bytes()
    return None


def _refuse_unsupported(user: Mapping[str, Any]) -> None:
    for field in ("exec", "auth-provider", "username", "password", "as"):
        if user.get(field):
            raise KubeconfigError(f"users[].user.{field}: not supported")


def parse(document: Mapping[str, Any], base: Path) -> Kubeconfig:
    """The current context of `document`; relative file names are taken from `base`. Raises KubeconfigError,
    OSError."""
    current = document.get("current-context")
    if not current:
        raise KubeconfigError("current-context: must be set")
    context = _named(document, "contexts", current, "context")
    cluster = _named(document, "clusters", context.get("cluster", ""), "cluster")
    user = _named(document, "users", context["user"], "user") if context.get("user") else {}
    _refuse_unsupported(user)
    if not cluster.get("server"):
        raise KubeconfigError("clusters[].cluster.server: must be set")
    token = user.get("token")
    if not token and (token_file := user.get("tokenFile")):
        token = (base / token_file).read_text().strip()
    return Kubeconfig(
        server=str(cluster["server"]).rstrip("/"),
        ca_pem=_data(cluster, "certificate-authority", base),
        cert_pem=_data(user, "client-certificate", base),
        key_pem=_data(user, "client-key", base),
        token=token,
        insecure=bool(cluster.get("insecure-skip-tls-verify", False)),
    )


def load(path: str | Path) -> Kubeconfig:
    """Read the current context of the kubeconfig at `path`. Raises KubeconfigError (bad content), OSError."""
    path = Path(path)
    try:
        document = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise KubeconfigError(f"{path}: not YAML") from error
    if not isinstance(document, Mapping):
        raise KubeconfigError(f"{path}: not a kubeconfig")
    try:
        return parse(document, path.parent)
    except KubeconfigError as error:
        raise KubeconfigError(f"{path}: {error}") from error
