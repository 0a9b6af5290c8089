"""kube-controller-manager: flags, the lease, and the controllers on shared informers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import Mapping, Sequence

from componentbase import log as logs
from componentbase import tasks, tlsutil
from componentbase.clock import RealClock
from componentbase.flags import Values
from componentbase.health import Health
from componentbase.http.server import serve
from controllers import credentials, registry
from controllers.fence import Fence, FencedTransport, NotingTransport
from controllers.flags import BadFlags, declare, to_options
from controllers.options import Options
from controllers.runtime import Context, Runnable
from kubeclient import transport
from kubeclient.delegated import Delegated, Guarded
from kubeclient.events import EventRecorder
from kubeclient.http1.message import Transport
from kubeclient.informer import InformerFactory
from kubeclient.leaderelection import LeaderElector, LeaseLost
from kubeclient.resources import LEASES
from kubeclient.rest import RestClient

AGENT = "kube-controller-manager"
SYNC_TIMEOUT = 120.0  # seconds for the first lists; then the manager says what is missing and starts over

log = logging.getLogger("controllers.manager")


class Manager:
    """One process' share of the work: serve health, wait for the lease, run the loops."""

    def __init__(self, values: Values, options: Options, entries: Sequence[registry.Entry]) -> None:
        self._values, self._options, self._entries = values, options, entries
        self._clock = RealClock()
        self._recorders: dict[str, EventRecorder] = {}
        lease = LEASES.path(values.leader_elect_resource_namespace, values.leader_elect_resource_name)
        self._fence = Fence(lease, values.leader_elect_lease_duration)

    async def run(self) -> None:
        """Until cancelled, or until the lease is lost (LeaseLost)."""
        target = transport.from_kubeconfig(self._values.kubeconfig)
        noting = NotingTransport(transport.open_transport(target), self._fence)
        async with (
            self._client(target, noting) as keeper,
            self._client(target, self._transport(target)) as client,
            asyncio.TaskGroup() as group,
        ):
            if self._values.secure_port:
                group.create_task(self._serve(keeper), name="secure-port")
            if self._values.leader_elect:
                await self._campaign(keeper, client)
                raise LeaseLost(self._values.leader_elect_resource_name)
            await self._lead(client)

    def _client(self, target: transport.Target, under: Transport) -> RestClient:
        qps, burst = self._values.kube_api_qps, self._values.kube_api_burst
        return RestClient(target, user_agent=AGENT, qps=qps, burst=burst, transport=under)

    def _transport(self, target: transport.Target) -> Transport:
        """What every controller's client stands on: nothing is written once the lease has run out."""
        pool = transport.open_transport(target)
        return FencedTransport(pool, self._fence) if self._values.leader_elect else pool

    async def _campaign(self, keeper: RestClient, client: RestClient) -> None:
        elector = LeaderElector(
            keeper,
            namespace=self._values.leader_elect_resource_namespace,
            name=self._values.leader_elect_resource_name,
            identity=f"{socket.gethostname()}_{os.urandom(8).hex()}",
            lease_duration=self._values.leader_elect_lease_duration,
            renew_deadline=self._values.leader_elect_renew_deadline,
            retry_period=self._values.leader_elect_retry_period,
        )
        await elector.run(lambda: self._lead(client))

    async def _lead(self, client: RestClient) -> None:
        """Run every selected controller; the first that fails ends all of them, and the process."""
        async with contextlib.AsyncExitStack() as stack:
            accounts: Mapping[str, RestClient] = {}
            if self._values.use_service_account_credentials:
                wanted = {entry.controller.account for entry in self._entries} - {""}
                accounts = await stack.enter_async_context(
                    credentials.open_clients(
                        client, self._values.kubeconfig, wanted, self._clock, self._transport
                    )
                )
            await self._run_controllers(client, accounts)

    async def _run_controllers(self, client: RestClient, accounts: Mapping[str, RestClient]) -> None:
        informers = InformerFactory(client)
        ctx = Context(
            client=client,
            informers=informers,
            clock=self._clock,
            options=self._options,
            recorder=lambda component: self._recorder(client, component),
            accounts=accounts,
        )
        controllers = [entry.build(ctx) for entry in self._entries]
        async with asyncio.TaskGroup() as group:
            group.create_task(informers.run(), name="informers")
            for component, recorder in self._recorders.items():
                group.create_task(recorder.run(), name=f"events/{component}")
            await informers.wait_synced(SYNC_TIMEOUT)
            log.info("informers synced, starting", extra={"controllers": len(controllers)})
            for controller in controllers:
                group.create_task(_named(controller), name=controller.name)

    def _recorder(self, client: RestClient, component: str) -> EventRecorder:
        if component not in self._recorders:
            self._recorders[component] = EventRecorder(client, component)
        return self._recorders[component]

    async def _serve(self, client: RestClient) -> None:
        await serve(
            Guarded(Health(), Delegated(client, time.monotonic)),
            host=self._values.bind_address,
            port=self._values.secure_port,
            ssl_context=_serving_context(self._values),
        )


async def _named(controller: Runnable) -> None:
    try:
        await controller.run()
    except Exception:
        log.exception("controller ended", extra={"controller": controller.name})
        raise


def _serving_context(values: Values) -> ssl.SSLContext:
    """The given certificate, or one made for this run that only says the traffic is encrypted."""
    client_ca = values.client_ca_file or None
    if values.tls_cert_file:
        return tlsutil.server_context(values.tls_cert_file, values.tls_private_key_file, client_ca)
    from pki.selfsigned import serving_pair

    certificate, key = serving_pair(AGENT)
    return tlsutil.server_context(certificate, key, client_ca)


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM; 2 for flags that cannot be used, 1 when the lease or a controller is lost."""
    values = declare().parse(argv)
    logs.setup("controllers", values.v)
    try:
        options = to_options(values)
        selected = registry.select(values.controllers)
    except (BadFlags, registry.UnknownController, ValueError, OSError) as error:
        print(f"{AGENT}: {error}", file=sys.stderr)
        return 2
    entries = []
    for entry in selected:
        if missing := entry.lacks(options):
            log.warning("controller skipped", extra={"controller": entry.name, "needs": missing})
        else:
            entries.append(entry)
    return tasks.run(lambda: Manager(values, options, entries).run())
