"""Cluster IPs as IPAddress objects (KEP-1880): an address is taken by creating the object that is named after
it, so no two Services can have one, however many apiservers hand them out and whatever ranges there are.

A crash between taking an address and writing the Service leaks the address; `repair` frees what it has seen
leaked three times in a row.
"""

from __future__ import annotations

import ipaddress
import random
import uuid
from collections.abc import Iterable, Mapping, Sequence

from apimachinery import meta
from apimachinery.scheme import Scheme
from apiserver.kinds.serviceaddresses import ADDRESSES, MANAGED_BY, MANAGER, address_object, is_ready
from apiserver.storage import codec
from apiserver.storage.cacher import Cacher
from apiserver.storage.interface import PREFIX, KeyExists, RevisionMismatch, Store

Owner = tuple[str, str]  # namespace and name of a Service
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
BASE = f"{PREFIX}{ADDRESSES}/"
GUESSES = 16  # before a range is looked through
LARGEST = 1 << 16  # addresses of a range that are handed out
LEAK_SIGHTINGS = 3


class Taken(Exception):
    """The wanted address or number is in use."""


class Full(Exception):
    """Nothing is left in the range."""


def usable(network: Network) -> range:
    """Places in a range that Services may have: neither its own address nor the broadcast's."""
    return range(1, min(network.num_addresses, LARGEST) - 1)


def holds(network: Network, address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found in network and int(found) - int(network.network_address) in usable(network)


def ready_ranges(cacher: Cacher, scheme: Scheme, default: Network) -> list[Network]:
    """The server's own range, then those of all other ServiceCIDRs of its family that may be taken from."""
    kind = scheme.resource("networking.k8s.io", "v1", "servicecidrs")
    assert kind is not None
    out = [default]
    for entry in cacher.of(kind).scan():
        cidr = entry.decoded()
        if is_ready(cidr):
            given = (ipaddress.ip_network(text) for text in cidr["spec"]["cidrs"])
            out += [network for network in given if network.version == default.version and network not in out]
    return out


class Addresses:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._leaks: dict[str, int] = {}

    async def take(self, address: str, owner: Owner, now: float) -> None:
        """Raises Taken."""
        made = address_object(address, *owner, uid=str(uuid.uuid4()), created=meta.now_rfc3339(now))
        try:
            await self._store.create(BASE + address, codec.to_storage(made))
        except KeyExists:
            raise Taken(address) from None

    async def take_any(self, networks: Sequence[Network], owner: Owner, now: float) -> str:
        """A free address at random, so that one just freed is not handed out again at once; the first range
        that has one. Raises Full.
        """
        for network in networks:
            places = usable(network)
            guesses = [random.choice(places) for _ in range(GUESSES)] if places else []
            if found := await self._first(network, guesses, owner, now):
                return found
            held = await self.held()
            free = [place for place in places if str(network[place]) not in held]
            random.shuffle(free)
            if found := await self._first(network, free, owner, now):
                return found
        raise Full

    async def _first(self, network: Network, places: Iterable[int], owner: Owner, now: float) -> str:
        for place in places:
            try:
                await self.take(str(network[place]), owner, now)
            except Taken:
                continue
            return str(network[place])
        return ""

    async def held(self) -> dict[str, bool]:
        """All addresses in use, and whether this server's kind took them."""
        page = await self._store.list(BASE)
        return {
            item.key[len(BASE) :]: (codec.decode(item.value)["metadata"].get("labels") or {}).get(MANAGED_BY)
            == MANAGER
            for item in page.items
        }

    async def give_back(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            stored, _ = await self._store.get(BASE + address)
            if stored is not None:
                try:
                    await self._store.delete(stored.key, stored.revision)
                except RevisionMismatch:
                    continue  # somebody else was quicker

    async def repair(self, owners: Mapping[str, Owner], now: float) -> None:
        """Add what Services have and nobody holds; free what was seen leaked at the last LEAK_SIGHTINGS
        repairs. What others created stays theirs.
        """
        held = await self.held()
        for address, owner in owners.items():
            if address not in held:
                try:
                    await self.take(address, owner, now)
                except Taken:
                    continue
        leaked = [address for address, ours in held.items() if ours and address not in owners]
        self._leaks = {address: self._leaks.get(address, 0) + 1 for address in leaked}
        await self.give_back(address for address, seen in self._leaks.items() if seen >= LEAK_SIGHTINGS)
