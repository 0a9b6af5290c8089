"""kube-proxy: flags, configuration, wiring.

apiserver --list+watch--> informers --> Proxy --compile--> RuleSet --nft--> kernel (or another of `backends`)
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from componentbase import flags, log, tasks, version
from componentbase.clock import RealClock
from componentbase.health import Health, respond
from componentbase.http import server
from kubeclient.informer import InformerFactory
from kubeclient.reload import replaced
from kubeclient.rest import NotInCluster, RestClient
from kubeproxy import backends
from kubeproxy import config as configuration
from kubeproxy.backends import Chosen
from kubeproxy.compiler import Settings
from kubeproxy.config import Config, ConfigError
from kubeproxy.healthcheck import HealthChecks
from kubeproxy.policy_agent import PolicyAgent
from kubeproxy.proxy import UNSYNCED_IS_SICK, Proxy

logger = logging.getLogger(__name__)

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


def declare_flags() -> flags.Flags:
    declared = flags.Flags(
        "kube-proxy", "Sends connections to services on to their endpoints.", version=version.GIT_VERSION
    )
    declared.string("config", "", "The path to the configuration file (KubeProxyConfiguration).")
    declared.string("hostname-override", "", "The name of this node, if it is not the host's name.")
    declared.string("kubeconfig", "", "The kubeconfig to use when the configuration file names none.")
    declared.boolean("cleanup", False, "Remove this proxy's rules and exit.")
    declared.integer("v", 0, "Log verbosity.", short="v")
    return declared


def main(argv: Sequence[str]) -> int:
    """Run the proxy; returns the exit status."""
    values = declare_flags().parse(argv)
    log.setup("kubeproxy", values.v)
    if values.cleanup:
        return tasks.run(backends.clean_up)
    try:
        config = configuration.load(values.config) if values.config else Config()
    except (ConfigError, OSError) as error:
        logger.error("configuration: %s", error)
        return 1
    node = values.hostname_override or config.hostname_override or socket.gethostname()
    kubeconfig = config.kubeconfig or values.kubeconfig
    return tasks.run(lambda: run(config, kubeconfig, node.strip().lower()))


async def run(config: Config, kubeconfig: str, node: str) -> None:
    """Everything the daemon does, until cancelled. When the kubeconfig is replaced, all connections are made
    anew; rules stay in force meanwhile.
    """
    _enable_forwarding()
    settings = Settings(config.cluster_cidrs, config.node_port_addresses, config.masquerade_all)
    async with backends.chosen(config.mode, settings) as backend:
        while True:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(_serve(config, settings, backend, kubeconfig, node), name="serve")
                if kubeconfig:
                    await replaced(Path(kubeconfig), RealClock())
                    logger.info("the kubeconfig was replaced, connecting anew")
                    serving.cancel()


async def _serve(config: Config, settings: Settings, backend: Chosen, kubeconfig: str, node: str) -> None:
    async with _connect(config, kubeconfig) as client:
        factory = InformerFactory(client)
        proxy = Proxy(
            factory,
            node,
            settings,
            backend=backend.backend,
            rules=backend.rules,
            tracked=backend.tracked,
            min_sync_period=config.min_sync_period,
            sync_period=config.sync_period,
        )
        checks = HealthChecks(lambda: proxy.healthy)
        proxy.on_synced.append(checks.update)
        logger.info("starting", extra={"node": node, "mode": config.mode})
        async with asyncio.TaskGroup() as group:
            group.create_task(factory.run(), name="informers")
            group.create_task(proxy.run(), name="proxy")
            group.create_task(checks.run(), name="health-checks")
            if backend.policies:
                group.create_task(PolicyAgent(client, node).run(), name="policies")
            group.create_task(_retire_others(proxy, config.mode), name="retire-others")
            for address, app in (
                (config.healthz_bind_address, Healthz(proxy)),
                (config.metrics_bind_address, Metrics(config.mode, proxy)),
            ):
                if address:
                    host, _, port = address.rpartition(":")
                    serving = server.serve(app, host=host.strip("[]"), port=int(port))
                    group.create_task(serving, name=f"http/{address}")


async def _retire_others(proxy: Proxy, mode: str) -> None:
    """Once ours is in force, what the other back ends left in an earlier life must go."""
    first = asyncio.Event()
    proxy.on_synced.append(lambda _: first.set())
    await first.wait()
    await backends.retire_others(mode)


def _connect(config: Config, kubeconfig: str) -> RestClient:
    if kubeconfig:
        return RestClient.from_kubeconfig(
            kubeconfig, user_agent="kube-proxy", qps=config.qps, burst=config.burst
        )
    try:
        return RestClient.in_cluster(user_agent="kube-proxy", qps=config.qps, burst=config.burst)
    except NotInCluster as error:
        raise ConfigError(f"clientConnection.kubeconfig is not set and {error}") from None


def _enable_forwarding() -> None:
    """Packets for pods must be routed through this host."""
    try:
        if _FORWARDING.read_text(encoding="ascii").strip() != "1":
            _FORWARDING.write_text("1", encoding="ascii")
    except OSError as error:
        logger.warning(
            "net.ipv4.ip_forward is off and cannot be set: services will not work", extra={"error": error}
        )


class Healthz:
    """`/healthz` and `/livez` as load balancers and kube-proxy's own clients read them."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] not in ("/healthz", "/livez"):
            await respond(send, 404, b"404 page not found\n")
            return
        # A node about to go away still serves, but takes no new connections: only /healthz says so.
        eligible = self._proxy.node_eligible
        healthy = self._proxy.healthy and (eligible or scope["path"] == "/livez")
        body = {
            "lastUpdated": _stamp(self._proxy.last_synced),
            "currentTime": _stamp(time.time()),
            "nodeEligible": eligible,
        }
        await respond(send, 200 if healthy else 503, orjson.dumps(body), "application/json")


class Metrics(Health):
    """`/metrics`, `/proxyMode`, and `/healthz`, `/livez` and `/readyz` with named checks."""

    def __init__(self, mode: str, proxy: Proxy) -> None:
        super().__init__()
        self._mode = mode
        self._proxy = proxy
        self.add("rules-programmed", self._programmed, live=False)
        self.add("rules-fresh", self._fresh)

    def _programmed(self) -> None:
        if not self._proxy.last_synced:
            raise RuntimeError("no rules have been programmed yet")

    def _fresh(self) -> None:
        if self._proxy.lag >= UNSYNCED_IS_SICK:
            raise RuntimeError(f"a change has been waiting for its rules for {self._proxy.lag:.0f} s")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/proxyMode":
            await respond(send, 200, self._mode.encode())
            return
        await super().__call__(scope, receive, send)


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
