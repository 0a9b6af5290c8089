"""`hardway down`: end every host and leave nothing of the cluster on the machine but its state directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass

from deploy import cgroups, configs, hosts, network
from deploy.control import Control, HostDown, Refused
from deploy.state import State
from deploy.topology import Topology

ELECTED = ("controllers", "scheduler", "cloudcontroller")
RELEASE_TIMEOUT = 3.0


@dataclass(frozen=True)
class Ended:
    """What `down` found and what, if anything, it could not remove."""

    hosts: tuple[str, ...]
    leftovers: tuple[str, ...]


def known_hosts(state: State, topology: Topology) -> list[str]:
    """The topology's hosts and those that an earlier version of its file had."""
    names = [host.name for host in topology.hosts]
    if state.run.is_dir():
        names += sorted(path.stem for path in state.run.glob("*.sock") if path.stem not in names)
    return names


def release_leases(state: State, topology: Topology) -> None:
    """Stop the elected daemons while there is still an apiserver to hand their leases back to.

    Otherwise the next `up` would wait for the leases to expire. A host that is down or does not answer is no
    obstacle: its daemons end with it.
    """
    waiting: list[tuple[Control, str]] = []
    for host in topology.by_role("controller"):
        control = Control(host.name, state.socket(host.name))
        for unit in ELECTED:
            with contextlib.suppress(HostDown, Refused):
                control.call("stop", unit=unit)
                waiting.append((control, unit))
    deadline = time.monotonic() + RELEASE_TIMEOUT
    while waiting and time.monotonic() < deadline:
        time.sleep(0.05)
        waiting = [(control, unit) for control, unit in waiting if _still_runs(control, unit)]


def _still_runs(control: Control, unit: str) -> bool:
    try:
        return bool(control.call("status")["units"][unit]["state"] != "stopped")
    except (HostDown, Refused):
        return False


def end(state: State, topology: Topology) -> Ended:
    """Processes first, by killing each host's pid 1; then the outer namespace, the cgroups, the sockets.

    The cgroups are also a second look: whatever process is still in them belonged to the cluster and is
    killed.
    """
    grace = configs.shutdown_seconds(topology)
    if grace:
        # Pods are given their time, and the API is told how they ended, while there is one.
        workers = [host.name for host in topology.by_role("worker")]
        hosts.end_hosts(state, workers, grace=grace + hosts.END_GRACE)
    release_leases(state, topology)
    ended = hosts.end_hosts(state, known_hosts(state, topology))
    groups = cgroups.find()
    cgroups.kill(groups, state.cgroup)
    network.close_router(state.router_netns)
    leftovers = cgroups.remove(groups, state.cgroup)
    state.forget()
    return Ended(tuple(ended), tuple(leftovers))


def clean(state: State) -> None:
    """Remove the cluster's state as well. Only for a cluster that is down."""
    shutil.rmtree(state.root, ignore_errors=False) if state.root.exists() else None
    parent = state.root.parent
    if parent.name == ".state" and parent.is_dir() and not os.listdir(parent):  # noqa: PTH208
        parent.rmdir()
