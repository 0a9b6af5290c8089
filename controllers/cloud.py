"""The port to a cloud that routes packets, and a fake of it for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """Packets for `cidr` go to the node at `target` (its InternalIP)."""

    cidr: str
    target: str


class CloudError(Exception):
    """The cloud refused or failed; says which call and why."""


class Cloud(Protocol):
    """What a cloud has to offer. Each call is idempotent."""

    async def list_routes(self) -> list[Route]:
        """The routes this cluster has made. Raises CloudError."""
        ...

    async def create_route(self, route: Route) -> None:
        """Make the route, in place of one for the same CIDR. Raises CloudError."""
        ...

    async def delete_route(self, route: Route) -> None:
        """Remove the route; one that is not there is fine. Raises CloudError."""
        ...


class FakeCloud:
    """A cloud in memory; `refuse` holds CIDRs whose creation fails."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.refuse: set[str] = set()

    async def list_routes(self) -> list[Route]:
        return sorted(self.routes.values())

    async def create_route(self, route: Route) -> None:
        if route.cidr in self.refuse:
            raise CloudError(f"create {route.cidr}: refused")
        self.routes[route.cidr] = route

    async def delete_route(self, route: Route) -> None:
        self.routes.pop(route.cidr, None)
