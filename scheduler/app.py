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
from collections.abc import Sequence
from pathlib import Path

from componentbase import log, tasks, tlsutil
from componentbase.flags import Flags, Values
from componentbase.health import Health
from componentbase.http.server import serve
from kubeclient.events import EventRecorder
from kubeclient.informer import InformerFactory
from kubeclient.leaderelection import LeaderElector
from kubeclient.resources import NAMESPACES, NODES, PODS
from kubeclient.rest import RestClient
from pki.selfsigned import serving_pair
from scheduler.cluster import Cluster
from scheduler.columns import Columns
from scheduler.config import ConfigError, Configuration, default_profile, load
from scheduler.loop import SchedulingLoop
from scheduler.queue import SchedulingQueue

COMPONENT = "kube-scheduler"
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
    flags.integer("v", 0, "log verbosity")
    return flags


def main(argv: Sequence[str]) -> int:
    """Run the scheduler; returns the exit code."""
    values = _flags().parse(argv)
    log.setup("scheduler", values.v)
    try:
        config = load(Path(values.config)) if values.config else Configuration((default_profile(),))
    except ConfigError as error:
        print(f"{COMPONENT}: {error}", file=sys.stderr)
        return 1
    return tasks.run(lambda: _run(values, config))


async def _run(values: Values, config: Configuration) -> None:
    kubeconfig = config.kubeconfig or values.kubeconfig
    async with RestClient.from_kubeconfig(
        kubeconfig, user_agent=COMPONENT, qps=config.qps, burst=config.burst
    ) as client:
        profiles = {profile.scheduler_name: profile for profile in config.profiles}
        cluster = Cluster(Columns(), SchedulingQueue(time.monotonic), profiles)
        factory = _watch(client, cluster)
        recorder = EventRecorder(client, "default-scheduler", socket.gethostname())
        loop = SchedulingLoop(client, cluster, profiles, recorder, random.Random())
        health = Health()

        async def lead() -> None:
            logging.getLogger(__name__).info("scheduling")
            await loop.run()

        async with asyncio.TaskGroup() as group:
            if values.secure_port:
                group.create_task(_serve(values, health), name="secure-port")
            group.create_task(recorder.run(), name="events")
            group.create_task(factory.run(), name="informers")  # a standby keeps its view warm
            await factory.wait_synced(SYNC_TIMEOUT)
            if config.leader_election.leader_elect and values.leader_elect:
                await _elector(client, config).run(lead)
                raise RuntimeError("leader election lost")
            await lead()


def _watch(client: RestClient, cluster: Cluster) -> InformerFactory:
    factory = InformerFactory(client)
    factory.informer(NAMESPACES).add_handler(
        cluster.namespace_seen, cluster.namespace_updated, cluster.namespace_deleted
    )
    factory.informer(NODES).add_handler(cluster.node_added, cluster.node_updated, cluster.node_deleted)
    factory.informer(PODS).add_handler(cluster.pod_added, cluster.pod_updated, cluster.pod_deleted)
    return factory


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


async def _serve(values: Values, health: Health) -> None:
    await serve(health, host=values.bind_address, port=values.secure_port, ssl_context=_context(values))


def _context(values: Values) -> ssl.SSLContext:
    if values.tls_cert_file:
        return tlsutil.server_context(values.tls_cert_file, values.tls_private_key_file)
    cert, key = serving_pair(socket.gethostname())
    return tlsutil.server_context(cert, key)
