"""Health-check node ports: with `externalTrafficPolicy: Local` a load balancer asks each node on the
service's `healthCheckNodePort` whether it has endpoints itself, and sends traffic only to those that have.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import orjson

from componentbase.http import server
from componentbase.tasks import Background
from kubeproxy.model import HealthCheck

log = logging.getLogger(__name__)


class HealthChecks:
    """One listener per health-check node port; `update` says which there are to be."""

    def __init__(self, healthy: Callable[[], bool], host: str = "0.0.0.0") -> None:
        self._healthy = healthy
        self._host = host
        self._checks: dict[int, HealthCheck] = {}
        self._changed = asyncio.Event()

    def update(self, checks: dict[int, HealthCheck]) -> None:
        self._checks = checks
        self._changed.set()

    async def run(self) -> None:
        """Listen until cancelled. A port that cannot be had is logged, and tried again with the next
        change.
        """
        serving: dict[int, asyncio.Task[None]] = {}
        async with Background("health-check") as background:
            while True:
                await self._changed.wait()
                self._changed.clear()
                for port in [each for each in serving if each not in self._checks]:
                    task = serving.pop(port)
                    task.cancel()
                    # Only when the listener is closed may the port be opened again.
                    await asyncio.wait([task])
                for port in self._checks:
                    if port not in serving or serving[port].done():
                        serving[port] = background.spawn(str(port), self._serve(port))

    async def _serve(self, port: int) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self._respond(port, send)

        try:
            await server.serve(app, host=self._host, port=port)
        except OSError as error:
            log.warning("health-check node port cannot be opened: %s", error, extra={"port": port})

    async def _respond(self, port: int, send: Any) -> None:
        check = self._checks.get(port)
        if check is None:
            status, body, local = 404, b"", 0
        else:
            healthy, local = self._healthy(), check.local_endpoints
            status = 200 if local and healthy else 503
            document = {
                "service": {"namespace": check.namespace, "name": check.name},
                "localEndpoints": local,
                "serviceProxyHealthy": healthy,
            }
            body = orjson.dumps(document)
        headers = [
            (b"content-type", b"application/json"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-load-balancing-endpoint-weight", str(local).encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
