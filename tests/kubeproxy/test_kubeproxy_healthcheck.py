"""Health-check node ports, asked over real sockets."""

from __future__ import annotations

import asyncio
import socket

import httpx

from kubeproxy.healthcheck import HealthChecks
from kubeproxy.model import HealthCheck
from tests.kubeclient.loops import eventually, on_loop
from tests.ports import free_port


def opens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_says_how_many_endpoints_are_here() -> None:
    async def test() -> None:
        healthy = True
        checks = HealthChecks(lambda: healthy, "127.0.0.1")
        port = free_port()
        async with asyncio.TaskGroup() as group, httpx.AsyncClient(trust_env=False) as client:
            task = group.create_task(checks.run())
            for local, status in ((2, 200), (0, 503)):
                checks.update({port: HealthCheck("default", "web", local)})
                await eventually(lambda: opens(port))
                answer = await client.get(f"http://127.0.0.1:{port}/")
                assert answer.status_code == status
                assert answer.headers["x-load-balancing-endpoint-weight"] == str(local)
                assert answer.json() == {
                    "service": {"namespace": "default", "name": "web"},
                    "localEndpoints": local,
                    "serviceProxyHealthy": True,
                }
            checks.update({port: HealthCheck("default", "web", 1)})
            healthy = False
            assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 503
            checks.update({})
            await eventually(lambda: not opens(port))
            task.cancel()

    on_loop(test)


def test_a_port_in_use_disturbs_nobody_and_is_tried_again() -> None:
    async def test() -> None:
        checks = HealthChecks(lambda: True, "127.0.0.1")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port, other = taken.getsockname()[1], free_port()
            async with asyncio.TaskGroup() as group:
                task = group.create_task(checks.run())
                wanted = {port: HealthCheck("d", "a", 1), other: HealthCheck("d", "b", 1)}
                checks.update(wanted)
                await eventually(lambda: opens(other))
                taken.close()
                await eventually(lambda: not opens(port))
                checks.update(wanted)
                await eventually(lambda: opens(port))
                task.cancel()

    on_loop(test)
