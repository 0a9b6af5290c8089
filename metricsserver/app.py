"""metrics-server: flags, who may ask, and the wiring of scraper and server."""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from apimachinery.errors import StatusError
from componentbase import log as logs
from componentbase import tasks, tlsutil
from componentbase.backoff import Backoff
from componentbase.clock import RealClock
from componentbase.flags import Flags, Values
from componentbase.health import Health
from componentbase.http.server import serve
from kubeclient.delegated import Delegated, FrontProxy
from kubeclient.informer import Informer
from kubeclient.resources import CONFIGMAPS, NODES, PODS
from kubeclient.rest import ConnectionFailed, RestClient
from metricsserver.scrape import Kubelets, Scraper, address_of
from metricsserver.server import Cluster, Server
from metricsserver.store import Store
from pki.kubeconfig import load as load_kubeconfig
from pki.selfsigned import serving_pair

AGENT = "metrics-server"
ADDRESS_TYPES = ["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"]
MINIMUM_RESOLUTION = 10.0  # seconds; kubelets do not look at containers much more often
AUTHENTICATION = "extension-apiserver-authentication"

log = logging.getLogger(__name__)


def declare() -> Flags:
    """Every flag this server knows, each the real one's; any other is refused by name."""
    flags = Flags(AGENT, "Serves what nodes and pods use as metrics.k8s.io.")
    flags.string("kubeconfig", "", "Path to the kubeconfig; in a pod its service account serves.")
    flags.string("bind-address", "0.0.0.0", "Address of the secure port.")
    flags.integer("secure-port", 443, "Port of the API, health and metrics.")
    flags.string("tls-cert-file", "", "Serving certificate; one is made in memory when absent.")
    flags.string("tls-private-key-file", "", "Its key.")
    flags.duration("metric-resolution", "1m", "Time between two rounds of scrapes, at least 10s.")
    flags.boolean("kubelet-insecure-tls", False, "Do not verify kubelets' certificates.")
    flags.string("kubelet-certificate-authority", "", "CA of kubelets' certificates; else the cluster's.")
    flags.string("kubelet-client-certificate", "", "Client certificate for kubelets; else the kubeconfig's.")
    flags.string("kubelet-client-key", "", "Its key.")
    flags.boolean("kubelet-use-node-status-port", False, "Take kubelets' port from nodes' status.")
    flags.integer("kubelet-port", 10250, "Port of kubelets, unless it is taken from nodes' status.")
    flags.strings("kubelet-preferred-address-types", ADDRESS_TYPES, "Types of nodes' addresses, best first.")
    flags.duration("kubelet-request-timeout", "10s", "How long a kubelet may take to answer.")
    flags.integer("v", 0, "Log verbosity.", short="v")
    return flags


def complaint(values: Values) -> str | None:
    """Why the flags cannot be used, if they cannot."""
    if values.metric_resolution < MINIMUM_RESOLUTION:
        return f"--metric-resolution must be at least {MINIMUM_RESOLUTION:g}s"
    if values.kubelet_request_timeout > values.metric_resolution * 0.9:
        return "--kubelet-request-timeout must be shorter than nine tenths of --metric-resolution"
    for one, other in (
        ("tls_cert_file", "tls_private_key_file"),
        ("kubelet_client_certificate", "kubelet_client_key"),
    ):
        if bool(getattr(values, one)) != bool(getattr(values, other)):
            return f"--{one} and --{other} go together".replace("_", "-")
    return None


async def authentication(client: RestClient) -> Mapping[str, str]:
    """What the API server publishes for extension servers; waits until it can be read."""
    backoff = Backoff(0.2, 10.0)
    while True:
        try:
            found = await client.get(CONFIGMAPS, AUTHENTICATION, "kube-system")
            return dict(found.get("data") or {})
        except (StatusError, ConnectionFailed) as error:
            log.warning("waiting for %s: %s", AUTHENTICATION, error)
            await asyncio.sleep(backoff.next())


def front_proxy(data: Mapping[str, str]) -> FrontProxy | None:
    """The aggregation layer's own identity, as the API server publishes it. Pure."""

    def names(key: str) -> tuple[str, ...]:
        listed: list[str] = orjson.loads(data.get(f"requestheader-{key}") or "[]")
        return tuple(listed)

    bundle = data.get("requestheader-client-ca-file")
    if not bundle:
        return None
    users, groups, extras = (
        tuple(name.lower() for name in names(key))
        for key in ("username-headers", "group-headers", "extra-headers-prefix")
    )
    return FrontProxy(bundle.encode(), frozenset(names("allowed-names")), users, groups, extras)


def _kubelet_context(values: Values) -> ssl.SSLContext:
    cert: Any = values.kubelet_client_certificate or None
    key: Any = values.kubelet_client_key or None
    authority: Any = values.kubelet_certificate_authority or None
    if values.kubeconfig:
        config = load_kubeconfig(values.kubeconfig)
        authority = authority or config.ca_pem
        if cert is None:
            cert, key = config.cert_pem, config.key_pem
    return tlsutil.client_context(authority, cert, key, insecure=values.kubelet_insecure_tls)


def _serving_context(values: Values, data: Mapping[str, str]) -> ssl.SSLContext:
    bundles = (data.get("client-ca-file", ""), data.get("requestheader-client-ca-file", ""))
    client_ca = "".join(bundles).encode() or None
    if values.tls_cert_file:
        return tlsutil.server_context(values.tls_cert_file, values.tls_private_key_file, client_ca)
    return tlsutil.server_context(*serving_pair(AGENT), client_ca)


def _client(values: Values) -> RestClient:
    if values.kubeconfig:
        return RestClient.from_kubeconfig(values.kubeconfig, user_agent=AGENT)
    return RestClient.in_cluster(user_agent=AGENT)


async def run(values: Values) -> None:
    """Serve until cancelled."""
    clock, store = RealClock(), Store(values.metric_resolution)
    kubelets = Kubelets(_kubelet_context(values), values.kubelet_request_timeout)
    async with _client(values) as client:
        nodes, pods = Informer(client, NODES), Informer(client, PODS, field_selector="status.phase=Running")
        port = None if values.kubelet_use_node_status_port else values.kubelet_port
        scraper = Scraper(
            nodes.store.list,
            lambda node: address_of(node, values.kubelet_preferred_address_types, port),
            kubelets.fetch,
            store,
            clock,
        )
        cluster = Cluster(nodes.store.list, pods.store.list, nodes.store.get, pods.store.get, clock.now)
        try:
            async with asyncio.TaskGroup() as group:
                for informer in (nodes, pods):
                    group.create_task(informer.run(), name=f"informer/{informer.gvr.resource}")
                group.create_task(_serve(values, client, cluster, store, (nodes, pods), scraper))
                await nodes.wait_synced(120)
                group.create_task(scraper.run(), name="scraper")
        finally:
            await kubelets.close()


async def _serve(
    values: Values,
    client: RestClient,
    cluster: Cluster,
    store: Store,
    informers: Sequence[Informer],
    scraper: Scraper,
) -> None:
    data = await authentication(client)
    users = data.get("client-ca-file", "").encode() or None
    delegated = Delegated(client, time.monotonic, front_proxy=front_proxy(data), client_ca=users)
    health = Health()
    health.add("metadata-informer-sync", lambda: _need(all(i.synced for i in informers)), live=False)
    health.add("metric-storage-ready", lambda: _need(store.ready), live=False)
    late = values.metric_resolution * 1.5 + values.kubelet_request_timeout
    health.add("metric-collection-timely", lambda: _need(_since(scraper.last_round) < late), ready=False)
    await serve(
        Server(store, cluster, delegated, health),
        host=values.bind_address,
        port=values.secure_port,
        ssl_context=_serving_context(values, data),
    )


def _since(moment: float) -> float:
    """Seconds since a round; before the first there is nothing to be late for."""
    return time.monotonic() - moment if moment else 0.0


def _need(condition: bool) -> None:
    if not condition:
        raise RuntimeError("not yet")


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM; 2 for flags that cannot be used."""
    values = declare().parse(argv)
    logs.setup("metricsserver", values.v)
    if wrong := complaint(values):
        print(f"{AGENT}: {wrong}", file=sys.stderr)
        return 2
    return tasks.run(lambda: run(values))
