"""Faults of the network between the lab's hosts. Rules and queues live in the struck host's own namespace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, cast

from deploy import configs
from deploy.chaos.lab import Lab
from deploy.chaos.targets import Target
from deploy.control import HostDown
from deploy.faults import network
from deploy.faults.delay import delayed as delayed_link
from deploy.faults.fault import Fault, FaultError

PEER_PORT = 2380
NOWHERE = "/nonexistent"  # where a host's namespace was: there is nothing to undo
ROLES = {"controllers": "controller", "workers": "worker", "balancer": "balancer"}


def together(name: str, faults: Sequence[Fault]) -> Fault:
    """Several faults as one: all or none in force."""

    def apply() -> None:
        for fault in faults:
            fault.apply()

    def undo() -> None:
        for fault in reversed(faults):
            fault.adopt()
            fault.undo()

    return Fault(name, apply, undo)


def namespace(lab: Lab, host: str) -> str:
    """The host's network namespace, or a path that does not exist while it is down."""
    try:
        return lab.network(host)
    except HostDown:
        return NOWHERE


def others(lab: Lab, side: Iterable[str], wanted: str) -> tuple[str, ...]:
    """The hosts on the far side: `everyone`, roles in the plural, names; with commas.

    Raises FaultError, TopologyError.
    """
    names: list[str] = []
    for word in (part.strip() for part in wanted.split(",")):
        if word == "everyone":
            names += [host.name for host in lab.topology.hosts]
        elif word in ROLES:
            names += lab.hosts(ROLES[word])
        else:
            names.append(lab.topology.host(word).name)
    here = set(side)
    far = tuple(name for name in dict.fromkeys(names) if name not in here)
    if not far:
        raise FaultError(f"partition: nobody is left to be cut off from ({wanted})")
    return far


def addresses(lab: Lab, hosts: Iterable[str], *, router: bool) -> list[str]:
    """Under which addresses these hosts and their pods appear on the wire."""
    found = [str(lab.topology.network.router.ip)] if router else []
    for host in hosts:
        found.append(lab.address(host))
        if (pods := _pod_range(lab, host)) is not None:
            found.append(pods)
    return found


def _pod_range(lab: Lab, host: str) -> str | None:
    """The range of a worker's pods, as its CNI configuration has it."""
    try:
        text = (lab.root(host) / configs.CNI_CONF.lstrip("/")).read_text()
    except (OSError, HostDown):
        return None
    subnet: str = json.loads(text)["plugins"][0]["ipam"]["ranges"][0][0]["subnet"]
    return subnet


def partitioned(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """The targets on one side, `from` on the other; `direction` is seen from the targets."""
    side, wanted = [target.host for target in targets], str(values["from"])
    ports = (PEER_PORT,) if values["traffic"] == "store-peers" else ()
    direction = cast(Literal["both", "in", "out"], values["direction"])
    cuts = []
    for host in side:
        far = others(lab, [host] if values["sides"] == "apart" else side, wanted)
        peers = addresses(lab, far, router=wanted == "everyone")
        where, table = namespace(lab, host), f"chaos_{key}"
        cuts.append(network.partitioned(where, peers=peers, ports=ports, direction=direction, table=table))
    return together("partition", cuts)


def _on_host(lab: Lab, target: Target, make: Callable[[str], Fault]) -> Fault:
    return together(target.host, [make(namespace(lab, target.host))])


def delayed(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Latency on everything that passes the host's cable."""
    wait, jitter = float(str(values["ms"])), float(str(values["jitter"]))
    return _on_host(lab, targets[0], lambda where: delayed_link(where, wait, jitter, name=f"chaos-{key}"))


def lossy(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Loss in both directions."""
    host, wanted, percent = targets[0].host, str(values["from"]), float(str(values["percent"]))
    peers = addresses(lab, others(lab, [host], wanted), router=wanted == "everyone")
    return together("loss", [network.lossy(namespace(lab, host), percent, peers=peers, table=f"chaos_{key}")])


def throttled(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """A token bucket on the host's way out."""
    kilobits = int(float(str(values["kbit"])))
    return _on_host(lab, targets[0], lambda where: network.throttled(where, kilobits))
