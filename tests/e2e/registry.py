"""A container registry with one image and one user, for pods that pull with a secret. It runs in a pod, on
the standard library alone (distribution-spec: pulling).
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import platform
import tarfile
from typing import ClassVar

OCI = "application/vnd.oci.image"
USER, PASSWORD, PORT = "ann", "sesame", 5055


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def described(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": f"{OCI}.{kind}", "digest": digest(content), "size": len(content)}


def image() -> tuple[bytes, dict[str, bytes]]:
    """The manifest, and everything by its digest: a layer with nothing but busybox."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.add("/busybox", "bin/busybox")
    layer = held.getvalue()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "3600"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }
    settings = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": described("config.v1+json", settings),
        "layers": [described("layer.v1.tar", layer)],
    }
    top = json.dumps(manifest).encode()
    return top, {digest(each): each for each in (layer, settings, top)}


ALLOWED = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    manifest = b""
    held: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        last = self.path.rpartition("/")[2]
        if self.headers.get("Authorization") != ALLOWED:
            self.answer(401, b"", {"WWW-Authenticate": 'Basic realm="registry"'})
            return
        content = self.manifest if last == "1" else self.held.get(last, b"")
        kind = f"{OCI}.manifest.v1+json" if "/manifests/" in self.path else "application/octet-stream"
        found = {"Content-Type": kind, "Docker-Content-Digest": digest(content)}
        self.answer(200 if content or not last else 404, content, found)

    do_HEAD = do_GET

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


if __name__ == "__main__":
    Registry.manifest, Registry.held = image()
    http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Registry).serve_forever()
