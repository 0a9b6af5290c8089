"""The provisioner's process: flags and wiring. It runs as a pod of the cluster (add-on 30-local-path)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from componentbase import log as logs
from componentbase import tasks, version
from componentbase.clock import RealClock
from componentbase.flags import Flags, Values
from controllers.localpath.controller import LocalPathController
from controllers.localpath.plan import Settings
from controllers.options import Options
from controllers.runtime import Context
from kubeclient.events import EventRecorder
from kubeclient.informer import InformerFactory
from kubeclient.rest import RestClient

AGENT = "local-path-provisioner"
DEFAULTS = Settings()
SYNC_TIMEOUT = 120.0  # seconds for the first lists


def declare() -> Flags:
    flags = Flags(AGENT, "Makes volumes out of directories of nodes.", version=version.GIT_VERSION)
    flags.string("kubeconfig", "", "How to reach the API; without it the pod's service account is used.")
    flags.string("provisioner-name", DEFAULTS.provisioner, "The name storage classes call it by.")
    flags.string("directory", DEFAULTS.directory, "Where the volumes are, on every node.")
    flags.string("namespace", DEFAULTS.namespace, "Where the helper pods run.")
    flags.string("helper-image", DEFAULTS.helper_image, "An image with mkdir and rm.")
    flags.integer("v", 0, "Log verbosity.", short="v")
    return flags


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM."""
    values = declare().parse(argv)
    logs.setup(AGENT, values.v)
    return tasks.run(lambda: run(values))


async def run(values: Values) -> None:
    """Every write has a fixed name and a version: two of these at once, as in a roll-out, do no harm."""
    settings = Settings(values.provisioner_name, values.directory, values.namespace, values.helper_image)
    async with _connect(values.kubeconfig) as client:
        informers = InformerFactory(client)
        recorder = EventRecorder(client, settings.provisioner)
        ctx = Context(client, informers, RealClock(), Options(), recorder=lambda _: recorder)
        controller = LocalPathController(ctx, settings)
        async with asyncio.TaskGroup() as group:
            group.create_task(informers.run(), name="informers")
            group.create_task(recorder.run(), name="events")
            await informers.wait_synced(SYNC_TIMEOUT)
            await controller.run()


def _connect(kubeconfig: str) -> RestClient:
    if kubeconfig:
        return RestClient.from_kubeconfig(kubeconfig, user_agent=AGENT)
    return RestClient.in_cluster(user_agent=AGENT)
