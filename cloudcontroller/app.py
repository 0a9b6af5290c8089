"""cloud-controller-manager: flags, the lease, and the loops on shared informers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from cloudcontroller.cloud import Cloud
from cloudcontroller.lab.cloud import load_cloud
from cloudcontroller.loops import Context, Loop, Options
from cloudcontroller.nodes.controllers import NodeController, NodeLifecycleController
from cloudcontroller.routes.controller import RouteController
from cloudcontroller.services.controller import ServiceController
from componentbase import log as logs
from componentbase import tasks, tlsutil
from componentbase.clock import RealClock
from componentbase.flags import Flags, Values
from componentbase.health import Health
from componentbase.http.server import serve
from kubeclient.delegated import Delegated, Guarded
from kubeclient.events import EventRecorder
from kubeclient.informer import InformerFactory
from kubeclient.leaderelection import LeaderElector, LeaseLost
from kubeclient.rest import RestClient

AGENT = "cloud-controller-manager"
SYNC_TIMEOUT = 120.0  # seconds for the first lists; then the manager says what is missing and starts over
DEFAULTS = Options()

log = logging.getLogger("cloudcontroller.manager")

LOOPS: Mapping[str, tuple[str, Callable[[Context], Loop]]] = {
    NodeController.name: ("cloud-node", NodeController),
    NodeLifecycleController.name: ("cloud-node-lifecycle", NodeLifecycleController),
    ServiceController.name: ("service", ServiceController),
    RouteController.name: ("route", RouteController),
}
"""Every loop by its name, with the alias that `--controllers` knows as well."""


def declare() -> Flags:
    """Every flag this manager knows; any other is refused by name."""
    flags = Flags(AGENT, "Runs the loops between a cluster and its cloud.")
    flags.string("kubeconfig", "", "Path to the kubeconfig of the manager.")
    flags.string("cloud-provider", "", "The cloud (lab).")
    flags.string("cloud-config", "", "The cloud's configuration file.")
    flags.string("cluster-name", DEFAULTS.cluster_name, "Prefix of what is made in the cloud.")
    flags.string("cluster-cidr", "", "CIDR of all pods.")
    flags.boolean("allocate-node-cidrs", False, "Nodes have pod CIDRs, to which routes are kept.")
    flags.boolean("configure-cloud-routes", True, "Keep routes to pod CIDRs in the cloud.")
    flags.strings("controllers", ["*"], "Controllers to run: '*', 'foo', '-foo'.")
    flags.duration("route-reconciliation-period", "10s", "Time between looks at routes.")
    flags.duration("node-monitor-period", "5s", "Time between looks at silent nodes.")
    flags.duration("node-status-update-frequency", "5m", "Time between looks at all nodes' addresses.")
    flags.integer("concurrent-service-syncs", 1, "Services that are worked on at once.")
    flags.boolean("leader-elect", True, "Run the loops only while holding the lease.")
    flags.duration("leader-elect-lease-duration", "15s", "How long others wait for a silent leader.")
    flags.duration("leader-elect-renew-deadline", "10s", "How long a leader tries to renew.")
    flags.duration("leader-elect-retry-period", "2s", "Time between attempts.")
    flags.string("leader-elect-resource-lock", "leases", "Kind of lock.", choices=("leases",))
    flags.string("leader-elect-resource-name", AGENT, "Name of the lease.")
    flags.string("leader-elect-resource-namespace", "kube-system", "Namespace of the lease.")
    flags.number("kube-api-qps", 0.0, "Requests per second to the API; 0 means no limit.")
    flags.integer("kube-api-burst", 30, "Requests at once when --kube-api-qps is set.")
    flags.string("bind-address", "0.0.0.0", "Address of the secure port.")
    flags.integer("secure-port", 10258, "Port of health and metrics; 0 serves neither.")
    flags.string("tls-cert-file", "", "Serving certificate; one is made in memory when absent.")
    flags.string("tls-private-key-file", "", "Its key.")
    flags.string("client-ca-file", "", "CA of client certificates that may read /metrics.")
    flags.integer("v", 0, "Log verbosity.", short="v")
    return flags


class BadFlags(ValueError):
    """Flags that do not go together; the message names them."""


def check(values: Values) -> None:
    """Raises BadFlags."""
    for needed in ("kubeconfig", "cloud_provider"):
        if not getattr(values, needed):
            raise BadFlags(f"--{needed.replace('_', '-')} is required")
    if bool(values.tls_cert_file) != bool(values.tls_private_key_file):
        raise BadFlags("--tls-cert-file and --tls-private-key-file go together")
    if values.concurrent_service_syncs < 1:
        raise BadFlags("--concurrent-service-syncs must be at least 1")
    if values.allocate_node_cidrs and values.configure_cloud_routes and not values.cluster_cidr:
        raise BadFlags("--configure-cloud-routes needs --cluster-cidr")


def select(values: Values, cloud: Cloud) -> dict[str, Callable[[Context], Loop]]:
    """The loops that `--controllers` asks for and that can run. Raises BadFlags for a name there is not."""
    known = {word: name for name, (alias, _) in LOOPS.items() for word in (name, alias)}
    on: set[str] = set()
    off: set[str] = set()
    for word in values.controllers:
        if word == "*":
            continue
        if word.removeprefix("-") not in known:
            text = f"{word.removeprefix('-')!r} is not in the list of known controllers"
            raise BadFlags(f"--controllers: {text} ({', '.join(LOOPS)})")
        (off if word.startswith("-") else on).add(known[word.removeprefix("-")])
    chosen = {
        name: build
        for name, (_, build) in LOOPS.items()
        if name in on or ("*" in values.controllers and name not in off)
    }
    lacking = {
        RouteController.name: not (values.allocate_node_cidrs and values.configure_cloud_routes),
        ServiceController.name: not cloud.pool,
    }
    for name, lacks in lacking.items():
        if lacks and name in chosen:
            del chosen[name]
            log.warning("controller skipped", extra={"controller": name})
    return chosen


class Manager:
    """One process' share of the work: serve health, wait for the lease, run the loops."""

    def __init__(
        self, values: Values, cloud: Cloud, builders: Mapping[str, Callable[[Context], Loop]]
    ) -> None:
        self._values, self._cloud, self._builders = values, cloud, builders
        self._clock = RealClock()

    async def run(self) -> None:
        """Until cancelled, or until the lease is lost (LeaseLost)."""
        async with (
            self._client() as keeper,
            self._client() as client,
            asyncio.TaskGroup() as group,
        ):
            if self._values.secure_port:
                group.create_task(self._serve(keeper), name="secure-port")
            if self._values.leader_elect:
                await self._campaign(keeper, client)
                raise LeaseLost(self._values.leader_elect_resource_name)
            await self._lead(client)

    def _client(self) -> RestClient:
        """The lease has a client of its own: a burst of writes must not hold up its renewal."""
        values = self._values
        return RestClient.from_kubeconfig(
            values.kubeconfig, user_agent=AGENT, qps=values.kube_api_qps, burst=values.kube_api_burst
        )

    async def _campaign(self, keeper: RestClient, client: RestClient) -> None:
        values = self._values
        elector = LeaderElector(
            keeper,
            namespace=values.leader_elect_resource_namespace,
            name=values.leader_elect_resource_name,
            identity=f"{socket.gethostname()}_{os.urandom(8).hex()}",
            lease_duration=values.leader_elect_lease_duration,
            renew_deadline=values.leader_elect_renew_deadline,
            retry_period=values.leader_elect_retry_period,
        )
        await elector.run(lambda: self._lead(client))

    async def _lead(self, client: RestClient) -> None:
        """Run every selected loop; the first that fails ends all of them, and the process."""
        informers = InformerFactory(client)
        recorders: list[EventRecorder] = []

        def recorder(component: str) -> EventRecorder:
            recorders.append(EventRecorder(client, component))
            return recorders[-1]

        given = self._values.as_dict()
        options = Options(**{name: given[name] for name in Options.__dataclass_fields__})
        ctx = Context(client, informers, self._clock, self._cloud, options, recorder)
        loops = [build(ctx) for build in self._builders.values()]
        async with asyncio.TaskGroup() as group:
            group.create_task(informers.run(), name="informers")
            group.create_task(self._cloud.run(), name="cloud")
            for each in recorders:
                group.create_task(each.run(), name="events")
            await informers.wait_synced(SYNC_TIMEOUT)
            log.info("informers synced, starting", extra={"controllers": ",".join(self._builders)})
            for loop in loops:
                group.create_task(loop.run(), name=loop.name)

    async def _serve(self, client: RestClient) -> None:
        await serve(
            Guarded(Health(), Delegated(client, time.monotonic)),
            host=self._values.bind_address,
            port=self._values.secure_port,
            ssl_context=_serving_context(self._values),
        )


def _serving_context(values: Values) -> ssl.SSLContext:
    """The given certificate, or one made for this run that only says the traffic is encrypted."""
    client_ca = values.client_ca_file or None
    if values.tls_cert_file:
        return tlsutil.server_context(values.tls_cert_file, values.tls_private_key_file, client_ca)
    from pki.selfsigned import serving_pair

    return tlsutil.server_context(*serving_pair(AGENT), client_ca)


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM; 2 for flags that cannot be used, 1 when the lease or a loop is lost."""
    values = declare().parse(argv)
    logs.setup("cloudcontroller", values.v)
    try:
        check(values)
        cloud = load_cloud(values.cloud_provider, values.cloud_config)
        builders = select(values, cloud)
    except (ValueError, OSError) as error:
        print(f"{AGENT}: {error}", file=sys.stderr)
        return 2
    return tasks.run(lambda: Manager(values, cloud, builders).run())
