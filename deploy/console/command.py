"""`hardway console`: serve the page on loopback until interrupted."""

from __future__ import annotations

import asyncio

from componentbase import tasks
from componentbase.http import server as http
from deploy.console.faults import Breaker
from deploy.console.server import Console
from deploy.console.sources import Sources
from deploy.state import State
from deploy.topology import Topology
from kubeclient.rest import RestClient


def console(topology: Topology, state: State, breaker: Breaker, port: int) -> int:
    """Serve until SIGINT or SIGTERM. Raises OSError when the port is taken."""
    return tasks.run(lambda: _serve(topology, state, breaker, port))


async def _serve(topology: Topology, state: State, breaker: Breaker, port: int) -> None:
    listening = http.listen("127.0.0.1", port)
    port = int(listening.getsockname()[1])
    config = state.root / "pki" / "admin.kubeconfig"
    async with RestClient.from_kubeconfig(config, user_agent="hardway-console") as client:
        sources = Sources(topology, state, client, breaker)
        page = Console(sources, breaker, port)

        def announce(_: int) -> None:
            print(
                f"The console is at http://127.0.0.1:{port}/?key={page.secret} (Ctrl-C ends it)", flush=True
            )

        async with asyncio.TaskGroup() as group:
            group.create_task(sources.run(), name="sources")
            await http.serve(page.app, sock=listening, on_listening=announce)
