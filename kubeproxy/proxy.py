"""The loop: whenever services or endpoints change, compile, compare with what is programmed, program the
difference.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from componentbase import metrics
from componentbase.clock import Clock, RealClock
from kubeclient.informer import Informer, InformerFactory, key
from kubeclient.resources import ENDPOINTSLICES, NODES, SERVICES
from kubeproxy import compiler, conntrack, nftables
from kubeproxy.compiler import Settings
from kubeproxy.model import (
    HEADLESS_LABEL,
    PROXY_NAME_LABEL,
    SERVICE_NAME_LABEL,
    HealthCheck,
    Place,
    ServicePort,
    health_checks,
    service_ports,
)
from kubeproxy.reconcile import Reconciler

log = logging.getLogger(__name__)

_sync_seconds = metrics.histogram("kubeproxy_sync_proxy_rules_duration_seconds", "SyncProxyRules latency.")
_sync_failures = metrics.counter(
    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "Cumulative proxy nftables sync failures."
)
_last_sync = metrics.gauge(
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced."
)
_programming = metrics.histogram(
    "kubeproxy_network_programming_duration_seconds", "Seconds from a change's arrival to its rules in place."
)
_services = metrics.gauge("kubeproxy_service_ports", "Service ports that are programmed.")

Object = dict[str, Any]
Signature = tuple[str, ...]
ZONE_LABEL = "topology.kubernetes.io/zone"
UNSYNCED_IS_SICK = 60.0
"""Seconds a change may wait for its rules before the proxy calls itself unhealthy (twice the sync period)."""
AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"


Fragment = Any
"""What a compiler makes of one service port. Only the compiler looks into it."""
Program = Any
"""What a compiler makes of all of them, a value: a RuleSet, or a Plan. Only its back end looks into it."""


class Compiler(Protocol):
    """Service ports to rules: `kubeproxy.compiler`, or the one for another back end."""

    def compile_port(self, port: ServicePort, settings: Settings) -> Fragment: ...

    def assemble(self, fragments: Iterable[Fragment], settings: Settings) -> Program: ...


class Backend(Protocol):
    """Whoever puts a program into force: in the kernel, or by itself."""

    async def program(self, old: Program | None, new: Program) -> bool:
        """Turn `old`, or whatever is there, into `new`; whether anything had to be done. Raises NftError,
        OSError, TimeoutError.
        """
        ...

    async def present(self) -> bool: ...


class Proxy:
    """Keeps the rules of one node equal to what Services and EndpointSlices say."""

    def __init__(
        self,
        factory: InformerFactory,
        node: str,
        settings: Settings,
        *,
        backend: Backend | None = None,
        rules: Compiler = compiler,
        tracked: bool = True,
        min_sync_period: float = 1.0,
        sync_period: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        """`rules` compiles for `backend`; `tracked` says whether the kernel remembers UDP flows for it."""
        self._factory = factory
        self._services: Informer = factory.informer(SERVICES, label_selector=f"!{PROXY_NAME_LABEL}")
        self._slices: Informer = factory.informer(
            ENDPOINTSLICES, label_selector=f"!{PROXY_NAME_LABEL},!{HEADLESS_LABEL}"
        )
        self._nodes: Informer = factory.informer(NODES, field_selector=f"metadata.name={node}")
        self._node = node
        self._settings = settings
        self._backend: Backend = backend or nftables.Nft()
        self._rules = rules
        self._tracked = tracked
        self._clock = clock or RealClock()
        self._dirty_since: float | None = None
        self._reconciler = Reconciler(
            "rules",
            self.sync,
            self._backend.present,
            self._clock,
            min_sync_period=min_sync_period,
            sync_period=sync_period,
            on_failure=_sync_failures.inc,
        )
        self._ports: list[ServicePort] = []
        self._cache: dict[str, tuple[Signature, list[tuple[ServicePort, Fragment]]]] = {}
        self.last_synced = 0.0
        self.on_synced: list[Callable[[dict[int, HealthCheck]], None]] = []
        for informer in (self._services, self._slices, self._nodes):
            informer.add_handler(self._touch, lambda old, new: self._touch(new), self._touch)

    def _touch(self, _: Object) -> None:
        if self._dirty_since is None:
            self._dirty_since = self._clock.monotonic()
        self._reconciler.touch()

    @property
    def lag(self) -> float:
        """Seconds the oldest change has been waiting to be programmed; 0 when none is."""
        return 0.0 if self._dirty_since is None else self._clock.monotonic() - self._dirty_since

    @property
    def healthy(self) -> bool:
        """Rules are in place, and no change has been waiting for long. Before its first sync the proxy is as
        unhealthy as when it is stuck.
        """
        return self.last_synced > 0 and self.lag < UNSYNCED_IS_SICK

    @property
    def node_eligible(self) -> bool:
        """Whether load balancers should still open connections through this node (KEP-3836)."""
        node = self._nodes.store.get(self._node)
        if node is None:
            return True
        taints = node.get("spec", {}).get("taints") or []
        doomed = any(each.get("key") == AUTOSCALER_TAINT for each in taints)
        return not doomed and not node["metadata"].get("deletionTimestamp")

    async def run(self) -> None:
        """Program rules until cancelled. Rules stay in place when the process ends: connections go on."""
        await self._reconciler.run(self._factory)

    async def sync(self) -> None:
        """Program the present state. Raises NftError, OSError, TimeoutError; then the old rules are in
        force.
        """
        started = self._clock.monotonic()
        since, self._dirty_since = self._dirty_since, None
        self._reconciler.taken_up()
        try:
            compiled = self._compile()
            ports = [port for port, _ in compiled]
            wanted = self._rules.assemble([fragment for _, fragment in compiled], self._settings)
            changed = await self._backend.program(self._reconciler.programmed, wanted)
        except BaseException:
            self._dirty_since = since if since is not None else started
            raise
        self._reconciler.programmed = wanted
        if self._tracked:
            await conntrack.forget(conntrack.stale(self._ports, ports))
        self._ports = ports
        checks = health_checks(ports)
        for tell in self.on_synced:
            tell(checks)
        self._report(started, since, changed)

    def _report(self, started: float, since: float | None, changed: bool) -> None:
        now = self._clock.monotonic()
        self.last_synced = time.time()
        _sync_seconds.observe(now - started)
        _last_sync.set(self.last_synced)
        _services.set(len(self._ports))
        if since is not None:
            _programming.observe(now - since)
        if changed:
            log.info("rules programmed", extra={"ports": len(self._ports), "seconds": f"{now - started:.3f}"})

    def _compile(self) -> list[tuple[ServicePort, Fragment]]:
        """The rules of every service port; where no object changed, those of the last time."""
        slices: dict[str, list[Object]] = defaultdict(list)
        for each in self._slices.store.list():
            metadata = each["metadata"]
            if name := (metadata.get("labels") or {}).get(SERVICE_NAME_LABEL):
                slices[f"{metadata['namespace']}/{name}"].append(each)
        node = self._nodes.store.get(self._node) or {"metadata": {}}
        here = Place(self._node, (node["metadata"].get("labels") or {}).get(ZONE_LABEL, ""))
        cache: dict[str, tuple[Signature, list[tuple[ServicePort, Fragment]]]] = {}
        # The oldest service keeps an address two services claim.
        services = sorted(self._services.store.list(), key=_age)
        for service in services:
            name = key(service)
            mine = slices.get(name, [])
            if len(mine) > 1:
                mine.sort(key=key)
            signature = (here.zone, *(_version(each) for each in (service, *mine)))
            known = self._cache.get(name)
            if known is None or known[0] != signature:
                ports = service_ports(service, mine, here)
                known = (
                    signature,
                    [(port, self._rules.compile_port(port, self._settings)) for port in ports],
                )
            cache[name] = known
        self._cache = cache
        return [each for _, compiled in cache.values() for each in compiled]


def _age(service: Object) -> tuple[str, str]:
    return service["metadata"].get("creationTimestamp") or "", key(service)


def _version(obj: Object) -> str:
    metadata = obj["metadata"]
    return f"{metadata.get('uid')}/{metadata['resourceVersion']}"
