"""Which ports of the node a pod takes, and whether they are free (the scheduler's NodePorts). Pure.

The scheduler sees to it for pods that it places; a pod that names its node is looked at by the kubelet alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from kubelet.pods.plan import restartable

ANY = ("", "0.0.0.0", "::")


class HostPort(NamedTuple):
    """A port on the node, at one of its addresses or at all of them."""

    address: str
    protocol: str
    port: int

    def meets(self, other: HostPort) -> bool:
        """Whether both cannot be taken."""
        same = (self.protocol, self.port) == (other.protocol, other.port)
        return same and (self.address == other.address or self.address in ANY or other.address in ANY)


def taken(spec: Mapping[str, Any]) -> Iterator[HostPort]:
    """The host ports of the pod's containers and sidecars."""
    sidecars = [each for each in spec.get("initContainers", []) if restartable(each)]
    for container in (*sidecars, *spec.get("containers", [])):
        for port in container.get("ports") or []:
            if number := int(port.get("hostPort") or 0):
                yield HostPort(port.get("hostIP") or "", port.get("protocol") or "TCP", number)


def conflict(pod: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> HostPort | None:
    """The first port that the pod asks for and another one has."""
    held = [port for other in others for port in taken(other["spec"])]
    return next((port for port in taken(pod["spec"]) if any(port.meets(each) for each in held)), None)
