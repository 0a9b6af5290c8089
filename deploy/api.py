"""The administrator's view of the API from outside: a small blocking client over the generated kubeconfig.

Blocking, because its callers are a command line and the single-threaded `up`, which must not start an event
loop before it has forked the hosts.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import tempfile
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pki.kubeconfig import Kubeconfig, load

TIMEOUT = 5.0


class Unreachable(Exception):
    """No answer from the API; says why."""


class APIError(Exception):
    """The API refused a request."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


# Where the objects of the add-ons live: kind -> (path prefix, plural, namespaced).
KINDS: Mapping[str, tuple[str, str, bool]] = {
    "Namespace": ("/api/v1", "namespaces", False),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True),
    "Service": ("/api/v1", "services", True),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices", True),
    "APIService": ("/apis/apiregistration.k8s.io/v1", "apiservices", False),
    "Deployment": ("/apis/apps/v1", "deployments", True),
    "DaemonSet": ("/apis/apps/v1", "daemonsets", True),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings", True),
    "StorageClass": ("/apis/storage.k8s.io/v1", "storageclasses", False),
}


def collection_path(kind: str, namespace: str | None) -> str:
    """The URL path of a kind's collection. Raises ValueError for a kind that add-ons may not contain."""
    if kind not in KINDS:
        raise ValueError(f"add-on of kind {kind!r}: not one of {', '.join(KINDS)}")
    prefix, plural, namespaced = KINDS[kind]
    return f"{prefix}/namespaces/{namespace or 'default'}/{plural}" if namespaced else f"{prefix}/{plural}"


def tls_context(config: Kubeconfig) -> ssl.SSLContext:
    """Verify the server by the kubeconfig's CA; prove ourselves by its certificate."""
    context = ssl.create_default_context(cadata=(config.ca_pem or b"").decode())
    if config.cert_pem and config.key_pem:
        # The ssl module loads keys from files only; this one is unlinked before anybody could look.
        with tempfile.NamedTemporaryFile(prefix="hardway-") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(config.key_pem + b"\n" + config.cert_pem)
            file.flush()
            context.load_cert_chain(file.name)
    return context


@dataclass
class Api:
    """One server, dialled anew after every failure; a connection is kept between requests."""

    address: str
    port: int
    context: ssl.SSLContext
    _connection: http.client.HTTPSConnection | None = None

    @classmethod
    def from_kubeconfig(cls, path: Path) -> Api:
        """The client of a kubeconfig's current context. Raises KubeconfigError, OSError."""
        config = load(path)
        url = urllib.parse.urlsplit(config.server)
        return cls(url.hostname or "", url.port or 443, tls_context(config))

    def request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> Any:
        """One request; the decoded JSON (or text) of a 2xx answer. Raises Unreachable, APIError."""
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self.address, self.port, timeout=TIMEOUT, context=self.context
            )
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "User-Agent": "hardway"}
        if data is not None:
            headers["Content-Type"] = content_type
        try:
            self._connection.request(method, path, body=data, headers=headers)
            response = self._connection.getresponse()
            payload = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(str(error) or type(error).__name__) from error
        return _decode(response.status, payload)

    def get(self, path: str) -> Any:
        """GET. Raises Unreachable, APIError."""
        return self.request("GET", path)

    def apply(self, obj: Mapping[str, Any]) -> bool:
        """Create the object, or merge it into the one that is there; say whether it was created."""
        metadata = obj["metadata"]
        path = collection_path(str(obj["kind"]), metadata.get("namespace"))
        name = urllib.parse.quote(str(metadata["name"]))
        try:
            self.request("PATCH", f"{path}/{name}", obj, "application/merge-patch+json")
        except APIError as error:
            if error.code != 404:
                raise
            self.request("POST", path, obj)
            return True
        return False

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _decode(status: int, payload: bytes) -> Any:
    try:
        document = json.loads(payload)
    except ValueError:
        document = payload.decode(errors="replace")
    if 200 <= status < 300:
        return document
    message = document.get("message", "") if isinstance(document, dict) else str(document)[:200]
    raise APIError(status, message)
