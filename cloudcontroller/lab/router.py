"""The lab's router: a network namespace of this machine, in which routes are kernel routes.

What is made here carries its own protocol numbers and its own table, so that nothing else of the router
is ever listed, changed or removed.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence

import orjson

from cloudcontroller.cloud import Balancer, CloudError, Route

NODE_ROUTES = "201"  # rtnetlink protocol numbers 200-255 are free for such use
BALANCER_ROUTES = "202"
TABLE = "ip hardway-balancers"
TIMEOUT = 10.0  # seconds for one command


class Router:
    """Runs `ip` and `nft` inside the router's namespace, which the child process alone enters."""

    def __init__(self, netns: str) -> None:
        self._netns = netns

    async def links(self) -> set[str]:
        """The names of its interfaces: a cable's end bears the name of the host that is plugged in."""
        found = orjson.loads(await self._run("ip", "-j", "link", "show") or b"[]")
        return {str(each["ifname"]) for each in found}

    # -- routes to pods --------------------------------------------------------------------------------------

    async def list_routes(self) -> list[Route]:
        """Routes to pod CIDRs. Raises CloudError, as everything here does."""
        found = await self._shown(NODE_ROUTES)
        return sorted(Route(_with_mask(r["dst"]), r["gateway"]) for r in found if "gateway" in r)

    async def create_route(self, route: Route) -> None:
        """Make it, or replace the one for the same CIDR."""
        await self._run("ip", "route", "replace", route.cidr, "via", route.target, "proto", NODE_ROUTES)

    async def delete_route(self, route: Route) -> None:
        """Remove it; one that is not there is fine."""
        await self._delete(route.cidr, "via", route.target, "proto", NODE_ROUTES)

    # -- routes to balancers ---------------------------------------------------------------------------------

    async def announced(self) -> list[str]:
        """The addresses of balancers that have a route."""
        return sorted(str(each["dst"]) for each in await self._shown(BALANCER_ROUTES))

    async def announce(self, address: str, gateways: Sequence[str]) -> None:
        """Spread connections to `address` over the gateways; without any, tell senders that it is
        unreachable."""
        await self._run("ip", "route", "replace", *route_words(address, gateways))

    async def withdraw(self, address: str) -> None:
        """End the announcement; one that is not there is fine."""
        await self._delete(address, "proto", BALANCER_ROUTES)

    async def listen(self, pool: ipaddress.IPv4Network, balancers: Iterable[Balancer]) -> None:
        """Let through what balancers listen on, and nothing else to the addresses of the pool; in one
        transaction."""
        await self._run("nft", "-f", "-", stdin=listener_rules(pool, balancers).encode())

    # -- commands --------------------------------------------------------------------------------------------

    async def _shown(self, protocol: str) -> list[dict[str, str]]:
        output = await self._run("ip", "-j", "route", "show", "proto", protocol)
        return list(orjson.loads(output or b"[]"))

    async def _delete(self, *words: str) -> None:
        try:
            await self._run("ip", "route", "del", *words)
        except CloudError as error:
            if "No such process" not in str(error):  # ESRCH: the route is not there
                raise

    async def _run(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        command = ("nsenter", f"--net={self._netns}", *arguments)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise CloudError(f"{' '.join(command)}: {error}") from error
        try:
            async with asyncio.timeout(TIMEOUT):
                output, complaint = await process.communicate(stdin)
        except TimeoutError:
            raise CloudError(f"{' '.join(command)}: no answer within {TIMEOUT:g}s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            text = complaint.decode("utf-8", "replace").strip()
            raise CloudError(f"{' '.join(command)}: exit {process.returncode}: {text}")
        return output


def _with_mask(destination: str) -> str:
    return destination if "/" in destination else f"{destination}/32"


def route_words(address: str, gateways: Sequence[str]) -> list[str]:
    """The arguments of `ip route replace` for an announcement. Pure."""
    head = [f"{address}/32", "proto", BALANCER_ROUTES]
    if not gateways:
        return ["unreachable", *head]
    if len(gateways) == 1:
        return [*head, "via", gateways[0]]
    return [*head, *(word for gateway in gateways for word in ("nexthop", "via", gateway))]


def listener_rules(pool: ipaddress.IPv4Network, balancers: Iterable[Balancer]) -> str:
    """The router's table for balancers, as input of `nft -f`: the old one replaced whole. Pure."""
    listened = sorted(
        f"{balancer.address} . {listener.protocol.lower()} . {listener.port}"
        for balancer in balancers
        for listener in balancer.listeners
    )
    elements = f"elements = {{ {', '.join(listened)} }};" if listened else ""
    return f"""\
table {TABLE}
delete table {TABLE}
table {TABLE} {{
    set listeners {{
        type ipv4_addr . inet_proto . inet_service
        {elements}
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        ip daddr . meta l4proto . th dport @listeners accept
        ip daddr {pool} reject with icmp type port-unreachable
    }}
}}
"""
