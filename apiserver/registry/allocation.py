"""Cluster IPs and node ports: unique in the cluster, however many apiservers hand them out.

Of addresses the truth are IPAddress objects (registry/addresses.py); of ports one bitmap, kept in the store
as Kubernetes keeps it (RangeAllocation below /registry/ranges/) and changed by compare-and-swap alone. A
crash between taking a number and writing the Service leaks the number; `repair` finds such leaks by comparing
with the Services and frees what it has seen leaked three times in a row.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import random
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from apimachinery import errors, field
from apimachinery.errors import Cause
from apiserver.kinds.services import needs_health_port
from apiserver.options import node_ports
from apiserver.registry import faults
from apiserver.registry.addresses import LEAK_SIGHTINGS, Addresses, Full, Network, Owner, Taken, holds
from apiserver.storage import codec
from apiserver.storage.interface import PREFIX, KeyExists, RevisionMismatch, StorageError, Store

Object = dict[str, Any]

MAX_SWAPS = 64
NODE_PORT_TYPES = ("NodePort", "LoadBalancer")


class Bitmap:
    """Numbers 0..size-1 in use, shared through the store."""

    def __init__(self, store: Store, name: str, shown: str, size: int) -> None:
        self._store = store
        self._key = f"{PREFIX}ranges/{name}"
        self._shown = shown
        self._size = size
        self._leaks: dict[int, int] = {}

    async def take(self, number: int) -> None:
        def claim(used: int) -> int:
            if used >> number & 1:
                raise Taken
            return used | 1 << number

        await self._change(claim)

    async def take_any(self, among: range) -> int:
        """A free number at random, so that one just freed is not handed out again at once."""
        chosen = 0

        def claim(used: int) -> int:
            nonlocal chosen
            start = random.randrange(len(among))
            for offset in range(len(among)):
                chosen = among[(start + offset) % len(among)]
                if not used >> chosen & 1:
                    return used | 1 << chosen
            raise Full

        await self._change(claim)
        return chosen

    async def give_back(self, numbers: Iterable[int]) -> None:
        mask = 0
        for number in numbers:
            mask |= 1 << number
        if mask:
            await self._change(lambda used: used & ~mask)

    async def repair(self, in_use: set[int]) -> None:
        """Mark what is in use, and free what has been marked without use at the last LEAK_SIGHTINGS
        repairs.
        """

        def mend(used: int) -> int:
            leaked = {number for number in range(self._size) if used >> number & 1} - in_use
            self._leaks = {number: self._leaks.get(number, 0) + 1 for number in leaked}
            for number, seen in self._leaks.items():
                if seen >= LEAK_SIGHTINGS:
                    used &= ~(1 << number)
            for number in in_use:
                used |= 1 << number
            return used

        await self._change(mend)

    async def _change(self, edit: Any) -> None:
        for attempt in range(MAX_SWAPS):
            stored, _ = await self._store.get(self._key)
            used = self._decode(stored.value) if stored else 0
            wanted = edit(used)
            if stored and wanted == used:
                return
            value = codec.encode(self._encode(wanted))
            try:
                if stored:
                    await self._store.update(self._key, value, stored.revision)
                else:
                    await self._store.create(self._key, value)
                return
            except (KeyExists, RevisionMismatch):
                await asyncio.sleep(random.random() * 0.002 * min(attempt + 1, 10))
        raise errors.service_unavailable(f"could not allocate from {self._shown}: too much contention")

    def _decode(self, value: bytes) -> int:
        document = codec.decode(value)
        if document.get("range") != self._shown:
            raise errors.internal_error(
                f"the stored range {document.get('range')} is not {self._shown}: change it back or repair"
            )
        return int.from_bytes(base64.b64decode(document.get("data", "")), "big")

    def _encode(self, used: int) -> Object:
        data = base64.b64encode(used.to_bytes((self._size + 7) // 8, "big")).decode()
        # The store tells a write of ours whose answer was lost by its bytes: two servers that take the same
        # number
        # at once must not write the same ones.
        fields = {"annotations": {"hardway/write": str(uuid.uuid4())}}
        return {
            "kind": "RangeAllocation",
            "apiVersion": "v1",
            "metadata": fields,
            "range": self._shown,
            "data": data,
        }


class ServiceReservation:
    """What one write of a Service took, and what it will no longer need once it has happened."""

    def __init__(self, addresses: Addresses, ports: Bitmap) -> None:
        self._addresses, self._ports = addresses, ports
        self.taken: tuple[set[str], set[int]] = (set(), set())
        self.leaving: tuple[set[str], set[int]] = (set(), set())

    async def commit(self) -> None:
        await self._give_back(self.leaving)

    async def rollback(self) -> None:
        await self._give_back(self.taken)

    async def _give_back(self, what: tuple[set[str], set[int]]) -> None:
        await _quietly(self._addresses.give_back(what[0]))
        await _quietly(self._ports.give_back(what[1]))


async def _quietly(work: Any) -> None:
    """Giving back may fail without harm: repair will find what was left."""
    try:
        await work
    except (StorageError, errors.StatusError):
        return


class ServiceAllocator:
    """Fills clusterIP(s) and nodePorts of Services (registry/core/service/storage/alloc.go)."""

    def __init__(
        self,
        store: Store,
        cidr: str,
        ports: str,
        ranges: Callable[[Network], Sequence[Network]] | None = None,
    ) -> None:
        """`ranges` gives all that addresses may come from, the flag's among them."""
        self._network = ipaddress.ip_network(cidr)
        self._ranges = ranges or (lambda default: [default])
        self._port_range = node_ports(ports)
        self._ports = Bitmap(store, "servicenodeports", ports, len(self._port_range))
        self._addresses = Addresses(store)

    async def reserve(self, new: Object | None, old: Object | None, dry_run: bool) -> ServiceReservation:
        out = ServiceReservation(self._addresses, self._ports)
        if new is not None and old is not None:
            inherit(new, old)
        if new is not None and not dry_run:
            try:
                await self._take_ip(new, old, out)
                await self._take_ports(new, old, out)
                await self._take_health_port(new, old, out)
            except StorageError as error:
                await out.rollback()
                raise faults.as_status(error) from error
            except BaseException:
                await out.rollback()
                raise
        if old is not None and not dry_run:
            out.leaving[0].update(addresses_of(old) - addresses_of(new))
            out.leaving[1].update(self._ports_of(old) - self._ports_of(new))
        return out

    async def repair(self, services: Iterable[Object]) -> None:
        """Compare what is taken with the Services that exist."""
        owners: dict[str, Owner] = {}
        ports: set[int] = set()
        for service in services:
            owner = service["metadata"]["namespace"], service["metadata"]["name"]
            owners.update(dict.fromkeys(addresses_of(service), owner))
            ports |= self._ports_of(service)
        await self._ports.repair(ports)
        await self._addresses.repair(owners, time.time())

    async def _take_ip(self, new: Object, old: Object | None, out: ServiceReservation) -> None:
        spec = new["spec"]
        if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None":
            return
        wanted = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or []), "")
        if wanted and addresses_of(new) <= addresses_of(old) and addresses_of(new):
            return
        address = await self._claim_ip(new, wanted)
        out.taken[0].add(address)
        spec["clusterIP"], spec["clusterIPs"] = address, [address]
        spec.setdefault("ipFamilies", [f"IPv{self._network.version}"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")

    async def _claim_ip(self, new: Object, wanted: str) -> str:
        owner = new["metadata"].get("namespace", ""), new["metadata"]["name"]
        ranges = self._ranges(self._network)
        if not wanted:
            try:
                return await self._addresses.take_any(ranges, owner, time.time())
            except Full:
                raise errors.internal_error("failed to allocate a serviceIP: range is full") from None
        if not any(holds(network, wanted) for network in ranges):
            shown = ", ".join(str(network) for network in ranges)
            why = (
                f"failed to allocate IP {wanted}: the provided IP ({wanted}) is not in the valid range. "
                f"The range of valid IPs is {shown}"
            )
            raise errors.invalid("", "Service", owner[1], [field.invalid("spec.clusterIPs", [wanted], why)])
        address = str(ipaddress.ip_address(wanted))
        try:
            await self._addresses.take(address, owner, time.time())
        except Taken:
            why = f"failed to allocate IP {wanted}: provided IP is already allocated"
            raise errors.invalid(
                "", "Service", owner[1], [field.invalid("spec.clusterIPs", [wanted], why)]
            ) from None
        return address

    async def _take_ports(self, new: Object, old: Object | None, out: ServiceReservation) -> None:
        if new["spec"].get("type") not in NODE_PORT_TYPES:
            return
        if (
            new["spec"].get("type") == "LoadBalancer"
            and new["spec"].get("allocateLoadBalancerNodePorts") is False
        ):
            return
        held = self._ports_of(old)
        given: dict[int, int] = {}
        for index, port in enumerate(new["spec"].get("ports") or []):
            wanted = port.get("nodePort") or given.get(port["port"], 0)
            if not wanted:
                number = await self._any_port()
                out.taken[1].add(number)
                port["nodePort"] = self._port_range[number]
            else:
                port["nodePort"] = wanted
                await self._claim_port(new, f"spec.ports[{index}].nodePort", wanted, held, out)
            given[port["port"]] = port["nodePort"]

    async def _take_health_port(self, new: Object, old: Object | None, out: ServiceReservation) -> None:
        """`healthCheckNodePort`, by which balancers find the nodes with endpoints of their own."""
        if not needs_health_port(new["spec"]):
            return
        wanted = new["spec"].get("healthCheckNodePort")
        if wanted:
            held = self._ports_of(old)
            await self._claim_port(new, "spec.healthCheckNodePort", wanted, held, out)
        else:
            number = await self._any_port()
            out.taken[1].add(number)
            new["spec"]["healthCheckNodePort"] = self._port_range[number]

    async def _any_port(self) -> int:
        try:
            return await self._ports.take_any(range(len(self._port_range)))
        except Full:
            raise errors.internal_error("failed to allocate a nodePort: range is full") from None

    async def _claim_port(
        self, new: Object, path: str, wanted: int, held: set[int], out: ServiceReservation
    ) -> None:
        name = new["metadata"]["name"]
        if wanted not in self._port_range:
            shown = f"{self._port_range[0]}-{self._port_range[-1]}"
            why = f"provided port is not in the valid range. The range of valid ports is {shown}"
            raise errors.invalid("", "Service", name, [field.invalid(path, wanted, why)])
        number = self._port_range.index(wanted)
        if number in held or number in out.taken[1]:
            return
        try:
            await self._ports.take(number)
        except Taken:
            raise errors.invalid(
                "", "Service", name, [field.invalid(path, wanted, "provided port is already allocated")]
            ) from None
        out.taken[1].add(number)

    def _ports_of(self, service: Object | None) -> set[int]:
        spec = (service or {}).get("spec") or {}
        if spec.get("type") not in NODE_PORT_TYPES:
            return set()
        ports = [port.get("nodePort") for port in spec.get("ports") or []]
        if needs_health_port(spec):
            ports.append(spec.get("healthCheckNodePort"))
        return {self._port_range.index(port) for port in ports if port in self._port_range}


def addresses_of(service: Object | None) -> set[str]:
    """The cluster IPs of a Service."""
    spec = (service or {}).get("spec") or {}
    if spec.get("type") == "ExternalName":
        return set()
    return {spec.get("clusterIP") or "", *(spec.get("clusterIPs") or ())} - {"", "None"}


def inherit(new: Object, old: Object) -> None:
    """An update that says nothing about what was allocated keeps it (patchAllocatedValues)."""
    spec, before = new["spec"], old["spec"]
    allocates = spec.get("type") != "ExternalName" and before.get("type") != "ExternalName"
    if allocates and not spec.get("clusterIP") and before.get("clusterIP"):
        for name in ("clusterIP", "clusterIPs"):
            if before.get(name):
                spec[name] = before[name]
    if spec.get("type") == "ExternalName" and before.get("type") != "ExternalName":
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get(name) == before.get(name):
                spec.pop(name, None)
    health = before.get("healthCheckNodePort")
    if health and needs_health_port(spec) and needs_health_port(before):
        spec.setdefault("healthCheckNodePort", health)
    if spec.get("type") in NODE_PORT_TYPES and before.get("type") in NODE_PORT_TYPES:
        known = {
            (port["port"], port.get("protocol", "TCP")): port.get("nodePort")
            for port in before.get("ports") or []
        }
        for port in spec.get("ports") or []:
            inherited = known.get((port["port"], port.get("protocol", "TCP")))
            if not port.get("nodePort") and inherited:
                port["nodePort"] = inherited


def immutable_ip(new: Object, old: Object) -> list[Cause]:
    """clusterIP cannot change once set, unless the type changes from or to ExternalName."""
    before, after = old["spec"].get("clusterIP"), new["spec"].get("clusterIP")
    if (
        before
        and after
        and before != after
        and "ExternalName" not in (old["spec"].get("type"), new["spec"].get("type"))
    ):
        return [field.invalid("spec.clusterIPs[0]", [after], "may not change once set")]
    return []
