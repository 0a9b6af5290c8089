"""KubeProxyConfiguration (`kubeproxy.config.k8s.io/v1alpha1`). What is not supported is refused by name."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from componentbase.flags import parse_duration

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"


class ConfigError(ValueError):
    """The configuration cannot be used; the text names the field."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one proxy. Durations are seconds; an empty bind address turns the listener off."""

    mode: str = "nftables"
    kubeconfig: str = ""
    qps: float = 0.0
    burst: int = 0
    cluster_cidrs: tuple[str, ...] = ()
    hostname_override: str = ""
    healthz_bind_address: str = "0.0.0.0:10256"
    metrics_bind_address: str = "127.0.0.1:10249"
    node_port_addresses: tuple[str, ...] = ()
    masquerade_all: bool = False
    min_sync_period: float = 1.0
    sync_period: float = 30.0


_FIELDS = {
    "apiVersion",
    "kind",
    "bindAddress",
    "clientConnection",
    "clusterCIDR",
    "configSyncPeriod",
    "detectLocalMode",
    "healthzBindAddress",
    "hostnameOverride",
    "iptables",
    "metricsBindAddress",
    "mode",
    "nftables",
    "nodePortAddresses",
}
MODES = ("nftables", "iptables", "userspace")
_CLIENT_FIELDS = {"kubeconfig", "qps", "burst", "acceptContentTypes", "contentType"}
_BACKEND_FIELDS = {"masqueradeAll", "masqueradeBit", "minSyncPeriod", "syncPeriod"}


def load(path: str | Path) -> Config:
    """Raises ConfigError that names file and field, or OSError."""
    try:
        document = yaml.safe_load(Path(path).read_bytes())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    try:
        return parse(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(document: Any) -> Config:
    """Raises ConfigError."""
    if not isinstance(document, Mapping):
        raise ConfigError("must be a mapping")
    if document.get("apiVersion") != API_VERSION or document.get("kind") != "KubeProxyConfiguration":
        raise ConfigError(f"must be apiVersion {API_VERSION}, kind KubeProxyConfiguration")
    _known(document, _FIELDS, "")
    mode = document.get("mode") or "nftables"
    if mode not in MODES:
        raise ConfigError(f"mode: {mode!r} is not supported, only {', '.join(MODES)} are")
    if (local := document.get("detectLocalMode") or "ClusterCIDR") != "ClusterCIDR":
        raise ConfigError(f"detectLocalMode: {local!r} is not supported, only ClusterCIDR is")
    client = _section(document, "clientConnection", _CLIENT_FIELDS)
    backends = {
        "iptables": _section(document, "iptables", _BACKEND_FIELDS | {"localhostNodePorts"}),
        "nftables": _section(document, "nftables", _BACKEND_FIELDS),
    }
    # As in kube-proxy, the periods of mode userspace stand in the section of iptables.
    section = "nftables" if mode == "nftables" else "iptables"
    backend = backends[section]
    if backend.get("masqueradeBit", 14) not in (None, 14):
        raise ConfigError(f"{section}.masqueradeBit: only 14 is supported")
    if backend.get("localhostNodePorts"):
        raise ConfigError("iptables.localhostNodePorts: true is not supported")
    if mode == "userspace" and backend.get("masqueradeAll"):
        raise ConfigError("iptables.masqueradeAll: mode userspace translates no addresses")
    clusters = _networks(str(document.get("clusterCIDR") or "").split(","), "clusterCIDR")
    if mode == "iptables" and len(clusters) > 1:
        raise ConfigError("clusterCIDR: mode iptables takes one IPv4 range")
    defaults = Config()
    return Config(
        mode=mode,
        kubeconfig=str(client.get("kubeconfig") or ""),
        qps=float(client.get("qps") or 0),
        burst=int(client.get("burst") or 0),
        cluster_cidrs=clusters,
        hostname_override=str(document.get("hostnameOverride") or ""),
        healthz_bind_address=_bind(document, "healthzBindAddress", defaults.healthz_bind_address),
        metrics_bind_address=_bind(document, "metricsBindAddress", defaults.metrics_bind_address),
        node_port_addresses=_networks(document.get("nodePortAddresses") or [], "nodePortAddresses"),
        masquerade_all=bool(backend.get("masqueradeAll")),
        min_sync_period=_duration(backend, f"{section}.minSyncPeriod", defaults.min_sync_period),
        sync_period=_duration(backend, f"{section}.syncPeriod", defaults.sync_period),
    )


def _known(section: Mapping[str, Any], fields: set[str], prefix: str) -> None:
    for name in section:
        if name not in fields:
            raise ConfigError(f'unknown or unsupported field "{prefix}{name}"')


def _section(document: Mapping[str, Any], name: str, fields: set[str]) -> Mapping[str, Any]:
    section = document.get(name) or {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{name}: must be a mapping")
    _known(section, fields, f"{name}.")
    return section


def _networks(texts: list[str], field: str) -> tuple[str, ...]:
    found = []
    for text in texts:
        if not text.strip():
            continue
        try:
            network = ipaddress.ip_network(text.strip())
        except ValueError as error:
            raise ConfigError(f"{field}: {error}") from None
        if network.version == 4:
            found.append(str(network))
    return tuple(found)


def _bind(document: Mapping[str, Any], field: str, default: str) -> str:
    text = str(document.get(field, default) or "")
    if text and ":" not in text:
        text = f"{text}:{default.rpartition(':')[2]}"
    if text and not text.rpartition(":")[2].isdigit():
        raise ConfigError(f"{field}: {text!r} is not host:port")
    return text


def _duration(section: Mapping[str, Any], field: str, default: float) -> float:
    text = section.get(field.rpartition(".")[2])
    if text is None:
        return default
    try:
        seconds = parse_duration(str(text))
    except ValueError as error:
        raise ConfigError(f"{field}: {error}") from None
    # Go's zero duration stands for "not set" in this type.
    return seconds or default
