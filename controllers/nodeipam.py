"""Node IPAM: one pod CIDR for every node out of `--cluster-cidr`, kept while the node lives."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import ClassVar

from controllers import objects as o
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found
from kubeclient.resources import NODES

WORKERS = 16  # nodes that come at once are written at once

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class CidrSetFull(Exception):
    """No free CIDR is left."""


class CidrSet:
    """The node-sized blocks of a cluster CIDR and who has them. Pure.

    The lowest free block is given first; a block given back is free at once.
    Raises ValueError when the node mask does not lie inside the cluster CIDR.
    """

    def __init__(self, cluster: str, node_mask: int) -> None:
        self._cluster: Network = ipaddress.ip_network(cluster)
        self._mask = node_mask
        if not self._cluster.prefixlen <= node_mask <= self._cluster.max_prefixlen:
            raise ValueError(f"--node-cidr-mask-size={node_mask} does not fit into --cluster-cidr={cluster}")
        self._size = 1 << (self._cluster.max_prefixlen - node_mask)
        self._count = 1 << (node_mask - self._cluster.prefixlen)
        self._owners: dict[int, str] = {}
        self._blocks: dict[str, int] = {}  # the first block each owner was given, the other way round
        self._lowest = 0  # every block below is taken

    def occupy(self, cidr: str, owner: str) -> bool:
        """Note that `owner` has this block. False when it belongs to another, or is no block of this set."""
        index = self._index(cidr)
        if index is None or self._owners.get(index, owner) != owner:
            return False
        self._take(index, owner)
        return True

    def reserve(self, cidr: str) -> None:
        """Keep every block that overlaps `cidr` (the service range) from being given."""
        other = ipaddress.ip_network(cidr)
        if other.version != self._cluster.version or not other.overlaps(self._cluster):
            return
        first = max(int(other.network_address) - int(self._cluster.network_address), 0) // self._size
        span = int(other.broadcast_address) - int(self._cluster.network_address)
        for index in range(first, min(span // self._size, self._count - 1) + 1):
            self._owners[index] = f"reserved for {cidr}"

    def allocate(self, owner: str) -> str:
        """The owner's block: the one it has, else the lowest free one. Raises CidrSetFull."""
        if owner in self._blocks:
            return self._block(self._blocks[owner])
        while self._lowest in self._owners:
            self._lowest += 1
        if self._lowest >= self._count:
            raise CidrSetFull
        self._take(self._lowest, owner)
        return self._block(self._blocks[owner])

    def release(self, owner: str) -> None:
        if self._blocks.pop(owner, None) is None:
            return
        freed = {index for index, holder in self._owners.items() if holder == owner}
        self._owners = {index: holder for index, holder in self._owners.items() if holder != owner}
        self._lowest = min(self._lowest, *freed)

    def _take(self, index: int, owner: str) -> None:
        self._owners[index] = owner
        self._blocks.setdefault(owner, index)

    def _block(self, index: int) -> str:
        return f"{self._cluster.network_address + index * self._size}/{self._mask}"

    def _index(self, cidr: str) -> int | None:
        network = ipaddress.ip_network(cidr, strict=False)
        if network.version != self._cluster.version or network.prefixlen != self._mask:
            return None
        offset = int(network.network_address) - int(self._cluster.network_address)
        return offset // self._size if 0 <= offset < self._size * self._count else None


def pod_cidrs(node: Object) -> Sequence[str]:
    """`spec.podCIDRs`, or the single `spec.podCIDR`."""
    spec = o.spec(node)
    return spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])


class NodeIPAMController(Controller):
    """What is free is decided between two awaits, so that several workers never give one block twice. At
    start every node's CIDR is taken up before any is given.
    """

    name: ClassVar[str] = "node-ipam-controller"
    account: ClassVar[str] = "node-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=WORKERS, component="cidrAllocator")
        self.cidrs = CidrSet(ctx.options.cluster_cidr, ctx.options.node_cidr_mask_size)
        if ctx.options.service_cluster_ip_range:
            self.cidrs.reserve(ctx.options.service_cluster_ip_range)
        self.nodes = self.watch(NODES, self.enqueue)

    async def run(self) -> None:
        self._take_up(self.nodes.store.list())
        await super().run()

    async def sync(self, key: str) -> float | None:
        node = self.nodes.store.get(key)
        if node is None:
            self.cidrs.release(key)
            return None
        if pod_cidrs(node):
            self._take_up([node])
            return None
        if o.is_terminating(node):
            return None
        try:
            cidr = self.cidrs.allocate(key)
        except CidrSetFull:
            text = f"Node {key} status is now: CIDRNotAvailable"
            self.event(node, NODES, "CIDRNotAvailable", text)
            raise
        patch = {"metadata": {"uid": o.uid(node)}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}}
        await ignore_not_found(self.client.patch(NODES, key, patch))
        self.log.info("pod CIDR assigned", extra={"node": key, "cidr": cidr})
        return None

    def _take_up(self, nodes: Iterable[Object]) -> None:
        for node in nodes:
            for cidr in pod_cidrs(node):
                if not self.cidrs.occupy(cidr, o.name(node)):
                    where = {"node": o.name(node), "cidr": cidr}
                    self.log.error("pod CIDR taken or outside the cluster's", extra=where)
