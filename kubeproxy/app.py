"""kube-proxy: flags, configuration, wiring.

apiserver --list+watch--> informers --> Proxy --compile--> RuleSet --nft--> kernel
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
from componentbase.health import Health, respond
from componentbase.http import server
from kubeclient.informer import InformerFactory
from kubeclient.rest import NotInCluster, RestClient
from kubeproxy import config as configuration
from kubeproxy import nftables
from kubeproxy.compiler import Settings
from kubeproxy.config import Config, ConfigError
from kubeproxy.proxy import Proxy

logger = logging.getLogger(__name__)

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_UNSYNCED_IS_SICK = 60.0
"""Seconds a change may wait for its rules before the proxy calls itself unhealthy (twice the sync period)."""


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
        return tasks.run(nftables.Nft().remove)
    try:
        config = configuration.load(values.config) if values.config else Config()
    except (ConfigError, OSError) as error:
        logger.error("configuration: %s", error)
        return 1
    node = values.hostname_override or config.hostname_override or socket.gethostname()
    kubeconfig = config.kubeconfig or values.kubeconfig
    return tasks.run(lambda: run(config, kubeconfig, node.strip().lower()))


async def run(config: Config, kubeconfig: str, node: str) -> None:
    """Everything the daemon does, until cancelled."""
    _enable_forwarding()
    async with _connect(config, kubeconfig) as client:
        factory = InformerFactory(client)
        settings = Settings(config.cluster_cidrs, config.node_port_addresses, config.masquerade_all)
        proxy = Proxy(
            factory,
            node,
            settings,
            min_sync_period=config.min_sync_period,
            sync_period=config.sync_period,
        )
        logger.info("starting", extra={"node": node, "mode": "nftables"})
        async with asyncio.TaskGroup() as group:
            group.create_task(factory.run(), name="informers")
            group.create_task(proxy.run(), name="proxy")
            for address, app in (
                (config.healthz_bind_address, Healthz(proxy)),
                (config.metrics_bind_address, Metrics()),
            ):
                if address:
                    host, _, port = address.rpartition(":")
                    serving = server.serve(app, host=host.strip("[]"), port=int(port))
                    group.create_task(serving, name=f"http/{address}")


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
        # Before its first sync the proxy is as unhealthy as when it is stuck.
        healthy = self._proxy.last_synced > 0 and self._proxy.lag < _UNSYNCED_IS_SICK
        body = {
            "lastUpdated": _stamp(self._proxy.last_synced),
            "currentTime": _stamp(time.time()),
            "nodeEligible": True,
        }
        await respond(send, 200 if healthy else 503, orjson.dumps(body), "application/json")


class Metrics(Health):
    """`/metrics`, `/healthz` and `/proxyMode`."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/proxyMode":
            await respond(send, 200, b"nftables")
            return
        await super().__call__(scope, receive, send)


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
