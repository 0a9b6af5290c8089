"""Two ways to be a user: kubectl where one is installed, and curl with the certificates of a kubeconfig."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote, urlencode

from pki.kubeconfig import load

Object = dict[str, Any]
TIMEOUT = 60.0


class Failed(Exception):
    """A command did not do what it was asked; the text is its output."""


def run(argv: Sequence[str], *, stdin: str = "", timeout: float = TIMEOUT) -> str:
    """Run a program to its end and return what it printed. Raises Failed."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"{argv[0]}: no end within {timeout:g}s") from None
    if done.returncode != 0:
        raise Failed((done.stderr or done.stdout).strip() or f"{argv[0]} ended with {done.returncode}")
    return done.stdout


class Client(Protocol):
    """What the checklist needs of a client."""

    name: str

    def create(self, path: str, manifest: Object) -> None: ...

    def get(self, path: str) -> Object: ...

    def delete(self, path: str) -> None: ...

    def logs(self, namespace: str, pod: str) -> str: ...

    def execute(self, namespace: str, pod: str, argv: Sequence[str]) -> str: ...


class Curl:
    """curl with a client certificate; the paths are those of the API."""

    name = "curl"

    def __init__(self, kubeconfig: Path, *, server: str = "") -> None:
        config = load(kubeconfig)
        self._server = server or config.server
        self._folder = tempfile.TemporaryDirectory(prefix="hardway-")
        home = Path(self._folder.name)
        self._tls: list[str] = []
        parts = {"cacert": config.ca_pem, "cert": config.cert_pem, "key": config.key_pem}
        for option, pem in parts.items():
            if pem:
                (home / option).touch(mode=0o600)
                (home / option).write_bytes(pem)
                self._tls += [f"--{option}", str(home / option)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def request(self, method: str, path: str, body: Object | None = None) -> tuple[int, str]:
        """Status code and body of any request."""
        argv = ["curl", "--silent", "--show-error", "--max-time", "45", "--request", method, *self._tls]
        argv += ["--write-out", "\n%{http_code}", self._server + path]
        if body is not None:
            argv += ["--header", "Content-Type: application/json", "--data-binary", "@-"]
        text, _, code = run(argv, stdin=json.dumps(body) if body is not None else "").rpartition("\n")
        return int(code), text

    def _must(self, method: str, path: str, body: Object | None = None) -> str:
        code, text = self.request(method, path, body)
        if code >= 400:
            raise Failed(f"{method} {path}: {code} {text[:300]}")
        return text

    def create(self, path: str, manifest: Object) -> None:
        self._must("POST", path, manifest)

    def get(self, path: str) -> Object:
        found: Object = json.loads(self._must("GET", path))
        return found

    def delete(self, path: str) -> None:
        self._must("DELETE", path)

    def logs(self, namespace: str, pod: str) -> str:
        return self._must("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log")

    def execute(self, namespace: str, pod: str, argv: Sequence[str]) -> str:
        """Without WebSockets a command is run through the node's `run` endpoint, by way of the node proxy."""
        found = self.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")
        node, container = found["spec"]["nodeName"], found["spec"]["containers"][0]["name"]
        query = urlencode({"command": argv}, doseq=True, quote_via=quote)
        return self._must("POST", f"/api/v1/nodes/{node}/proxy/run/{namespace}/{pod}/{container}?{query}")


class Kubectl:
    """kubectl, unmodified."""

    name = "kubectl"

    def __init__(self, kubeconfig: Path) -> None:
        self._argv = ["kubectl", "--kubeconfig", str(kubeconfig), "--request-timeout=45s"]

    def create(self, path: str, manifest: Object) -> None:
        run([*self._argv, "create", "-f", "-"], stdin=json.dumps(manifest))

    def get(self, path: str) -> Object:
        found: Object = json.loads(run([*self._argv, "get", "--raw", path]))
        return found

    def delete(self, path: str) -> None:
        run([*self._argv, "delete", "--raw", path])

    def logs(self, namespace: str, pod: str) -> str:
        return run([*self._argv, "logs", "-n", namespace, pod])

    def execute(self, namespace: str, pod: str, argv: Sequence[str]) -> str:
        return run([*self._argv, "exec", "-n", namespace, pod, "--", *argv])


def has_kubectl() -> bool:
    return shutil.which("kubectl") is not None
