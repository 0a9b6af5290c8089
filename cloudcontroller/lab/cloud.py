"""The cloud `lab` itself: instances from its file, routes in its router, balancers that ask before they
send."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path

import httpx

from cloudcontroller.cloud import Balancer, Cloud, CloudError, Instance, Route
from cloudcontroller.lab import config
from cloudcontroller.lab.health import Check, Health, checks
from cloudcontroller.lab.router import Router
from componentbase.clock import RealClock, TimerClock

log = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between two health checks of one node
PATIENCE = 1.0  # seconds for the answer

Probe = Callable[[Check], Awaitable[bool]]


async def probe(check: Check) -> bool:
    """Whether the node answers 200. A connection is not kept: a node that is gone must not look well."""
    try:
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
            answer = await client.get(f"http://{check.node}:{check.port}{check.path}")
            return answer.status_code == 200
    except (httpx.HTTPError, OSError):
        return False


class LabCloud:
    """Invariant: a balancer is announced for exactly the nodes that are well, and only `_announce` writes its
    route; the rules that say what it listens on stand before its route does.
    """

    def __init__(self, file: str, *, ask: Probe = probe, clock: TimerClock | None = None) -> None:
        self._file = Path(file)
        self._config = config.load(file)
        self._read_at = self._file.stat().st_mtime_ns
        self._router = Router(self._config.netns)
        self._ask, self._clock = ask, clock or RealClock()
        self._balancers: dict[str, Balancer] = {}
        self._announced: dict[str, tuple[str, ...]] = {}
        self._health = Health()
        self._wake = asyncio.Event()
        self._busy = asyncio.Lock()

    # -- instances -------------------------------------------------------------------------------------------

    async def instance(self, name: str, provider_id: str) -> Instance | None:
        """By name: hosts of a topology keep theirs. The file is read again when it was written."""
        found = self._instances().get(name)
        return found if found is not None and provider_id in ("", found.provider_id) else None

    async def is_shut_down(self, instance: Instance) -> bool:
        """A host whose last process is gone has no cable in the router any more."""
        return instance.provider_id.rpartition("/")[2] not in await self._router.links()

    def _instances(self) -> dict[str, Instance]:
        try:
            written = self._file.stat().st_mtime_ns
            if written != self._read_at:
                self._config, self._read_at = config.load(str(self._file)), written
        except (OSError, config.BadCloudConfig) as error:
            # To know nothing is not to know that nobody is there: no node is deleted for this.
            raise CloudError(f"instances cannot be listed: {error}") from error
        return dict(self._config.instances)

    # -- routes ----------------------------------------------------------------------------------------------

    async def list_routes(self) -> list[Route]:
        return await self._router.list_routes()

    async def create_route(self, route: Route) -> None:
        await self._router.create_route(route)

    async def delete_route(self, route: Route) -> None:
        await self._router.delete_route(route)

    # -- balancers -------------------------------------------------------------------------------------------

    @property
    def pool(self) -> tuple[IPv4Address, ...]:
        return self._config.pool

    async def list_balancers(self) -> list[str]:
        return await self._router.announced()

    async def ensure_balancer(self, balancer: Balancer) -> None:
        async with self._busy:
            if self._balancers.get(balancer.address) != balancer:
                await self._listen({**self._balancers, balancer.address: balancer})
            await self._announce(balancer)
        self._wake.set()

    async def delete_balancer(self, address: str) -> None:
        async with self._busy:
            await self._router.withdraw(address)
            self._announced.pop(address, None)
            await self._listen({key: value for key, value in self._balancers.items() if key != address})

    async def _listen(self, balancers: dict[str, Balancer]) -> None:
        if self._config.network is not None:
            await self._router.listen(self._config.network, balancers.values())
        self._balancers = balancers

    async def _announce(self, balancer: Balancer) -> None:
        well = tuple(self._health.well(balancer))
        if self._announced.get(balancer.address) == well:
            return
        await self._router.announce(balancer.address, well)
        self._announced[balancer.address] = well
        log.info("announced", extra={"address": balancer.address, "nodes": ",".join(well) or "none"})

    async def run(self) -> None:
        """Ask every node behind a balancer, for ever; nothing is asked while there is none."""
        while True:
            self._wake.clear()
            asked = checks(self._balancers.values())
            answers = await asyncio.gather(*(self._ask(check) for check in asked))
            for check, well in zip(asked, answers, strict=True):
                self._health.note(check, well)
            await self._announce_all()
            timer = self._clock.call_later(INTERVAL, self._wake.set) if self._balancers else None
            await self._wake.wait()
            if timer is not None:
                timer.cancel()

    async def _announce_all(self) -> None:
        async with self._busy:
            self._health.keep(checks(self._balancers.values()))
            for balancer in self._balancers.values():
                try:
                    await self._announce(balancer)
                except CloudError as error:
                    log.warning("not announced: %s", error, extra={"address": balancer.address})


def load_cloud(provider: str, file: str) -> Cloud:
    """The cloud of `--cloud-provider` and `--cloud-config`.

    Raises ValueError naming what is wrong with the provider or the file, OSError when it cannot be read.
    """
    if provider != "lab":
        raise ValueError(f'--cloud-provider={provider}: unknown cloud provider (known: "lab")')
    if not file:
        raise ValueError("--cloud-provider=lab needs --cloud-config")
    return LabCloud(file)
