"""The audit log: one JSON line a request, in the form of `audit.k8s.io/v1` Event at level Metadata."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import orjson

from apiserver.rest.message import Request


class AuditLog:
    """Appends to a file, or to standard output for "-". Bodies are never recorded, so no secret is."""

    def __init__(self, path: str) -> None:
        self._stream = sys.stdout.buffer if path == "-" else Path(path).open("ab", buffering=0)  # noqa: SIM115 - open as long as the server

    def record(self, request: Request, status: int, seconds: float) -> None:
        info, now = request.info, datetime.datetime.now(datetime.UTC)
        event = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": request.audit_id,
            "stage": "ResponseComplete",
            "requestURI": info.path,
            "verb": info.verb,
            "user": request.user.as_dict(),
            "sourceIPs": [request.scope["client"][0]] if request.scope.get("client") else [],
            "userAgent": request.headers.get("user-agent", ""),
            "responseStatus": {"code": status},
            "stageTimestamp": now.isoformat().replace("+00:00", "Z"),
            "annotations": {"hardway/seconds": f"{seconds:.6f}", **request.annotations},
        }
        if info.is_resource:
            event["objectRef"] = {
                "resource": info.resource,
                "namespace": info.namespace,
                "name": info.name,
                "apiGroup": info.group,
                "apiVersion": info.version,
                "subresource": info.subresource,
            }
        self._stream.write(orjson.dumps(event) + b"\n")
