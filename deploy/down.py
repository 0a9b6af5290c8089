"""`hardway down`: end every host and leave nothing of the cluster on the machine but its state directory."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from deploy import cgroups, hosts, network
from deploy.state import State
from deploy.topology import Topology


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


def end(state: State, topology: Topology) -> Ended:
    """Processes first, by killing each host's pid 1; then the outer namespace, the cgroups, the sockets.

    The cgroups are also a second look: whatever process is still in them belonged to the cluster and is
    killed.
    """
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
