"""`--cloud-config` of the cloud `lab`: where its router is, which addresses balancers get, which
machines it has.

cluster: lab
router: {netns: /run/hardway/router.netns}
balancers: {pool: 10.240.1.0/27}                     # without it there are no load balancers
instances:
  - {name: worker-0, address: 10.240.0.20, type: host, zone: "", region: ""}
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml

from cloudcontroller.cloud import Instance


class BadCloudConfig(ValueError):
    """The file cannot be used; the message names the field."""


@dataclass(frozen=True, slots=True)
class LabConfig:
    """The file's content. `instances` is by name; `network` is the pool as one range."""

    netns: str
    cluster: str = "lab"
    network: ipaddress.IPv4Network | None = None
    instances: Mapping[str, Instance] = field(default_factory=dict)

    @property
    def pool(self) -> tuple[IPv4Address, ...]:
        """The addresses for balancers: the range without its first and last, as hosts' ranges are."""
        return tuple(self.network.hosts()) if self.network else ()


def load(path: str) -> LabConfig:
    """Read the file. Raises BadCloudConfig, OSError."""
    try:
        return parse(yaml.safe_load(Path(path).read_text()))
    except yaml.YAMLError as error:
        raise BadCloudConfig(f"{path}: not YAML: {error}") from error
    except BadCloudConfig as error:
        raise BadCloudConfig(f"{path}: {error}") from error


def parse(document: Any) -> LabConfig:
    """The file's content. Raises BadCloudConfig."""
    top = _mapping("", document, {"cluster", "router", "balancers", "instances"})
    router = _mapping("router", top.get("router"), {"netns"})
    balancers = _mapping("balancers", top.get("balancers") or {}, {"pool"})
    cluster = str(top.get("cluster") or "lab")
    if not isinstance(router.get("netns"), str) or not router["netns"]:
        raise BadCloudConfig("router.netns is required")
    instances: dict[str, Instance] = {}
    for index, entry in enumerate(top.get("instances") or ()):
        name, instance = _instance(f"instances[{index}]", cluster, entry)
        instances[name] = instance
    return LabConfig(router["netns"], cluster, _pool(balancers.get("pool")), instances)


def _mapping(where: str, value: Any, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadCloudConfig(f"{where or 'the document'}: must be a mapping")
    for name in value:
        if name not in known:
            raise BadCloudConfig(f"unknown field {f'{where}.{name}'.lstrip('.')!r}")
    return value


def _pool(text: Any) -> ipaddress.IPv4Network | None:
    if text is None:
        return None
    try:
        return ipaddress.IPv4Network(str(text))
    except ValueError as error:
        raise BadCloudConfig(f"balancers.pool: {error}") from error


def _instance(where: str, cluster: str, value: Any) -> tuple[str, Instance]:
    entry = _mapping(where, value, {"name", "address", "type", "zone", "region"})
    name, address = entry.get("name"), entry.get("address")
    if not name or not address:
        raise BadCloudConfig(f"{where}: name and address are required")
    return str(name), Instance(
        provider_id=f"lab://{cluster}/{name}",
        addresses=(("InternalIP", str(address)), ("Hostname", str(name))),
        instance_type=str(entry.get("type") or ""),
        zone=str(entry.get("zone") or ""),
        region=str(entry.get("region") or ""),
    )
