"""Which daemons a host runs, and their command lines (docs/seams.md, "Command lines"). Pure tables.

A unit is either `warm` (a package whose `app.main` is called in a fork of the parent that imported it) or
foreign (a program that is executed). `topology.units` may turn any warm one into a foreign one with the same
flags: that is how the real etcd, or the real kube-scheduler, takes a place in the lab.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from deploy.topology import API_PORT, Host, Topology, TopologyError

ETC = "/etc/kubernetes"
PKI = f"{ETC}/pki"
EMBEDDED = "embedded:///var/lib/embedded?images=/run/hardway/images"
CONTAINERD_SOCKET = "unix:///run/containerd/containerd.sock"
METRICS_PORT = 4443
CLOUD_CONFIG = f"{ETC}/cloud-config.yaml"
ROUTER_NETNS = "/run/hardway/router.netns"
OUTSIDE_FD_VARIABLE = "HARDWAY_OUTSIDE_FD"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One supervised process. `package` is set for a warm unit, `program` for a foreign one.

    `arguments` come before `flags` on the command line. `grace` is how long (seconds) it may take to end
    after SIGTERM before it is killed. `inherits` names file descriptors it needs from the supervisor. `wrap`
    is a command line put in front of its own.
    """

    name: str
    package: str | None = None
    program: str | None = None
    arguments: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    grace: float = 5.0
    inherits: tuple[int, ...] = ()
    wrap: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.package is None) == (self.program is None):
            raise ValueError(f"unit {self.name}: exactly one of package and program must be set")

    @property
    def argv(self) -> tuple[str, ...]:
        """Arguments without the program's own name."""
        return (*self.arguments, *(f"--{flag}={value}" for flag, value in self.flags.items()))

    @property
    def log(self) -> str:
        """Where its output goes, on its host."""
        return f"/var/log/{self.name}.log"

    def to_json(self) -> dict[str, Any]:
        """A form that `from_json` reads back."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Unit:
        """The unit that `to_json` described."""
        tuples = {key: tuple(document[key]) for key in ("arguments", "inherits", "wrap")}
        return cls(**{**document, **tuples})


def _url(address: str, port: int) -> str:
    return f"https://{address}:{port}"


def _etcd(topology: Topology, host: Host) -> Unit:
    members = ",".join(f"{peer.name}={_url(peer.address, 2380)}" for peer in topology.by_role("controller"))
    flags = {
        "name": host.name,
        "data-dir": "/var/lib/etcd",
        "cert-file": "/etc/etcd/server.pem",
        "key-file": "/etc/etcd/server-key.pem",
        "trusted-ca-file": "/etc/etcd/ca.pem",
        "client-cert-auth": "true",
        "peer-cert-file": "/etc/etcd/peer.pem",
        "peer-key-file": "/etc/etcd/peer-key.pem",
        "peer-trusted-ca-file": "/etc/etcd/ca.pem",
        "peer-client-cert-auth": "true",
        "initial-advertise-peer-urls": _url(host.address, 2380),
        "listen-peer-urls": _url(host.address, 2380),
        "listen-client-urls": f"{_url(host.address, 2379)},{_url('127.0.0.1', 2379)}",
        "advertise-client-urls": _url(host.address, 2379),
        "listen-metrics-urls": "http://127.0.0.1:2381",
        "initial-cluster": members,
        "initial-cluster-token": f"hardway-{topology.name}",
        "initial-cluster-state": "new",
    }
    return Unit(name="etcdlite", package="etcdlite", flags=flags)


def store_servers(topology: Topology, host: Host) -> str:
    """The store as the apiserver on `host` dials it: the member beside it first."""
    stores = [host, *(other for other in topology.by_role("controller") if other != host)]
    return ",".join(_url(store.address, 2379) for store in stores)


def _apiserver(topology: Topology, host: Host) -> Unit:
    flags = {
        "advertise-address": host.address,
        "bind-address": "0.0.0.0",
        "secure-port": str(API_PORT),
        "authorization-mode": "Node,RBAC",
        "client-ca-file": f"{PKI}/ca.pem",
        "enable-admission-plugins": "NamespaceLifecycle,ServiceAccount,NodeRestriction",
        "etcd-servers": store_servers(topology, host),
        "etcd-cafile": f"{PKI}/etcd-ca.pem",
        "etcd-certfile": f"{PKI}/apiserver-etcd-client.pem",
        "etcd-keyfile": f"{PKI}/apiserver-etcd-client-key.pem",
        "encryption-provider-config": f"{ETC}/encryption-config.yaml",
        "kubelet-certificate-authority": f"{PKI}/ca.pem",
        "kubelet-client-certificate": f"{PKI}/apiserver-kubelet-client.pem",
        "kubelet-client-key": f"{PKI}/apiserver-kubelet-client-key.pem",
        "proxy-client-cert-file": f"{PKI}/front-proxy-client.pem",
        "proxy-client-key-file": f"{PKI}/front-proxy-client-key.pem",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-client-ca-file": f"{PKI}/front-proxy-ca.pem",
        "service-account-issuer": f"https://kubernetes.default.svc.{topology.network.cluster_domain}",
        "service-account-key-file": f"{PKI}/service-account.pem",
        "service-account-signing-key-file": f"{PKI}/service-account-key.pem",
        "service-cluster-ip-range": str(topology.network.services),
        "service-node-port-range": "30000-32767",
        "tls-cert-file": f"{PKI}/apiserver.pem",
        "tls-private-key-file": f"{PKI}/apiserver-key.pem",
    }
    return Unit(name="apiserver", package="apiserver", flags=flags)


def _controllers(topology: Topology, host: Host) -> Unit:
    flags = {
        "kubeconfig": f"{ETC}/controller-manager.kubeconfig",
        "leader-elect": "true",
        "bind-address": "0.0.0.0",
        "secure-port": "10257",
        "allocate-node-cidrs": "true",
        "cluster-cidr": str(topology.network.pods),
        "node-cidr-mask-size": str(topology.network.node_mask_size),
        "service-cluster-ip-range": str(topology.network.services),
        "root-ca-file": f"{PKI}/ca.pem",
        "service-account-private-key-file": f"{PKI}/service-account-key.pem",
        "cluster-signing-cert-file": f"{PKI}/ca.pem",
        "cluster-signing-key-file": f"{PKI}/ca-key.pem",
        "use-service-account-credentials": "true",
        "controllers": "*,bootstrapsigner,tokencleaner",
        "cloud-provider": "external",
    }
    return Unit(name="controllers", package="controllers", flags=flags)


def _cloudcontroller(topology: Topology, host: Host) -> Unit:
    flags = {
        "kubeconfig": f"{ETC}/cloud-controller-manager.kubeconfig",
        "leader-elect": "true",
        "bind-address": "0.0.0.0",
        "secure-port": "10258",
        "cloud-provider": "lab",
        "cloud-config": CLOUD_CONFIG,
        "cluster-name": topology.name,
        "allocate-node-cidrs": "true",
        "cluster-cidr": str(topology.network.pods),
    }
    return Unit(name="cloudcontroller", package="cloudcontroller", flags=flags)


def _scheduler(topology: Topology, host: Host) -> Unit:
    flags = {
        "config": f"{ETC}/scheduler-config.yaml",
        "leader-elect": "true",
        "bind-address": "0.0.0.0",
        "secure-port": "10259",
    }
    return Unit(name="scheduler", package="scheduler", flags=flags)


def _metricsserver(topology: Topology, host: Host) -> Unit:
    flags = {
        "kubeconfig": f"{ETC}/metrics-server.kubeconfig",
        "bind-address": host.address,
        "secure-port": str(METRICS_PORT),
        "tls-cert-file": f"{PKI}/metrics-server.pem",
        "tls-private-key-file": f"{PKI}/metrics-server-key.pem",
        "kubelet-certificate-authority": f"{PKI}/ca.pem",
        "kubelet-preferred-address-types": "InternalIP",
        "kubelet-use-node-status-port": "true",
        "metric-resolution": "15s",
        "leader-elect": "true",
    }
    return Unit(name="metricsserver", package="metricsserver", flags=flags)


def _containerd(topology: Topology, host: Host) -> Unit:
    flags = {"config": "/etc/containerd/config.toml"}
    return Unit(name="containerd", program="containerd", flags=flags)


def _kubelet(cgroup_root: str) -> Callable[[Topology, Host], Unit]:
    def build(topology: Topology, host: Host) -> Unit:
        flags = {
            "config": f"{ETC}/kubelet-config.yaml",
            "kubeconfig": f"{ETC}/kubelet.kubeconfig",
            "hostname-override": host.name,
            "node-ip": host.address,
            "cloud-provider": "external",
            "container-runtime-endpoint": EMBEDDED if topology.runtime == "embedded" else CONTAINERD_SOCKET,
            "cgroup-root": cgroup_root,
        }
        return Unit(name="kubelet", package="kubelet", flags=flags)

    return build


def _kubeproxy(topology: Topology, host: Host) -> Unit:
    flags = {"config": f"{ETC}/kube-proxy-config.yaml", "hostname-override": host.name}
    return Unit(name="kubeproxy", package="kubeproxy", flags=flags)


def _haproxy(topology: Topology, host: Host) -> Unit:
    # `-db`: stay in the foreground, as a supervised process must.
    return Unit(name="haproxy", program="haproxy", arguments=("-db", "-f", "/etc/haproxy/haproxy.cfg"))


def _override(unit: Unit, topology: Topology) -> Unit:
    override = topology.units.get(unit.name)
    if override is None:
        return unit
    merged = {**unit.flags, **override.flags}
    unit = replace(unit, flags={flag: value for flag, value in merged.items() if value is not None})
    if override.exec is None:
        return unit
    return replace(unit, package=None, program=override.exec)


TABLE: Mapping[str, tuple[str, ...]] = {
    "controller": ("etcdlite", "apiserver", "controllers", "scheduler", "cloudcontroller", "metricsserver"),
    "worker": ("containerd", "kubelet", "kubeproxy"),
    "balancer": ("haproxy",),
}


def unit_names(topology: Topology, host: Host) -> tuple[str, ...]:
    """What runs on `host`: the embedded runtime is part of the kubelet."""
    names = TABLE[host.role]
    return tuple(name for name in names if name != "containerd" or topology.runtime != "embedded")


def units_for(topology: Topology, host: Host, *, cgroup_root: str) -> tuple[Unit, ...]:
    """The units of `host` in the order in which they are started; `cgroup_root` is where its pods belong.

    Raises TopologyError when the topology overrides a unit that no host runs.
    """
    known = {name for names in TABLE.values() for name in names}
    for name in topology.units:
        if name not in known:
            raise TopologyError(f"units.{name}: no such unit (there are {', '.join(sorted(known))})")
    builders: dict[str, Callable[[Topology, Host], Unit]] = {
        "etcdlite": _etcd,
        "apiserver": _apiserver,
        "controllers": _controllers,
        "scheduler": _scheduler,
        "cloudcontroller": _cloudcontroller,
        "metricsserver": _metricsserver,
        "containerd": _containerd,
        "kubelet": _kubelet(cgroup_root),
        "kubeproxy": _kubeproxy,
        "haproxy": _haproxy,
    }
    return tuple(_override(builders[name](topology, host), topology) for name in unit_names(topology, host))


def packages_of(units: Iterable[Unit]) -> tuple[str, ...]:
    """The packages that the warm parent must import, each once."""
    return tuple(dict.fromkeys(unit.package for unit in units if unit.package is not None))
