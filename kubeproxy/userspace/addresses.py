"""The services' addresses on the node itself: each a /32 on `lo` with a label that says whose it is."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import orjson

from kubeproxy.nftables import capture

DEVICE = "lo"
LABEL = "lo:kubeproxy"


class Held(NamedTuple):
    """The IPv4 addresses of this network namespace: those we put there, and all others. `networks` are those
    that these others are in, whose addresses belong to other machines and pods.
    """

    ours: frozenset[str]
    own: frozenset[str]
    networks: tuple[str, ...] = ()


class AddressError(OSError):
    """An address could not be listed, added or removed; the text is the complaint of `ip`."""


class Addresses(Protocol):
    """Whoever gives addresses to this node."""

    async def held(self) -> Held:
        """Raises OSError, TimeoutError."""
        ...

    async def change(self, add: Iterable[str], remove: Iterable[str]) -> None:
        """Raises OSError, TimeoutError."""
        ...


def parse(listing: bytes) -> Held:
    """Read `ip -json -4 address show`. Raises ValueError, KeyError when it is something else."""
    ours: set[str] = set()
    own: set[str] = set()
    networks: set[str] = set()
    for link in orjson.loads(listing):
        for each in link.get("addr_info") or ():
            if not each.get("local"):
                continue
            if each.get("label") == LABEL:
                ours.add(each["local"])
                continue
            own.add(each["local"])
            networks.add(str(ipaddress.IPv4Network((each["local"], each["prefixlen"]), strict=False)))
    return Held(frozenset(ours), frozenset(own), tuple(sorted(networks)))


def batch(add: Iterable[str], remove: Iterable[str]) -> str:
    """Input of `ip -batch`. Scope host keeps them from ever being chosen as a source towards others."""
    lines = [f"address replace {ip}/32 dev {DEVICE} label {LABEL} scope host" for ip in sorted(add)]
    lines += [f"address delete {ip}/32 dev {DEVICE}" for ip in sorted(remove)]
    return "".join(f"{line}\n" for line in lines)


class Loopback:
    """`lo` of the network namespace this process is in."""

    async def held(self) -> Held:
        status, output, complaint = await capture("ip", "-json", "-4", "address", "show")
        if status:
            raise AddressError(complaint[:2000])
        try:
            return parse(output)
        except (ValueError, KeyError) as error:
            raise AddressError(f"ip address show: {error}") from None

    async def change(self, add: Iterable[str], remove: Iterable[str]) -> None:
        text = batch(add, remove)
        if not text:
            return
        # One that is gone already must not keep the others.
        status, _, complaint = await capture("ip", "-force", "-batch", "-", stdin=text)
        if status:
            raise AddressError(complaint[:2000])


async def remove(addresses: Addresses) -> None:
    """Take all of ours away. Raises OSError, TimeoutError."""
    await addresses.change((), (await addresses.held()).ours)
