"""metrics-server: who may ask, the lease, and the wiring of scraper and server."""

from __future__ import annotations

import asyncio
import logging
import socket
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
from componentbase.flags import Values
from componentbase.health import Health
from componentbase.http.server import serve
from kubeclient.delegated import Delegated, FrontProxy
from kubeclient.informer import Informer
from kubeclient.leaderelection import LeaderElector
from kubeclient.resources import CONFIGMAPS, NODES, PODS
from kubeclient.rest import ConnectionFailed, RestClient
from metricsserver.endpoint import Endpoint, slice_of
from metricsserver.flags import AGENT, complaint, declare
from metricsserver.scrape import Kubelets, Scraper, address_of
from metricsserver.server import Cluster, Server
from metricsserver.store import Store
from pki.kubeconfig import load as load_kubeconfig
from pki.selfsigned import serving_pair

AUTHENTICATION = "extension-apiserver-authentication"

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """Another server leads; whoever started this one starts it again as a candidate."""


async def authentication(client: RestClient) -> Mapping[str, str]:
    """What the API server publishes for extension servers; waits until it can be read."""
    backoff = Backoff(0.2, 2.0)
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


class Member:
    """One server: it serves health at once, and scrapes and answers while it leads."""

    def __init__(self, values: Values, client: RestClient, kubelets: Kubelets) -> None:
        self._values, self._client = values, client
        self._store = Store(values.metric_resolution)
        self._nodes = Informer(client, NODES)
        self._pods = Informer(client, PODS, field_selector="status.phase=Running")
        port = None if values.kubelet_use_node_status_port else values.kubelet_port
        self._scraper = Scraper(
            self._nodes.store.list,
            lambda node: address_of(node, values.kubelet_preferred_address_types, port),
            kubelets.fetch,
            self._store,
            RealClock(),
        )
        self._leads = False

    async def run(self) -> None:
        """Until cancelled, or until the lease is lost (LeaseLost)."""
        data = await authentication(self._client)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._serve(data), name="secure-port")
            if self._values.leader_elect:
                await self._elector().run(self._lead)
                raise LeaseLost(self._values.leader_elect_resource_name)
            await self._lead()

    def _elector(self) -> LeaderElector:
        values = self._values
        return LeaderElector(
            self._client,
            namespace=values.leader_elect_resource_namespace,
            name=values.leader_elect_resource_name,
            # One process has the port, so a leader that was killed and started again may go on at once.
            identity=f"{socket.gethostname()}_{values.bind_address}:{values.secure_port}",
            lease_duration=values.leader_elect_lease_duration,
            renew_deadline=values.leader_elect_renew_deadline,
            retry_period=values.leader_elect_retry_period,
        )

    async def _lead(self) -> None:
        self._leads = True
        async with asyncio.TaskGroup() as group:
            for informer in (self._nodes, self._pods):
                group.create_task(informer.run(), name=f"informer/{informer.gvr.resource}")
            if self._values.leader_elect:
                # At once: discovery can be answered before there is anything to tell.
                group.create_task(self._endpoint().keep(), name="endpoint")
            await self._nodes.wait_synced(120)
            group.create_task(self._scraper.run(), name="scraper")

    def _endpoint(self) -> Endpoint:
        values = self._values
        namespace, service = values.leader_elect_resource_namespace, values.leader_elect_resource_name
        return Endpoint(self._client, slice_of(namespace, service, values.bind_address, values.secure_port))

    async def _serve(self, data: Mapping[str, str]) -> None:
        users = data.get("client-ca-file", "").encode() or None
        delegated = Delegated(self._client, time.monotonic, front_proxy=front_proxy(data), client_ca=users)
        nodes, pods = self._nodes.store, self._pods.store
        cluster = Cluster(nodes.list, pods.list, nodes.get, pods.get, RealClock().now)
        await serve(
            Server(self._store, cluster, delegated, self._health(), lambda: self._leads),
            host=self._values.bind_address,
            port=self._values.secure_port,
            ssl_context=_serving_context(self._values, data),
        )

    def _health(self) -> Health:
        """A standby lives and is not ready: it is no endpoint."""
        health = Health()
        informers = (self._nodes, self._pods)
        health.add("metadata-informer-sync", lambda: _need(all(i.synced for i in informers)), live=False)
        health.add("metric-storage-ready", lambda: _need(self._store.ready), live=False)
        late = self._values.metric_resolution * 1.5 + self._values.kubelet_request_timeout
        timely = "metric-collection-timely"
        health.add(timely, lambda: _need(_since(self._scraper.last_round) < late), ready=False)
        return health


async def run(values: Values) -> None:
    """Serve until cancelled. Raises LeaseLost."""
    kubelets = Kubelets(_kubelet_context(values), values.kubelet_request_timeout)
    try:
        async with _client(values) as client:
            await Member(values, client, kubelets).run()
    finally:
        await kubelets.close()


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
