"""`python -m deploy.console.observer`: asks every member of the store how it is; a look is a line of JSON.

A process of its own, since whoever speaks to the members must live in the lab's network, while the page is
served in the machine's. It ends when its standard input does, so it cannot outlive the console.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from componentbase import tasks
from deploy import namespaces
from etcdlite.client import EtcdClient, EtcdError

INTERVAL = 0.5
TIMEOUT = 1.5


async def _ask(client: EtcdClient, endpoint: str) -> dict[str, Any]:
    try:
        async with asyncio.timeout(TIMEOUT):
            status = await client.status(endpoint, timeout=TIMEOUT)
    except (EtcdError, TimeoutError, OSError) as error:
        return {"error": str(error).splitlines()[0][:160] if str(error) else "does not answer"}
    return {
        "member": status.header.member_id,
        "leader": status.leader,
        "term": status.raftTerm,
        "index": status.raftIndex,
        "applied": status.raftAppliedIndex,
        "revision": status.header.revision,
        "size": status.dbSize,
        "learner": status.isLearner,
    }


async def _look(clients: dict[str, EtcdClient]) -> None:
    """Print one line. The members are asked side by side: a silent one does not hide the others."""
    async with asyncio.TaskGroup() as group:
        asked = {
            endpoint: group.create_task(_ask(client, endpoint), name=f"status of {endpoint}")
            for endpoint, client in clients.items()
        }
    print(json.dumps({endpoint: task.result() for endpoint, task in asked.items()}), flush=True)


async def _until_orphaned() -> None:
    """Return when the console is gone: its end of our standard input is closed."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def _observe(endpoints: Sequence[str], directory: Path) -> None:
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        clients = {
            endpoint: await stack.enter_async_context(
                EtcdClient(
                    [endpoint],
                    ca=directory / "etcd-ca.pem",
                    cert=directory / "etcd-client.pem",
                    key=directory / "etcd-client-key.pem",
                )
            )
            for endpoint in endpoints
        }
        looking = group.create_task(
            tasks.forever("look", lambda: _look(clients), INTERVAL), name="look at the members"
        )
        await _until_orphaned()
        looking.cancel()


def main(argv: Sequence[str] | None = None) -> int:
    """Look until standard input ends."""
    parser = argparse.ArgumentParser(prog="observer", description=__doc__)
    parser.add_argument("--network", type=Path, required=True, help="network namespace of the lab")
    parser.add_argument("--certificates", type=Path, required=True, help="directory with etcd-client.pem")
    parser.add_argument("endpoints", nargs="+")
    given = parser.parse_args(argv)
    namespaces.enter_network(given.network)  # threads that a client starts are born here too
    return tasks.run(lambda: _observe(given.endpoints, given.certificates))


if __name__ == "__main__":
    sys.exit(main())
