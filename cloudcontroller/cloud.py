"""The ports to a cloud: instances, routes, load balancers; and a fake of them for tests.

The shape is that of Kubernetes' `cloudprovider.Interface`. Each call is idempotent, so that a manager
which was killed between a call and the note it makes of it may call again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol


class CloudError(Exception):
    """The cloud refused or failed; says which call and why."""


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """Packets for `cidr` go to the node at `target` (its InternalIP)."""

    cidr: str
    target: str


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine of the cloud. `provider_id` is what the Node will carry, for example `lab://lab/worker-0`."""

    provider_id: str
    addresses: tuple[tuple[str, str], ...]  # (type, address) as in NodeAddress
    instance_type: str = ""
    zone: str = ""
    region: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """What a balancer lets through: protocol ("TCP", "UDP", "SCTP") and port."""

    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Balancer:
    """One load balancer: an address, what it listens on, the nodes behind it (by InternalIP), and what to ask
    them (`http://<node>:<health_port><health_path>`, 200 is well) before they are sent anything.
    """

    address: str
    listeners: tuple[Listener, ...]
    targets: tuple[str, ...]
    health_port: int
    health_path: str


class Instances(Protocol):
    """The machines of the cloud. Both raise CloudError."""

    async def instance(self, name: str, provider_id: str) -> Instance | None:
        """The machine of the node called `name`, by its provider id if it has one; None if there is none."""
        ...

    async def is_shut_down(self, instance: Instance) -> bool:
        """Whether the machine exists but does not run."""
        ...


class Routes(Protocol):
    """Routes between nodes. All raise CloudError."""

    async def list_routes(self) -> list[Route]:
        """The routes this cluster has made."""
        ...

    async def create_route(self, route: Route) -> None:
        """Make the route, in place of one for the same CIDR."""
        ...

    async def delete_route(self, route: Route) -> None:
        """Remove the route; one that is not there is fine."""
        ...


class Balancers(Protocol):
    """Load balancers. All but `pool` raise CloudError."""

    @property
    def pool(self) -> tuple[IPv4Address, ...]:
        """The addresses the cloud has for balancers; none when it offers no balancers."""
        ...

    async def list_balancers(self) -> list[str]:
        """The addresses that are announced now."""
        ...

    async def ensure_balancer(self, balancer: Balancer) -> None:
        """Make the balancer of this address, or bring the one that is there to this form."""
        ...

    async def delete_balancer(self, address: str) -> None:
        """End it; one that is not there is fine."""
        ...


class Cloud(Instances, Routes, Balancers, Protocol):
    """Everything a cloud has to offer."""

    async def run(self) -> None:
        """What the cloud does on its own (asking nodes whether they are well); runs while the manager
        leads."""
        ...


@dataclass
class FakeCloud:
    """A cloud in memory; `refuse` holds CIDRs and addresses whose creation fails."""

    routes: dict[str, Route] = field(default_factory=dict)
    machines: dict[str, Instance] = field(default_factory=dict)
    off: set[str] = field(default_factory=set)
    balancers: dict[str, Balancer] = field(default_factory=dict)
    pool: tuple[IPv4Address, ...] = ()
    refuse: set[str] = field(default_factory=set)

    async def run(self) -> None:
        """Nothing happens here by itself."""

    async def instance(self, name: str, provider_id: str) -> Instance | None:
        if name in self.refuse:
            raise CloudError(f"describe {name}: refused")
        return self.machines.get(name)

    async def is_shut_down(self, instance: Instance) -> bool:
        return instance.provider_id in self.off

    async def list_routes(self) -> list[Route]:
        return sorted(self.routes.values())

    async def create_route(self, route: Route) -> None:
        if route.cidr in self.refuse:
            raise CloudError(f"create {route.cidr}: refused")
        self.routes[route.cidr] = route

    async def delete_route(self, route: Route) -> None:
        self.routes.pop(route.cidr, None)

    async def list_balancers(self) -> list[str]:
        return sorted(self.balancers)

    async def ensure_balancer(self, balancer: Balancer) -> None:
        if balancer.address in self.refuse:
            raise CloudError(f"balancer {balancer.address}: refused")
        self.balancers[balancer.address] = balancer

    async def delete_balancer(self, address: str) -> None:
        if address in self.refuse:
            raise CloudError(f"delete {address}: refused")
        self.balancers.pop(address, None)
