"""Where the page's picture comes from: API by informers, store by the observer, hosts by supervisors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from apimachinery.errors import StatusError
from componentbase import tasks
from componentbase.backoff import Backoff
from deploy.console import view
from deploy.console.faults import Breaker
from deploy.console.timeline import Timeline
from deploy.control import Control, HostDown, Refused
from deploy.state import State
from deploy.topology import Topology
from kubeclient.informer import Informer
from kubeclient.resources import EVENTS, NODES, PODS
from kubeclient.rest import ConnectionFailed, RestClient

log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
HEALTH_TIMEOUT = 2.0
OBSERVER_LINE = 1 << 16


@dataclass
class Picture:
    """The sections of the page, encoded once for all readers; `version` grows with each change."""

    sections: dict[str, bytes] = field(default_factory=dict)
    version: int = 0
    _versions: dict[str, int] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, section: str, data: object) -> None:
        """Replace a section; readers are woken if it differs from what they have."""
        encoded = orjson.dumps(data)
        if self.sections.get(section) == encoded:
            return
        self.version += 1
        self.sections[section], self._versions[section] = encoded, self.version
        self._changed.set()
        self._changed = asyncio.Event()

    def since(self, version: int) -> bytes:
        """A JSON object of the sections that changed after `version`."""
        changed = [name for name, at in self._versions.items() if at > version]
        return b"{" + b",".join(b'"%s":%s' % (name.encode(), self.sections[name]) for name in changed) + b"}"

    async def wait(self, version: int, timeout: float) -> None:
        """Return when there is something newer than `version`, or after `timeout` seconds."""
        if self.version > version:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()


class Sources:
    """Keeps a picture current until cancelled."""

    def __init__(
        self,
        topology: Topology,
        state: State,
        client: RestClient,
        breaker: Breaker,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.picture = Picture()
        self.timeline = Timeline()
        self._topology, self._state, self._client, self._breaker = topology, state, client, breaker
        self._clock = clock
        self._nodes, self._pods, self._events = (Informer(client, gvr) for gvr in (NODES, PODS, EVENTS))
        self.picture.show("cluster", {"name": topology.name})

    async def run(self) -> None:
        """Look at everything, each part at its own pace and none waiting for another."""
        steps = {
            "hosts": self._look_at_hosts,
            "API": self._look_at_api,
            "faults": self.look_at_faults,
            "timeline": self._draw,
        }
        calm = Backoff(LOOK_INTERVAL, 3 * LOOK_INTERVAL)
        async with asyncio.TaskGroup() as group:
            for informer in (self._nodes, self._pods, self._events):
                group.create_task(informer.run(), name=f"informer of {informer.gvr.resource}")
            group.create_task(tasks.forever("observer", self._observe, LOOK_INTERVAL), name="store")
            for name, step in steps.items():
                group.create_task(
                    tasks.forever(name, step, LOOK_INTERVAL, backoff=calm), name=f"look at {name}"
                )

    async def _look_at_hosts(self) -> None:
        """Asked side by side: one that hangs costs its own time only."""
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(asyncio.to_thread(self._ask_host, host.name), name=f"ask {host.name}")
                for host in self._topology.hosts
            ]
        hosts = [
            view.host(host.name, host.role, host.address, task.result())
            for host, task in zip(self._topology.hosts, asked, strict=True)
        ]
        self.timeline.hosts(self._clock(), hosts)
        self.picture.show("hosts", hosts)

    def _ask_host(self, name: str) -> Mapping[str, Any]:
        try:
            return Control(name, self._state.socket(name)).call("status")
        except (HostDown, Refused, OSError) as error:
            return {"error": str(error)}

    async def _look_at_api(self) -> None:
        error = ""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT):
                await self._client.raw("GET", "/readyz")
        except (StatusError, ConnectionFailed, TimeoutError) as failure:
            error = str(failure) or "no answer in time"
        now = self._clock()
        nodes = sorted(map(view.node, self._nodes.store.list()), key=lambda each: str(each["name"]))
        pods = sorted(
            map(view.pod, self._pods.store.list()), key=lambda each: (each["namespace"], each["name"])
        )
        self.timeline.api(now, error)
        self.timeline.nodes(now, nodes)
        self.picture.show("api", {"error": error[:200]})
        self.picture.show("nodes", nodes)
        self.picture.show("pods", {"shown": pods[: view.MAX_PODS], "all": len(pods)})
        self.picture.show("events", view.newest(self._events.store.list()))

    async def look_at_faults(self) -> None:
        """What can be broken and what is; also called right after a button was pressed."""
        active = list(await asyncio.to_thread(self._breaker.active))
        self.timeline.faults(self._clock(), active)
        self.picture.show("faults", {"kinds": list(self._breaker.kinds()), "active": active})

    async def _draw(self) -> None:
        self.picture.show("timeline", self.timeline.data(self._clock()))

    async def _observe(self) -> None:
        """One life of the observer; the loop around it starts the next."""
        endpoints = {
            f"https://{host.address}:2379": host.name for host in self._topology.by_role("controller")
        }
        command = [
            *(sys.executable, "-m", "deploy.console.observer"),
            *("--network", os.fspath(self._state.router_netns)),
            *("--certificates", os.fspath(self._state.root / "pki"), *endpoints),
        ]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=OBSERVER_LINE,
        )
        try:
            assert process.stdout is not None
            while line := await process.stdout.readline():
                readings = orjson.loads(line)
                members = [view.member(name, readings[endpoint]) for endpoint, name in endpoints.items()]
                self.timeline.members(self._clock(), members)
                self.picture.show("members", members)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
        raise RuntimeError(f"the observer ended with {process.returncode}")
