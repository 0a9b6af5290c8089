"""`KubeletConfiguration` (kubelet.config.k8s.io/v1beta1): the fields this kubelet honours. Any other is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from componentbase.flags import parse_duration
from kubelet.node.eviction import DEFAULT_HARD, SIGNALS, amount
from kubelet.node.shutdown import Period, periods

GROUP_VERSION = "kubelet.config.k8s.io/v1beta1"


class ConfigurationError(Exception):
    """The configuration cannot be used; the text names the field."""


@dataclass(frozen=True, slots=True)
class KubeletConfig:
    """The configuration with Kubernetes' defaults filled in. Durations are seconds, sizes bytes."""

    address: str = "0.0.0.0"
    port: int = 10250
    healthz_bind_address: str = "127.0.0.1"
    healthz_port: int = 10248
    tls_cert_file: str = ""
    tls_private_key_file: str = ""
    client_ca_file: str = ""
    anonymous: bool = False
    webhook_authentication: bool = True
    authentication_ttl: float = 120.0
    authorization_mode: str = "Webhook"
    authorized_ttl: float = 300.0
    unauthorized_ttl: float = 30.0
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    resolv_conf: str = "/etc/resolv.conf"
    max_pods: int = 110
    node_status_update: float = 10.0
    node_status_report: float = 300.0
    node_lease_seconds: int = 40
    cgroup_root: str = "/"
    runtime_endpoint: str = "unix:///run/containerd/containerd.sock"
    register_node: bool = True
    taints: tuple[Mapping[str, Any], ...] = ()
    system_reserved: Mapping[str, str] = field(default_factory=dict)
    kube_reserved: Mapping[str, str] = field(default_factory=dict)
    change_detection: str = "Watch"
    static_pod_path: str = ""
    rotate_certificates: bool = False
    server_tls_bootstrap: bool = False
    eviction_hard: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_HARD))
    eviction_hold: float = 300.0
    image_gc_high: int = 85
    image_gc_low: int = 80
    image_minimum_age: float = 120.0
    allowed_sysctls: tuple[str, ...] = ()
    log_max_size: str = "10Mi"
    log_max_files: int = 5
    shutdown_periods: tuple[Period, ...] = ()
    cgroups_per_qos: bool = True


def load(path: Path) -> KubeletConfig:
    """Read a file; raises `ConfigurationError`."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: not a KubeletConfiguration")
    return parse(document)


_PLAIN = {
    "address": "address",
    "port": "port",
    "healthzBindAddress": "healthz_bind_address",
    "healthzPort": "healthz_port",
    "tlsCertFile": "tls_cert_file",
    "tlsPrivateKeyFile": "tls_private_key_file",
    "clusterDomain": "cluster_domain",
    "resolvConf": "resolv_conf",
    "maxPods": "max_pods",
    "nodeLeaseDurationSeconds": "node_lease_seconds",
    "cgroupRoot": "cgroup_root",
    "containerRuntimeEndpoint": "runtime_endpoint",
    "registerNode": "register_node",
    "systemReserved": "system_reserved",
    "kubeReserved": "kube_reserved",
    "configMapAndSecretChangeDetectionStrategy": "change_detection",
    "imageGCHighThresholdPercent": "image_gc_high",
    "imageGCLowThresholdPercent": "image_gc_low",
    "staticPodPath": "static_pod_path",
    "rotateCertificates": "rotate_certificates",
    "serverTLSBootstrap": "server_tls_bootstrap",
    "containerLogMaxSize": "log_max_size",
    "containerLogMaxFiles": "log_max_files",
    "cgroupsPerQOS": "cgroups_per_qos",
}
_DURATIONS = {
    "evictionPressureTransitionPeriod": "eviction_hold",
    "imageMinimumGCAge": "image_minimum_age",
    "nodeStatusUpdateFrequency": "node_status_update",
    "nodeStatusReportFrequency": "node_status_report",
}
_FIXED: dict[str, tuple[object, ...]] = {
    "cgroupDriver": ("cgroupfs",),
    "enableServer": (True,),
    "enforceNodeAllocatable": (["pods"], []),
    "failSwapOn": (True, False),
    "readOnlyPort": (0,),
    "runtimeRequestTimeout": ("2m", "2m0s"),
    "syncFrequency": ("1m", "1m0s"),
}
"""Fields of which only these values are supported: what they say is what this kubelet does."""


def parse(document: Mapping[str, Any]) -> KubeletConfig:
    """Turn a decoded document into a configuration; raises `ConfigurationError` naming the field."""
    if document.get("kind") != "KubeletConfiguration" or document.get("apiVersion") != GROUP_VERSION:
        raise ConfigurationError(f"expected KubeletConfiguration of {GROUP_VERSION}")
    values: dict[str, Any] = {}
    for name, value in document.items():
        if name in ("kind", "apiVersion") or value is None:
            continue
        if name in _PLAIN:
            values[_PLAIN[name]] = _typed(name, _PLAIN[name], value)
        elif name in _DURATIONS:
            values[_DURATIONS[name]] = _duration(name, value)
        elif name in _FIXED:
            if value not in _FIXED[name]:
                raise ConfigurationError(f"{name}: {value!r} is not supported, only {_FIXED[name]}")
        elif name == "clusterDNS":
            values["cluster_dns"] = tuple(value)
        elif name == "allowedUnsafeSysctls":
            values["allowed_sysctls"] = tuple(value)
        elif name == "evictionHard":
            values["eviction_hard"] = _thresholds(value)
        elif name in _SHUTDOWN:
            continue  # read together, below
        elif name == "registerWithTaints":
            values["taints"] = tuple(value)
        elif name == "authentication":
            _authentication(value, values)
        elif name == "authorization":
            _authorization(value, values)
        else:
            raise ConfigurationError(f'unknown field "{name}"')
    if values.get("change_detection", "Watch") not in ("Watch", "Cache"):
        raise ConfigurationError(
            f"configMapAndSecretChangeDetectionStrategy: {values['change_detection']!r} is not supported"
        )
    enforced = bool(document.get("enforceNodeAllocatable", ["pods"]))
    if enforced != values.get("cgroups_per_qos", True):
        raise ConfigurationError('enforceNodeAllocatable: must be ["pods"] with cgroupsPerQOS, [] without')
    return KubeletConfig(**values, shutdown_periods=_shutdown(document))


_SHUTDOWN = ("shutdownGracePeriod", "shutdownGracePeriodCriticalPods", "shutdownGracePeriodByPodPriority")


def _shutdown(document: Mapping[str, Any]) -> tuple[Period, ...]:
    """The time pods have when the machine goes, said in one of two ways."""
    total, critical = (_duration(name, document.get(name) or "0") for name in _SHUTDOWN[:2])
    by_priority = document.get(_SHUTDOWN[2]) or []
    if by_priority and (total or critical):
        raise ConfigurationError(f"{_SHUTDOWN[2]}: cannot be combined with {_SHUTDOWN[0]}")
    if critical > total:
        raise ConfigurationError(f"{_SHUTDOWN[1]}: must be no longer than {_SHUTDOWN[0]}")
    for name, seconds in zip(_SHUTDOWN, (total, critical), strict=False):
        if 0 < seconds < 1:
            raise ConfigurationError(f"{name}: must be either zero or at least 1s")
    try:
        given = [(int(each["priority"]), int(each["shutdownGracePeriodSeconds"])) for each in by_priority]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{_SHUTDOWN[2]}: priority and shutdownGracePeriodSeconds are needed"
        ) from error
    return tuple(Period(*each) for each in sorted(given)) or periods(total, critical)


def _thresholds(value: Mapping[str, Any]) -> dict[str, str]:
    """Hard eviction thresholds by signal, as given: what is not named has none (as in Kubernetes)."""
    for signal, threshold in value.items():
        if signal not in SIGNALS:
            raise ConfigurationError(f"evictionHard: unknown eviction signal {signal}")
        try:
            amount(str(threshold), 100)
        except ValueError as error:
            raise ConfigurationError(f"evictionHard: {signal}: {error}") from error
    return {signal: str(threshold) for signal, threshold in value.items()}


def _typed(name: str, attribute: str, value: object) -> object:
    default = KubeletConfig.__dataclass_fields__[attribute].default
    expected = type(default) if isinstance(default, str | int | bool) else dict
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ConfigurationError(f"{name}: expected {expected.__name__}, got {value!r}")
    return value


def _duration(name: str, value: object) -> float:
    try:
        return parse_duration(str(value))
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from error


def _leaves(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out.update(_leaves(f"{prefix}.{key}", value))
        elif value is not None:
            out[f"{prefix}.{key}"] = value
    return out


def _authentication(tree: Mapping[str, Any], values: dict[str, Any]) -> None:
    for name, value in _leaves("authentication", tree).items():
        if name == "authentication.x509.clientCAFile":
            values["client_ca_file"] = value
        elif name == "authentication.anonymous.enabled":
            values["anonymous"] = bool(value)
        elif name == "authentication.webhook.enabled":
            values["webhook_authentication"] = bool(value)
        elif name == "authentication.webhook.cacheTTL":
            values["authentication_ttl"] = _duration(name, value)
        else:
            raise ConfigurationError(f'unknown field "{name}"')


def _authorization(tree: Mapping[str, Any], values: dict[str, Any]) -> None:
    for name, value in _leaves("authorization", tree).items():
        if name == "authorization.mode":
            if value not in ("Webhook", "AlwaysAllow"):
                raise ConfigurationError(f"{name}: {value!r} is not supported")
            values["authorization_mode"] = value
        elif name == "authorization.webhook.cacheAuthorizedTTL":
            values["authorized_ttl"] = _duration(name, value)
        elif name == "authorization.webhook.cacheUnauthorizedTTL":
            values["unauthorized_ttl"] = _duration(name, value)
        else:
            raise ConfigurationError(f'unknown field "{name}"')
