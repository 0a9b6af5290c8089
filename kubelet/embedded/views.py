"""Sandboxes and images as CRI, CNI and the port-forwarder see them."""

from __future__ import annotations

import json

from kubelet.cri.pb import api_pb2 as pb
from kubelet.embedded.images import LocalImage
from kubelet.embedded.network import PodLink
from kubelet.embedded.records import Sandbox


def sandbox_state(sandbox: Sandbox) -> pb.PodSandboxState:
    """Ready while its keeper lives and nobody stopped it."""
    return pb.SANDBOX_READY if sandbox.ready else pb.SANDBOX_NOTREADY


def link(sandbox: Sandbox) -> PodLink:
    """The pod as its network sees it."""
    about = sandbox.config.metadata
    ports = tuple(
        {
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": pb.Protocol.Name(port.protocol).lower(),
            "hostIP": port.host_ip,
        }
        for port in sandbox.config.port_mappings
        if port.host_port
    )
    return PodLink(sandbox.id, sandbox.pid if sandbox.alive else 0, about.name, about.namespace, ports)


def info(sandbox: Sandbox) -> dict[str, str]:
    """What containerd's verbose answer has of namespaces, which is how port-forward finds the pod."""
    spaces = [] if sandbox.host_network else [{"type": "network", "path": f"/proc/{sandbox.pid}/ns/net"}]
    return {"info": json.dumps({"pid": sandbox.pid, "runtimeSpec": {"linux": {"namespaces": spaces}}})}


def image(image: LocalImage) -> pb.Image:
    """An image in CRI terms."""
    made = pb.Image(
        id=image.id,
        repo_tags=image.references,
        repo_digests=sorted({f"{name.rpartition(':')[0]}@{image.digest}" for name in image.references}),
        size=image.size,
    )
    user = str(image.settings.get("User") or "").partition(":")[0]
    if user.isdigit():
        made.uid.value = int(user)
    elif user:
        made.username = user
    return made
