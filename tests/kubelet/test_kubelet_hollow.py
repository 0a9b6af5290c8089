"""Hollow nodes: real agents in one process, over nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from componentbase.clock import RealClock
from componentbase.http.server import serve
from kubeclient.rest import RestClient
from kubeclient.transport import Target
from kubelet.app import flags, herd_from
from kubelet.config import ConfigurationError, KubeletConfig
from kubelet.hollow import Herd, run_herd
from tests.kubelet.api import MemoryApi


def test_flags_name_the_herd() -> None:
    values = flags().parse(["--hollow", "--hollow-nodes=3", "--hollow-prefix=h-", "--kubeconfig=/k"])
    herd = herd_from(values)
    assert (herd.nodes, herd.settings(2).node_name) == (3, "h-2")
    assert len({herd.settings(number).node_ips for number in range(1000)}) == 1000
    with pytest.raises(ConfigurationError, match="--hollow-nodes"):
        herd_from(flags().parse(["--hollow", "--hollow-nodes=0", "--kubeconfig=/k"]))


def test_pods_of_many_nodes_live_and_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        api = MemoryApi()
        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            server = group.create_task(
                serve(api, port=0, on_listening=listening.set_result, shutdown_grace=0.1)
            )
            async with RestClient(Target(f"http://127.0.0.1:{await listening}")) as client:
                herd = Herd(3, "hollow-", KubeletConfig())
                running = group.create_task(run_herd(herd, client, RealClock()))
                for number in range(3):
                    container = {
                        "name": "c",
                        "image": "anything:1",
                        "readinessProbe": {"tcpSocket": {"port": 1}},
                    }
                    spec = {"nodeName": f"hollow-{number}", "containers": [container]}
                    await api.add_pod({"metadata": {"name": f"p{number}"}, "spec": spec})

                def ready(name: str) -> bool:
                    conditions = ((api.pod(name) or {}).get("status") or {}).get("conditions") or []
                    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

                await api.until(lambda: all(ready(f"p{number}") for number in range(3)))
                await api.until(lambda: all(f"/api/v1/nodes/hollow-{n}" in api.objects for n in range(3)))
                await api.delete_pod("p1")
                await api.until(lambda: api.pod("p1") is None)
                running.cancel()
            server.cancel()

    asyncio.run(scenario())
    assert not Path("/nowhere").exists()
