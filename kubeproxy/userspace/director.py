"""What the relays ask for each client: where to, and how did it go."""

from __future__ import annotations

from componentbase.clock import Clock
from kubeproxy.compiler import Settings
from kubeproxy.model import Endpoint
from kubeproxy.userspace.balance import Balancer, Chance
from kubeproxy.userspace.compiler import Route, eligible


class Director:
    """`own` are all addresses of this node, which count as inside the cluster."""

    def __init__(self, settings: Settings, clock: Clock, chance: Chance) -> None:
        self.own: frozenset[str] = frozenset()
        self._settings, self._clock = settings, clock
        self._balancer = Balancer(chance)

    @property
    def now(self) -> float:
        return self._clock.monotonic()

    def order(self, route: Route, client: str) -> list[Endpoint]:
        """The endpoints to try, in this order; none when the client must be turned away."""
        return self._balancer.order(
            route, eligible(route, client, self.own, self._settings), client, self.now
        )

    def allowed(self, route: Route, client: str, endpoint: Endpoint) -> bool:
        return endpoint in eligible(route, client, self.own, self._settings)

    def reached(self, route: Route, client: str, endpoint: Endpoint) -> None:
        self._balancer.remember(route, client, endpoint, self.now)

    def refused(self, route: Route, client: str) -> None:
        """The endpoint the client was sent to does not answer: the next may be another."""
        self._balancer.forget(route, client)
