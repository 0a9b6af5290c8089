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
from kubelet.config import ConfigurationError, KubeletConfig, load
from kubelet.cri.client import CriRuntime

log = logging.getLogger(__name__)


def flags() -> Flags:
    """The flags; every one is the real kubelet's."""
    made = Flags("kubelet", "The node agent: runs the pods that are bound to its node.")
    made.string("config", "", "file with a KubeletConfiguration")
    made.string("kubeconfig", "", "how to reach the apiserver")
    made.string("hostname-override", "", "the node's name, instead of the host name")
    made.string("node-ip", "", "the node's addresses, comma separated; by default found out")
    made.string("container-runtime-endpoint", "", "CRI endpoint, unix:///path")
    made.string("cgroup-root", "", "cgroup below which pods live")
    made.string("root-dir", "/var/lib/kubelet", "where pods keep their volumes")
    made.string("pod-log-dir", "/var/log/pods", "where containers log")
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
    name = values.hostname_override or socket.gethostname().lower()
    ips = tuple(ip for ip in values.node_ip.split(",") if ip) or (_own_address(),)
    return Settings(config, name, ips, Path(values.root_dir), values.pod_log_dir)


def _own_address() -> str:
    """The source address of the default route, as the real kubelet chooses; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError as error:
            raise ConfigurationError("no default route: give --node-ip") from error
        return str(probe.getsockname()[0])


async def serve(settings: Settings, kubeconfig: str) -> None:
    """Run the agent and its servers until cancelled."""
    from kubelet.server.app import run_servers

    runtime = CriRuntime(settings.config.runtime_endpoint)
    agent = f"kubelet/{settings.node_name}"
    try:
        async with (
            RestClient.from_kubeconfig(kubeconfig, user_agent=agent) as client,
            Background("kubelet") as tasks,
        ):
            kubelet = Kubelet(settings, client, runtime, RealClock(), tasks)
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
        settings = settings_from(values)
    except ConfigurationError as error:
        print(f"kubelet: {error}", file=sys.stderr)
        return 2
    return run(lambda: serve(settings, values.kubeconfig))
