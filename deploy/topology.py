"""What a cluster consists of, read from one YAML file. Pure: nothing here touches the machine."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pki.layout import ClusterNames

RUNTIMES = ("auto", "containerd", "embedded")
PROXY_MODES = ("nftables", "iptables", "userspace")
ROLES = ("controller", "worker", "balancer")
API_PORT = 6443
# A host's name is also the name of its port on the bridge: IFNAMSIZ allows 15 characters.
HOST_NAME = re.compile(r"[a-z]([a-z0-9-]{0,13}[a-z0-9])?")
TOPOLOGIES = Path(__file__).parent / "topologies"


class TopologyError(ValueError):
    """The topology cannot be raised; the message names the field."""


@dataclass(frozen=True)
class Host:
    """One simulated machine. `pod_cidr` fixes its pods' range; without it the controller-manager allocates
    one."""

    name: str
    role: str
    address: str
    pod_cidr: str | None = None


@dataclass(frozen=True, kw_only=True)
class Network:
    """Address plan of the lab."""

    router: ipaddress.IPv4Interface
    pods: ipaddress.IPv4Network
    node_mask_size: int
    services: ipaddress.IPv4Network
    cluster_dns: str
    cluster_domain: str
    proxy_mode: str = "nftables"  # KubeProxyConfiguration.mode
    load_balancers: ipaddress.IPv4Network | None = None  # addresses for Services of type LoadBalancer

    @property
    def service_ip(self) -> str:
        """Address of the Service `kubernetes`: the first one of the service range."""
        return str(self.services[1])


@dataclass(frozen=True)
class UnitOverride:
    """A change to one unit: another program, and flags set (string) or dropped (None)."""

    exec: str | None = None
    flags: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Topology:
    """A whole cluster."""

    name: str
    network: Network
    hosts: tuple[Host, ...]
    outside: tuple[str, int]
    units: Mapping[str, UnitOverride]
    kubelet: Mapping[str, Any] = field(default_factory=dict)  # fields of KubeletConfiguration
    runtime: str = "auto"  # what runs containers; `deploy.runtimes` says what `auto` is on a machine

    def by_role(self, role: str) -> tuple[Host, ...]:
        """The hosts of one role, in the file's order."""
        return tuple(host for host in self.hosts if host.role == role)

    def host(self, name: str) -> Host:
        """The host called `name`. Raises TopologyError."""
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise TopologyError(f"no host {name!r} in topology {self.name!r} (there are {known})")

    @property
    def server(self) -> str:
        """Where daemons dial the API: the balancer."""
        return f"https://{self.by_role('balancer')[0].address}:{API_PORT}"

    @property
    def outside_server(self) -> str:
        """Where the administrator dials the API, in the machine's own network."""
        return f"https://{self.outside[0]}:{self.outside[1]}"

    def cluster_names(self) -> ClusterNames:
        """What the certificates must name."""
        balancers = self.by_role("balancer")
        return ClusterNames(
            name=self.name,
            controllers={host.name: host.address for host in self.by_role("controller")},
            workers={host.name: host.address for host in self.by_role("worker")},
            service_ip=self.network.service_ip,
            server=self.server,
            outside_server=self.outside_server,
            domain=self.network.cluster_domain,
            extra_names=tuple(host.name for host in balancers),
            extra_ips=tuple(dict.fromkeys([*(host.address for host in balancers), self.outside[0]])),
        )


class _Section:
    """A mapping of the file: hands out typed fields and refuses, by name, whatever was not asked for."""

    def __init__(self, where: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise TopologyError(f"{where}: must be a mapping")
        self.where = where
        self.value = value
        self.seen: set[str] = set()

    def take(self, key: str, default: Any = ...) -> Any:
        self.seen.add(key)
        if key in self.value:
            return self.value[key]
        if default is ...:
            raise TopologyError(f"{self.where}{key}: required")
        return default

    def string(self, key: str, default: Any = ...) -> str:
        value = self.take(key, default)
        if not isinstance(value, str) or not value:
            raise TopologyError(f"{self.where}{key}: must be a non-empty string")
        return value

    def done(self) -> None:
        for key in self.value:
            if key not in self.seen:
                raise TopologyError(f"{self.where}{key}: unknown field")


def _address(where: str, text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as error:
        raise TopologyError(f"{where}: {text!r} is not an IPv4 address") from error


def _network_of(where: str, text: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise TopologyError(f"{where}: {text!r} is not an IPv4 network") from error


def _optional_network(where: str, value: object) -> ipaddress.IPv4Network | None:
    return None if value is None else _network_of(where, str(value))


def _parse_network(value: object) -> Network:
    section = _Section("network.", value)
    router_text = section.string("router")
    try:
        router = ipaddress.IPv4Interface(router_text)
    except ValueError as error:
        raise TopologyError(f"network.router: {router_text!r} is not an address with a prefix") from error
    network = Network(
        router=router,
        pods=_network_of("network.pods", section.string("pods")),
        node_mask_size=int(section.take("nodeMaskSize", 24)),
        services=_network_of("network.services", section.string("services")),
        cluster_dns=str(_address("network.clusterDNS", section.string("clusterDNS"))),
        cluster_domain=section.string("clusterDomain", "cluster.local"),
        proxy_mode=section.string("proxyMode", "nftables"),
        load_balancers=_optional_network("network.loadBalancers", section.take("loadBalancers", None)),
    )
    section.done()
    if network.proxy_mode not in PROXY_MODES:
        raise TopologyError(f"network.proxyMode: must be one of {', '.join(PROXY_MODES)}")
    if not network.pods.prefixlen < network.node_mask_size <= 30:
        raise TopologyError(f"network.nodeMaskSize: must lie between {network.pods.prefixlen + 1} and 30")
    if _address("network.clusterDNS", network.cluster_dns) not in network.services:
        raise TopologyError("network.clusterDNS: must lie in network.services")
    _check_disjoint(network)
    return network


def _check_disjoint(network: Network) -> None:
    """Every range of the lab is routed differently: none may lie in another. Raises TopologyError."""
    ranges = {"router": network.router.network, "pods": network.pods, "services": network.services}
    if network.load_balancers is not None:
        ranges["loadBalancers"] = network.load_balancers
    for one, other in itertools.combinations(ranges, 2):
        if ranges[one].overlaps(ranges[other]):
            raise TopologyError(f"network.{other}: overlaps network.{one}")


def _parse_host(index: int, value: object, network: Network) -> Host:
    where = f"hosts[{index}]."
    section = _Section(where, value)
    host = Host(section.string("name"), section.string("role"), section.string("address"))
    pod_cidr = section.take("podCIDR", None)
    section.done()
    if not HOST_NAME.fullmatch(host.name):
        raise TopologyError(f"{where}name: {host.name!r} must be a lower-case label of at most 15 characters")
    if host.role not in ROLES:
        raise TopologyError(f"{where}role: {host.role!r} is not one of {', '.join(ROLES)}")
    address = _address(f"{where}address", host.address)
    if address not in network.router.network or address == network.router.ip:
        raise TopologyError(f"{where}address: {address} must be a free address of {network.router.network}")
    if pod_cidr is None:
        return host
    cidr = _network_of(f"{where}podCIDR", str(pod_cidr))
    if not cidr.subnet_of(network.pods) or cidr.prefixlen != network.node_mask_size:
        raise TopologyError(f"{where}podCIDR: must be a /{network.node_mask_size} of network.pods")
    return Host(host.name, host.role, host.address, str(cidr))


def _parse_hosts(value: object, network: Network) -> tuple[Host, ...]:
    if not isinstance(value, list) or not value:
        raise TopologyError("hosts: must be a non-empty list")
    hosts = tuple(_parse_host(index, entry, network) for index, entry in enumerate(value))
    for attribute in ("name", "address"):
        seen: set[str] = set()
        for host in hosts:
            if (item := getattr(host, attribute)) in seen:
                raise TopologyError(f"hosts: {attribute} {item} appears twice")
            seen.add(item)
    counts = {role: sum(host.role == role for host in hosts) for role in ROLES}
    if counts["controller"] == 0:
        raise TopologyError("hosts: at least one controller is needed")
    if counts["balancer"] != 1:
        raise TopologyError("hosts: exactly one balancer is needed")
    return hosts


def _parse_outside(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise TopologyError(f"outside: {text!r} is not address:port")
    return str(_address("outside", address)), int(port)


def _parse_units(value: object) -> dict[str, UnitOverride]:
    units: dict[str, UnitOverride] = {}
    for name, entry in _Section("units.", value).value.items():
        section = _Section(f"units.{name}.", entry)
        program, flags = section.take("exec", None), section.take("flags", {})
        section.done()
        if not isinstance(flags, Mapping):
            raise TopologyError(f"units.{name}.flags: must be a mapping")
        texts = {
            str(flag): None if setting is None else _flag_text(setting) for flag, setting in flags.items()
        }
        units[str(name)] = UnitOverride(None if program is None else str(program), texts)
    return units


def _flag_text(value: object) -> str:
    """YAML's booleans are written as flags spell them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(document: object) -> Topology:
    """A topology from the file's content. Raises TopologyError."""
    section = _Section("", document)
    name = section.string("name")
    if not HOST_NAME.fullmatch(name):
        raise TopologyError(f"name: {name!r} must be a lower-case label of at most 15 characters")
    network = _parse_network(section.take("network"))
    topology = Topology(
        name=name,
        network=network,
        hosts=_parse_hosts(section.take("hosts"), network),
        outside=_parse_outside(section.string("outside", f"127.0.0.1:{API_PORT}")),
        units=_parse_units(section.take("units", None) or {}),
        kubelet=dict(_Section("kubelet.", section.take("kubelet", None) or {}).value),
        runtime=section.string("runtime", "auto"),
    )
    section.done()
    if topology.runtime not in RUNTIMES:
        raise TopologyError(f"runtime: must be one of {', '.join(RUNTIMES)}")
    return topology


def load(path: Path) -> Topology:
    """Read a topology file. Raises TopologyError (with the file's name), OSError."""
    try:
        return parse(yaml.safe_load(path.read_bytes()))
    except yaml.YAMLError as error:
        raise TopologyError(f"{path}: not YAML: {error}") from error
    except TopologyError as error:
        raise TopologyError(f"{path}: {error}") from error
