"""Which connection-tracking entries must go when rules change. Planning is pure.

A UDP "connection" lives in the kernel's table for as long as packets flow. Without this a client goes on
talking to an endpoint that has vanished, or, if it began before there was one, past the service altogether.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from kubeproxy.model import ServicePort
from kubeproxy.nftables import run_command

log = logging.getLogger(__name__)

Command = tuple[str, ...]


def stale(old: Iterable[ServicePort], new: Iterable[ServicePort]) -> list[Command]:
    """Arguments for `conntrack`, one entry per flow that must be forgotten."""
    before = {_identity(port): port for port in old if port.protocol == "udp"}
    after = {_identity(port): port for port in new if port.protocol == "udp"}
    commands: dict[Command, None] = {}
    for identity, port in before.items():
        successor = after.get(identity)
        kept = {(each.ip, each.port) for each in successor.cluster} if successor else set()
        for endpoint in port.cluster:
            if (endpoint.ip, endpoint.port) not in kept:
                for front in _fronts(port):
                    commands[(*front, "--dst-nat", endpoint.ip)] = None
    for identity, port in after.items():
        predecessor = before.get(identity)
        if port.cluster and not (predecessor and predecessor.cluster):
            for front in _fronts(port):
                commands[front] = None
    return list(commands)


def _identity(port: ServicePort) -> tuple[str, str, str]:
    return port.namespace, port.name, port.port_name


def _fronts(port: ServicePort) -> list[Command]:
    """The addresses clients use for the service."""
    delete = ("-D", "-p", "udp")
    addresses = [each for each in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips) if each]
    fronts: list[Command] = [
        (*delete, "--orig-dst", ip, "--orig-port-dst", str(port.port)) for ip in addresses
    ]
    if port.node_port:
        fronts.append((*delete, "--orig-port-dst", str(port.node_port)))
    return fronts


async def forget(commands: Iterable[Command]) -> None:
    """Delete the entries. A failure is logged: the rules are right already, and entries expire by
    themselves.
    """
    for command in commands:
        try:
            status, complaint = await run_command("conntrack", *command)
        except (OSError, TimeoutError) as error:
            log.warning("conntrack cannot be run: %s", error)
            return
        if status and "0 flow entries" not in complaint:
            log.warning("conntrack: %s", complaint, extra={"arguments": " ".join(command)})
