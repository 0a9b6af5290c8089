"""The `kubelet` command: flags, configuration, wiring."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from componentbase import log as logs
from componentbase.clock import RealClock
from componentbase.flags import Flags
from componentbase.tasks import Background, run
from kubeclient.rest import RestClient
from kubelet.agent import Kubelet, Settings
from kubelet.certificates import CertificateStore
from kubelet.config import ConfigurationError, KubeletConfig, load
from kubelet.credentials import Credentials
from kubelet.cri.client import CriRuntime
from kubelet.cri.port import Runtime
from kubelet.embedded.runtime import NAME as EMBEDDED
from kubelet.embedded.runtime import EmbeddedRuntime, parse_endpoint
from kubelet.hollow import Herd, run_herd

log = logging.getLogger(__name__)


def flags() -> Flags:
    """The flags; every one is the real kubelet's."""
    made = Flags("kubelet", "The node agent: runs the pods that are bound to its node.")
    made.string("config", "", "file with a KubeletConfiguration")
    made.string("kubeconfig", "", "how to reach the apiserver")
    made.string(
        "bootstrap-kubeconfig", "", "how to reach the apiserver to ask for a first client certificate"
    )
    made.string("cert-dir", "/var/lib/kubelet/pki", "where certificates that were asked for are kept")
    made.string("hostname-override", "", "the node's name, instead of the host name")
    made.string("node-ip", "", "the node's addresses, comma separated; by default found out")
    made.string("provider-id", "", "what the cloud calls this node")
    made.string("cloud-provider", "", "who looks after the cloud", choices=("", "external"))
    made.string("container-runtime-endpoint", "", "CRI endpoint, unix:///path")
    made.string("cgroup-root", "", "cgroup below which pods live")
    made.string("root-dir", "/var/lib/kubelet", "where pods keep their volumes")
    made.string("pod-log-dir", "/var/log/pods", "where containers log")
    made.boolean("hollow", False, "simulate the runtime: pods run in memory only, for tests of scale")
    made.integer("hollow-nodes", 1, "with --hollow: how many nodes this process is")
    made.string("hollow-prefix", "hollow-", "with --hollow: what the nodes are called, before their number")
    made.integer("v", 0, "log verbosity")
    return made


def settings_from(values: Any) -> Settings:
    """Flags over configuration file over defaults. Raises `ConfigurationError`."""
    config = load(Path(values.config)) if values.config else KubeletConfig()
    if values.container_runtime_endpoint:
        config = replace(config, runtime_endpoint=values.container_runtime_endpoint)
    if values.cgroup_root:
        config = replace(config, cgroup_root=values.cgroup_root)
    if not values.kubeconfig:
        raise ConfigurationError("--kubeconfig is required: standalone mode is not supported")
    if config.rotate_certificates and not values.bootstrap_kubeconfig:
        raise ConfigurationError("rotateCertificates is supported only with --bootstrap-kubeconfig")
    name = values.hostname_override or socket.gethostname().lower()
    ips = tuple(ip for ip in values.node_ip.split(",") if ip) or (_own_address(),)
    external = values.cloud_provider == "external"
    return Settings(
        config,
        name,
        ips,
        Path(values.root_dir),
        values.pod_log_dir,
        external,
        values.provider_id,
        Path(values.cert_dir),
    )


def _own_address() -> str:
    """The source address of the default route, as the real kubelet chooses; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError as error:
            raise ConfigurationError("no default route: give --node-ip") from error
        return str(probe.getsockname()[0])


def herd_from(values: Any) -> Herd:
    """The hollow nodes that the flags ask for. Raises `ConfigurationError`."""
    config = load(Path(values.config)) if values.config else KubeletConfig()
    if not values.kubeconfig:
        raise ConfigurationError("--kubeconfig is required")
    if values.hollow_nodes < 1:
        raise ConfigurationError("--hollow-nodes must be at least 1")
    return Herd(values.hollow_nodes, values.hollow_prefix, config)


async def serve_hollow(herd: Herd, kubeconfig: str) -> None:
    """Run hollow nodes until cancelled; they have no servers, so logs and exec are not to be had."""
    async with RestClient.from_kubeconfig(kubeconfig, user_agent="hollow-kubelet") as client:
        await run_herd(herd, client, RealClock())


async def serve_for_ever(settings: Settings, credentials: Credentials) -> None:
    """Serve, and whenever the credentials are others serve anew with them: pods run on meanwhile, as they do
    whenever a kubelet restarts.
    """
    clock = RealClock()
    while True:
        await credentials.had(settings.node_name, clock)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(serve(settings, str(credentials.kubeconfig)), name="serve")
            await credentials.spent(settings.node_name, clock)
            log.info("connecting anew with other credentials")
            serving.cancel()


def open_runtime(settings: Settings) -> tuple[Runtime, Settings]:
    """The runtime of the endpoint, and the settings with what it says of itself. Raises ValueError."""
    endpoint = settings.config.runtime_endpoint
    if not endpoint.startswith(f"{EMBEDDED}:"):
        return CriRuntime(endpoint), settings
    runtime = EmbeddedRuntime(*parse_endpoint(endpoint))
    said = replace(settings, runtime_name=EMBEDDED, not_isolated=tuple(runtime.lacking()))
    return runtime, said


def say_what_is_not_isolated(settings: Settings, kubelet: Kubelet) -> None:
    """In the log and as an event of the node; the node's annotation says it for as long as it is so."""
    for sentence in settings.not_isolated:
        log.warning("not isolated: %s", sentence)
        kubelet.tell("Warning", "NotIsolated", sentence)


async def serve(settings: Settings, kubeconfig: str) -> None:
    """Run the agent and its servers until cancelled."""
    from kubelet.server.app import run_servers

    runtime, settings = open_runtime(settings)
    agent = f"kubelet/{settings.node_name}"
    try:
        async with (
            RestClient.from_kubeconfig(kubeconfig, user_agent=agent) as client,
            Background("kubelet") as tasks,
        ):
            kubelet = Kubelet(settings, client, runtime, RealClock(), tasks)
            say_what_is_not_isolated(settings, kubelet)
            async with asyncio.TaskGroup() as group:
                group.create_task(kubelet.run(), name="kubelet")
                group.create_task(run_servers(kubelet), name="servers")
    finally:
        await runtime.close()


def main(argv: Sequence[str]) -> int:
    """Run the kubelet; the exit status is 0 after SIGTERM, 1 after a failure, 2 for a bad command line."""
    values = flags().parse(argv)
    logs.setup("kubelet", values.v)
    try:
        if values.hollow:
            herd = herd_from(values)
            return run(lambda: serve_hollow(herd, values.kubeconfig))
        settings = settings_from(values)
    except ConfigurationError as error:
        print(f"kubelet: {error}", file=sys.stderr)
        return 2
    store = CertificateStore(Path(values.cert_dir))
    credentials = Credentials(
        Path(values.kubeconfig), values.bootstrap_kubeconfig, store, settings.config.rotate_certificates
    )
    return run(lambda: serve_for_ever(settings, credentials))
