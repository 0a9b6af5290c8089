"""kube-scheduler: flags, wiring, and running until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from componentbase import log as logs
from componentbase import tasks, tlsutil
from componentbase.backoff import Backoff
from componentbase.flags import Flags, Values
from componentbase.health import Health
from componentbase.http.server import serve
from kubeclient.delegated import Delegated, Guarded
from kubeclient.events import EventRecorder
from kubeclient.informer import Informer, InformerFactory
from kubeclient.leaderelection import LeaderElector, LeaseLost
from kubeclient.resources import (
    CSINODES,
    NAMESPACES,
    NODES,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODDISRUPTIONBUDGETS,
    PODS,
    REPLICASETS,
    REPLICATIONCONTROLLERS,
    SERVICES,
    STATEFULSETS,
    STORAGECLASSES,
)
from kubeclient.rest import ConnectionFailed, RestClient
from pki.kubeconfig import load as load_kubeconfig
from pki.selfsigned import serving_pair
from scheduler.cluster import Cluster
from scheduler.columns import Columns
from scheduler.config import ConfigError, Configuration, default_profile, load
from scheduler.explain import Archive
from scheduler.loop import SchedulingLoop
from scheduler.queue import SchedulingQueue
from scheduler.serving import Debug
from scheduler.workloads import Workloads

log = logging.getLogger(__name__)

COMPONENT = "kube-scheduler"
ELECTION = f"{COMPONENT}/leader-election"
SYNC_TIMEOUT = 60.0


def _flags() -> Flags:
    flags = Flags(COMPONENT, "Assigns pods to nodes.")
    flags.string("config", "", "KubeSchedulerConfiguration file")
    flags.string("kubeconfig", "", "kubeconfig of the apiserver")
    flags.boolean("leader-elect", True, "take part in leader election (a --config file decides instead)")
    flags.string("bind-address", "0.0.0.0", "address of the secure port")
    flags.integer("secure-port", 10259, "HTTPS port of health and metrics; 0 turns it off")
    flags.string("tls-cert-file", "", "serving certificate (self-signed if absent)")
    flags.string("tls-private-key-file", "", "key of the serving certificate")
    flags.string("client-ca-file", "", "CA of client certificates (the kubeconfig's if absent)")
    flags.integer("v", 0, "log verbosity")
    return flags


def main(argv: Sequence[str]) -> int:
    """Run the scheduler; returns the exit code."""
    values = _flags().parse(argv)
    logs.setup("scheduler", values.v)
    try:
        config = load(Path(values.config)) if values.config else Configuration((default_profile(),))
    except ConfigError as error:
        print(f"{COMPONENT}: {error}", file=sys.stderr)
        return 1
    return tasks.run(lambda: _run(values, config))


async def _run(values: Values, config: Configuration) -> None:
    kubeconfig = config.kubeconfig or values.kubeconfig
    async with (
        RestClient.from_kubeconfig(kubeconfig, user_agent=COMPONENT) as client,
        # Bindings under a rate limit must not hold up the reviews of who asks at the secure port.
        RestClient.from_kubeconfig(
            kubeconfig, user_agent=COMPONENT, qps=config.qps, burst=config.burst
        ) as writer,
    ):
        profiles = {profile.scheduler_name: profile for profile in config.profiles}
        first = config.profiles[0]
        queue = SchedulingQueue(
            time.monotonic, lambda pod: profiles[pod.scheduler_name].gate(pod), first.queue_sort.sort_key
        )
        cluster = Cluster(Columns(), queue, profiles)
        factory = _watch(client, cluster)
        recorder = EventRecorder(writer, "default-scheduler", socket.gethostname())
        archive = Archive()
        loop = SchedulingLoop(writer, cluster, profiles, recorder, random.Random(), archive)
        why = Debug(Health(), lambda key: archive.why(key, cluster.columns, cluster.nominated))

        async def lead() -> None:
            log.info("scheduling")
            await loop.run()

        async with asyncio.TaskGroup() as group:
            if values.secure_port:
                guarded = Guarded(why, Delegated(client, time.monotonic))
                group.create_task(_serve(values, guarded, kubeconfig), name="secure-port")
            group.create_task(recorder.run(), name="events")
            group.create_task(factory.run(), name="informers")  # a standby keeps its view warm
            group.create_task(_follow_csi_nodes(client, cluster), name="csinodes")
            await factory.wait_synced(SYNC_TIMEOUT)
            if config.leader_election.leader_elect and values.leader_elect:
                # A client of its own: a burst of bindings under a rate limit must not hold up the renewal.
                async with RestClient.from_kubeconfig(kubeconfig, user_agent=ELECTION) as election:
                    await _elector(election, config).run(lead)
                raise LeaseLost(config.leader_election.resource_name)
            await lead()


def _watch(client: RestClient, cluster: Cluster) -> InformerFactory:
    factory = InformerFactory(client)
    factory.informer(NAMESPACES).add_handler(
        cluster.namespace_seen, cluster.namespace_updated, cluster.namespace_deleted
    )
    factory.informer(NODES).add_handler(cluster.node_added, cluster.node_updated, cluster.node_deleted)
    factory.informer(PODS).add_handler(cluster.pod_added, cluster.pod_updated, cluster.pod_deleted)
    factory.informer(PODDISRUPTIONBUDGETS).add_handler(
        cluster.budget_seen, lambda _, new: cluster.budget_seen(new), cluster.budget_deleted
    )
    _watch_workloads(factory, cluster.columns.workloads)
    for gvr, seen, gone in (
        (PERSISTENTVOLUMECLAIMS, cluster.claim_seen, cluster.claim_deleted),
        (PERSISTENTVOLUMES, cluster.volume_seen, cluster.columns.volumes.remove_volume),
        (STORAGECLASSES, cluster.class_seen, cluster.class_deleted),
    ):
        factory.informer(gvr).add_handler(seen, partial(_second, seen), gone)
    return factory


def _watch_workloads(factory: InformerFactory, workloads: Workloads) -> None:
    factory.informer(SERVICES).add_handler(
        workloads.set_service, lambda _, new: workloads.set_service(new), workloads.remove_service
    )
    for gvr in (REPLICASETS, STATEFULSETS, REPLICATIONCONTROLLERS):
        seen = partial(workloads.set_owner, gvr.kind)
        factory.informer(gvr).add_handler(
            seen, partial(_second, seen), partial(workloads.remove_owner, gvr.kind)
        )


def _second(seen: Callable[[dict[str, Any]], None], _: dict[str, Any], new: dict[str, Any]) -> None:
    """An update, for a handler that only wants what is new."""
    seen(new)


def _elector(client: RestClient, config: Configuration) -> LeaderElector:
    election = config.leader_election
    return LeaderElector(
        client,
        namespace=election.resource_namespace,
        name=election.resource_name,
        identity=f"{socket.gethostname()}_{os.getpid()}_{os.urandom(4).hex()}",
        lease_duration=election.lease_duration,
        renew_deadline=election.renew_deadline,
        retry_period=election.retry_period,
    )


async def _follow_csi_nodes(client: RestClient, cluster: Cluster) -> None:
    """CSINode is optional: an API server may not have it, and then no node limits its volumes."""
    backoff = Backoff(0.5, 10.0)
    while True:
        try:
            answer = await client.raw("GET", "/apis/storage.k8s.io/v1")
        except ConnectionFailed as error:
            log.debug("cannot ask for csinodes", extra={"error": str(error)})
        else:
            if answer.status == 200:
                break
        await asyncio.sleep(backoff.next())
    if any(each["name"] == CSINODES.resource for each in answer.json().get("resources") or ()):
        informer = Informer(client, CSINODES)
        informer.add_handler(
            cluster.csi_node_seen, partial(_second, cluster.csi_node_seen), cluster.csi_node_deleted
        )
        await informer.run()


async def _serve(values: Values, app: Guarded, kubeconfig: str) -> None:
    context = _context(values, kubeconfig)
    await serve(app, host=values.bind_address, port=values.secure_port, ssl_context=context)


def _context(values: Values, kubeconfig: str) -> ssl.SSLContext:
    """Client certificates are verified by `--client-ca-file`, or by the CA that the kubeconfig trusts."""
    client_ca = values.client_ca_file or load_kubeconfig(kubeconfig).ca_pem
    if values.tls_cert_file:
        return tlsutil.server_context(values.tls_cert_file, values.tls_private_key_file, client_ca)
    cert, key = serving_pair(socket.gethostname())
    return tlsutil.server_context(cert, key, client_ca)
