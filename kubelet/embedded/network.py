"""A pod's network: the CNI plugins where they are installed, else the same bridge made by ourselves.

Both read the node's own configuration (`*.conflist`, CNI 0.4.0/1.0.0), so a pod has the same interfaces and
an address of the same range either way. Ours knows the plugin `bridge` with `host-local` addresses, which is
what the hard way uses, and refuses anything else by name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubelet.cri.port import RuntimeFailure

CONFIGURATIONS = Path("/etc/cni/net.d")
PLUGINS = Path("/usr/lib/cni")
ADDRESSES = Path("/run/cni/networks")
TIMEOUT = 30.0
INTERFACE = "eth0"


@dataclass(frozen=True, slots=True)
class PodLink:
    """Which pod is to be connected: the holder's process has its namespace."""

    sandbox: str
    pid: int  # 0: it is gone, and with it the namespace
    name: str
    namespace: str
    ports: tuple[Mapping[str, Any], ...] = ()

    @property
    def netns(self) -> str:
        return f"/proc/{self.pid}/ns/net" if self.pid else ""


async def _run(argv: Sequence[str], data: str, environment: Mapping[str, str]) -> tuple[int, str, str]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **environment}
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate(data.encode())
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")


class PodNetwork:
    """Connects and disconnects pods."""

    def __init__(
        self,
        configurations: Path = CONFIGURATIONS,
        plugins: Path = PLUGINS,
        addresses: Path = ADDRESSES,
    ) -> None:
        self.configurations, self.plugins, self.addresses = configurations, plugins, addresses

    def configuration(self) -> Mapping[str, Any] | None:
        """The first network list of the node; None while it has none."""
        for path in sorted(self.configurations.glob("*.conflist")):
            found: Mapping[str, Any] = json.loads(path.read_text())
            return found
        return None

    @property
    def real(self) -> bool:
        """Whether the CNI plugins are installed."""
        return (self.plugins / "bridge").exists()

    async def connect(self, link: PodLink) -> tuple[dict[str, Any], list[str]]:
        """Give the pod its interface: what `disconnect` will need, and the addresses. Raises
        `RuntimeFailure`."""
        network = self.configuration()
        if network is None:
            raise RuntimeFailure("cni plugin not initialized")
        try:
            if self.real:
                result = await self._add(network, link)
            else:
                result = await Bridge(network, self.addresses).add(link)
        except (OSError, TimeoutError, ValueError) as error:
            raise RuntimeFailure(f"failed to setup network for sandbox {link.sandbox}: {error}") from error
        return {"network": dict(network), "result": result}, addresses_of(result)

    async def disconnect(self, link: PodLink, held: Mapping[str, Any]) -> None:
        """Undo it; what is gone already is no failure. Raises `RuntimeFailure`."""
        network = held["network"]
        try:
            if not self.real:
                await Bridge(network, self.addresses).delete(link)
                return
            for plugin in reversed(network["plugins"]):
                await self._call("DEL", network, plugin, link, held["result"])
        except (OSError, TimeoutError, ValueError) as error:
            raise RuntimeFailure(f"failed to destroy network for sandbox {link.sandbox}: {error}") from error

    async def _add(self, network: Mapping[str, Any], link: PodLink) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for plugin in network["plugins"]:
            result = await self._call("ADD", network, plugin, link, result)
        return result

    async def _call(
        self,
        verb: str,
        network: Mapping[str, Any],
        plugin: Mapping[str, Any],
        link: PodLink,
        previous: Mapping[str, Any],
    ) -> dict[str, Any]:
        """One plugin (CNI spec, section 4); its result."""
        document = {**plugin, "cniVersion": network["cniVersion"], "name": network["name"]}
        if (plugin.get("capabilities") or {}).get("portMappings"):
            document["runtimeConfig"] = {"portMappings": list(link.ports)}
        document.pop("capabilities", None)
        if previous:
            document["prevResult"] = previous
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": link.sandbox,
            "CNI_NETNS": link.netns,
            "CNI_IFNAME": INTERFACE,
            "CNI_PATH": str(self.plugins),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={link.namespace};K8S_POD_NAME={link.name}",
        }
        argv = [str(self.plugins / plugin["type"])]
        code, out, err = await _run(argv, json.dumps(document), environment)
        if code != 0:
            said = json.loads(out).get("msg", out) if out.startswith("{") else (err or out)
            raise OSError(f'plugin type="{plugin["type"]}" failed ({verb.lower()}): {said.strip()}')
        found: dict[str, Any] = json.loads(out) if out.strip() else dict(previous)
        return found


def addresses_of(result: Mapping[str, Any]) -> list[str]:
    """The pod's addresses in a CNI result, without prefix lengths."""
    return [str(each["address"]).partition("/")[0] for each in result.get("ips") or []]


class Bridge:
    """The plugins `bridge` and `host-local` by the program `ip` alone."""

    def __init__(self, network: Mapping[str, Any], addresses: Path) -> None:
        first, *others = network["plugins"]
        if first["type"] != "bridge" or (first.get("ipam") or {}).get("type") != "host-local":
            raise ValueError(
                f"network {network['name']}: without the CNI plugins only bridge with host-local is supported"
            )
        unknown = [each["type"] for each in others if each["type"] != "portmap"]
        if unknown:
            raise ValueError(f"network {network['name']}: plugin {unknown[0]} is not installed")
        self.name = str(first.get("bridge", "cni0"))
        ipam = first["ipam"]
        subnet = ipam["ranges"][0][0]["subnet"] if ipam.get("ranges") else ipam["subnet"]
        self.subnet = ipaddress.IPv4Network(subnet)
        self.hairpin = bool(first.get("hairpinMode"))
        self.leases = addresses / str(network["name"])

    @property
    def gateway(self) -> str:
        return f"{self.subnet[1]}/{self.subnet.prefixlen}"

    def lease(self, sandbox: str) -> str:
        """Take a free address; a file of its name says whose it is, as host-local does it."""
        self.leases.mkdir(parents=True, exist_ok=True)
        for address in list(self.subnet.hosts())[1:]:
            try:
                with (self.leases / str(address)).open("x") as file:
                    file.write(sandbox)
                return str(address)
            except FileExistsError:
                continue
        raise OSError(f"no IP addresses available in {self.subnet}")

    def release(self, sandbox: str) -> None:
        for path in self.leases.glob("*"):
            if path.read_text() == sandbox:
                path.unlink(missing_ok=True)

    async def add(self, link: PodLink) -> dict[str, Any]:
        """Connect a pod; a CNI result."""
        if link.ports:
            raise ValueError("hostPort needs the CNI plugin portmap, which is not installed")
        address = f"{self.lease(link.sandbox)}/{self.subnet.prefixlen}"
        try:
            await self._ip(host_plan(self, link), force=True)
            await self._ip(cable_plan(self, link))
            await self._ip(pod_plan(self, address), inside=link.netns)
        except BaseException:
            self.release(link.sandbox)
            raise
        return {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": address}]}

    async def delete(self, link: PodLink) -> None:
        """Disconnect a pod."""
        await self._ip([f"link delete {cable(link)}"], force=True)
        self.release(link.sandbox)

    async def _ip(self, plan: Sequence[str], *, inside: str = "", force: bool = False) -> None:
        argv = ["nsenter", f"--net={inside}"] if inside else []
        argv += ["ip", *(["-force"] if force else []), "-batch", "-"]
        code, _, err = await _run(argv, "\n".join(plan) + "\n", {})
        if code != 0 and not force:
            raise OSError(f"ip: {err.strip()}")


def cable(link: PodLink) -> str:
    """The host's end of a pod's cable; IFNAMSIZ allows 15 characters."""
    return f"veth{link.sandbox[:8]}"


def host_plan(bridge: Bridge, link: PodLink) -> list[str]:
    """The node's bridge, which may be there already, and no end of an earlier cable."""
    return [
        f"link add {bridge.name} type bridge",
        f"address add {bridge.gateway} dev {bridge.name}",
        f"link set {bridge.name} up",
        f"link delete {cable(link)}",
    ]


def cable_plan(bridge: Bridge, link: PodLink) -> list[str]:
    """A cable from the bridge to the pod."""
    hairpin = "on" if bridge.hairpin else "off"
    return [
        f"link add {cable(link)} type veth peer name {INTERFACE} netns {link.pid}",
        f"link set {cable(link)} master {bridge.name}",
        f"link set {cable(link)} type bridge_slave hairpin {hairpin}",
        f"link set {cable(link)} up",
    ]


def pod_plan(bridge: Bridge, address: str) -> list[str]:
    """The pod's end: its address and the way out."""
    return [
        f"address add {address} dev {INTERFACE}",
        f"link set {INTERFACE} up",
        f"route add default via {bridge.subnet[1]}",
    ]
