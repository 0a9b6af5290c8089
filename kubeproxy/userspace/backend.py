"""Keeps addresses and listeners equal to the plan."""

from __future__ import annotations

import logging
from random import Random
from types import TracebackType
from typing import Any

from componentbase import metrics
from componentbase.clock import Clock, RealClock
from componentbase.tasks import Background, forever
from kubeproxy.compiler import Settings
from kubeproxy.userspace import compiler
from kubeproxy.userspace.addresses import Addresses, Held, Loopback
from kubeproxy.userspace.compiler import Front, Plan, Route
from kubeproxy.userspace.director import Director
from kubeproxy.userspace.tcp import Relays, TcpListener
from kubeproxy.userspace.udp import Flows, UdpListener

log = logging.getLogger(__name__)

EXPIRY = 10.0
"""Seconds between two looks for idle UDP flows."""

_listening = metrics.gauge("hardway_userspace_listeners", "Addresses and ports that are listened on.")
_unopened = metrics.gauge("hardway_userspace_unopened", "Addresses and ports that cannot be listened on.")


class Userspace:
    """Serves the plan in this process and on the addresses of its network namespace, for as long as the
    context is entered. Addresses stay when it is left, so that clients are refused rather than lost.
    """

    mode = "userspace"

    def __init__(
        self, settings: Settings, *, addresses: Addresses | None = None, clock: Clock | None = None
    ) -> None:
        self._settings = settings
        self._addresses = addresses or Loopback()
        self._clock = clock or RealClock()
        self._background = Background("relay")
        self._director = Director(settings, self._clock, Random())
        self._relays = Relays(self._director, self._background)
        self._flows = Flows(self._director)
        self._plan = Plan()
        self._open: dict[Front, TcpListener | UdpListener] = {}
        self._foreign: frozenset[str] = frozenset()
        self._complaints: dict[Front, str] = {}

    async def __aenter__(self) -> Userspace:
        await self._background.__aenter__()
        self._background.spawn("expiry", forever("expiry", self._expire, EXPIRY, clock=self._clock))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for front in list(self._open):
            self._open.pop(front).close()
        await self._background.__aexit__(kind, error, trace)

    async def program(self, old: Any, new: Plan) -> bool:
        """Serve `new`; whether that changed anything. What is served now is known here better than by `old`.
        A port that cannot be had is logged and tried again; it keeps no other from being served. Raises
        OSError, TimeoutError when the node's addresses cannot be changed.
        """
        changed = new != self._plan or old is None
        for title in sorted(set(new.unserved) - set(self._plan.unserved)):
            log.warning("not served: mode userspace relays TCP and UDP only", extra={"service": title})
        self._plan = new
        await self._converge(await self._addresses.held())
        return changed

    async def present(self) -> bool:
        """Whether our addresses are still there. New addresses of the node are served from here on, and
        ports that could not be had before are tried again.
        """
        held = await self._addresses.held()
        if not self._plan.addresses - self._foreign <= held.ours | held.own:
            return False
        await self._converge(held)
        return True

    async def _converge(self, held: Held) -> None:
        foreign = compiler.foreign(self._plan, held.own, held.networks, self._settings)
        for ip in sorted(foreign - self._foreign):
            log.warning(
                "not served: other machines or pods have the addresses of that network", extra={"ip": ip}
            )
        self._foreign = foreign
        wanted = self._plan.addresses - held.own - foreign
        missing = wanted - held.ours
        await self._addresses.change(missing, ())
        self._director.own = held.own | held.ours | missing
        fronts = compiler.listeners(self._plan, held.own, self._settings)
        await self._listen({front: route for front, route in fronts.items() if front.ip not in foreign})
        # An address that an open connection goes through must stay as long as the connection.
        await self._addresses.change((), held.ours - wanted - self._relays.addresses)

    async def _listen(self, wanted: dict[Front, Route]) -> None:
        changes = compiler.difference({front: each.route for front, each in self._open.items()}, wanted)
        for front in changes.closed:
            self._open.pop(front).close()
        for front, route in changes.rerouted.items():
            self._open[front].reroute(route)
        failed: dict[Front, str] = {}
        for front, route in changes.opened.items():
            listener = self._listener(front, route)
            try:
                await listener.open()
            except OSError as error:
                failed[front] = str(error)
            else:
                self._open[front] = listener
        self._complain(failed)

    def _listener(self, front: Front, route: Route) -> TcpListener | UdpListener:
        if front.protocol == "tcp":
            return TcpListener(front, route, self._relays)
        return UdpListener(front, route, self._flows)

    def _complain(self, failed: dict[Front, str]) -> None:
        """Each once, until it changes."""
        for front, complaint in failed.items():
            if self._complaints.get(front) != complaint:
                log.warning("cannot listen on %s:%d/%s: %s", front.ip, front.port, front.protocol, complaint)
        self._complaints = failed
        _listening.set(len(self._open))
        _unopened.set(len(failed))

    async def _expire(self) -> None:
        self._flows.expire()
