"""The whole PKI of a cluster: which authority signs what for whom, as one table, and where each file goes.

Below `<state>/pki/`: shared files at the top, one folder a host for what only that host may hold.
`Inventory.host_files` tells which of them a host gets and under which of its own paths (see docs/seams.md,
"Files on a host").
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pki import encryption, kubeconfig
from pki.ca import Authority, Ensured, ensure_authority, ensure_key, ensure_leaf, ensure_public_key, utc_now
from pki.certs import Profile, Usage
from pki.files import PRIVATE, write_if_changed

BOTH = frozenset({Usage.SERVER, Usage.CLIENT})
SERVER = frozenset({Usage.SERVER})
CLUSTER_CA, ETCD_CA, FRONT_PROXY_CA = "ca", "etcd-ca", "front-proxy-ca"
AUTHORITIES: Mapping[str, str] = {
    CLUSTER_CA: "kubernetes-ca",
    ETCD_CA: "etcd-ca",
    FRONT_PROXY_CA: "kubernetes-front-proxy-ca",
}


@dataclass(frozen=True, kw_only=True)
class ClusterNames:
    """What the certificates of a cluster must name.

    `controllers` and `workers` map host names to addresses; `service_ip` is the first address of the service
    range (the Service `kubernetes`); `server` is the URL the daemons dial, `outside_server` the one of the
    administrator.
    """

    name: str
    controllers: Mapping[str, str]
    workers: Mapping[str, str]
    service_ip: str
    server: str
    outside_server: str
    domain: str = "cluster.local"
    extra_names: tuple[str, ...] = ()
    extra_ips: tuple[str, ...] = ()

    def apiserver_names(self) -> tuple[str, ...]:
        """Every DNS name under which an apiserver is dialled."""
        service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
        qualified = tuple(f"kubernetes.default.svc.{part}" for part in _suffixes(self.domain))
        return (*service, *qualified, "localhost", *self.controllers, *self.extra_names)

    def apiserver_ips(self) -> tuple[str, ...]:
        """Every address at which an apiserver is dialled."""
        return tuple(
            dict.fromkeys((self.service_ip, *self.controllers.values(), "127.0.0.1", *self.extra_ips))
        )


def _suffixes(domain: str) -> Iterator[str]:
    """`cluster`, `cluster.local`: the hard way's certificate names both, since resolvers search step by
    step."""
    labels = domain.split(".")
    for count in range(1, len(labels) + 1):
        yield ".".join(labels[:count])


@dataclass(frozen=True)
class Leaf:
    """One row of the table: the file's stem below pki/, who signs, and what it says."""

    stem: str
    authority: str
    profile: Profile


def _shared_leaves(names: ClusterNames) -> Iterator[Leaf]:
    serving = Profile(
        common_name="kube-apiserver", dns=names.apiserver_names(), ips=names.apiserver_ips(), usages=SERVER
    )
    yield Leaf("apiserver", CLUSTER_CA, serving)
    for stem, user, groups in (
        ("admin", "admin", ("system:masters",)),
        ("controller-manager", "system:kube-controller-manager", ("system:kube-controller-manager",)),
        ("scheduler", "system:kube-scheduler", ("system:kube-scheduler",)),
        ("cloud-controller-manager", "system:cloud-controller-manager", ()),
        ("kube-proxy", "system:kube-proxy", ("system:node-proxier",)),
        ("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ()),
    ):
        yield Leaf(stem, CLUSTER_CA, Profile(common_name=user, organizations=groups))
    service = "metrics-server.kube-system.svc"
    yield Leaf(
        "metrics-server",
        CLUSTER_CA,
        Profile(
            common_name="system:metrics-server",
            dns=(service, "metrics-server.kube-system", "metrics-server"),
            usages=BOTH,
        ),
    )
    yield Leaf("apiserver-etcd-client", ETCD_CA, Profile(common_name="kube-apiserver-etcd-client"))
    yield Leaf("etcd-client", ETCD_CA, Profile(common_name="root"))
    yield Leaf("front-proxy-client", FRONT_PROXY_CA, Profile(common_name="front-proxy-client"))


def _host_leaves(names: ClusterNames) -> Iterator[Leaf]:
    for host, address in names.controllers.items():
        etcd = Profile(common_name=host, dns=(host, "localhost"), ips=(address, "127.0.0.1"), usages=BOTH)
        yield Leaf(f"{host}/etcd-server", ETCD_CA, etcd)
        yield Leaf(f"{host}/etcd-peer", ETCD_CA, etcd)
    for host, address in names.workers.items():
        kubelet = Profile(
            common_name=f"system:node:{host}",
            organizations=("system:nodes",),
            dns=(host,),
            ips=(address,),
            usages=BOTH,
        )
        yield Leaf(f"{host}/kubelet", CLUSTER_CA, kubelet)


def leaves(names: ClusterNames) -> tuple[Leaf, ...]:
    """The table of every leaf certificate of the cluster."""
    return (*_shared_leaves(names), *_host_leaves(names))


@dataclass(frozen=True)
class Inventory:
    """The PKI of one cluster on disk; `changed` lists what the last `generate` signed or wrote, and why."""

    directory: Path
    names: ClusterNames
    changed: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """The file `name` below pki/, for example `ca.pem` or `worker-0/kubelet-key.pem`."""
        return self.directory / name

    @property
    def admin_kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for use from outside the lab."""
        return self.directory / "admin.kubeconfig"

    def host_files(self, host: str) -> dict[str, Path]:
        """Absolute path on `host` -> file of this PKI to be put there (mode 0600 for keys and what embeds
        them)."""
        if host in self.names.controllers:
            return self._controller_files(host)
        if host in self.names.workers:
            return self._worker_files(host)
        return {"/etc/kubernetes/pki/ca.pem": self.path("ca.pem")}

    def _controller_files(self, host: str) -> dict[str, Path]:
        pairs = (
            "apiserver",
            "apiserver-kubelet-client",
            "apiserver-etcd-client",
            "front-proxy-client",
            "metrics-server",
        )
        stems = ["ca", "ca-key", "etcd-ca", "front-proxy-ca", "service-account", "service-account-key"]
        stems += [stem + suffix for stem in pairs for suffix in ("", "-key")]
        files = {f"/etc/kubernetes/pki/{stem}.pem": self.path(f"{stem}.pem") for stem in stems}
        files["/etc/kubernetes/encryption-config.yaml"] = self.path("encryption-config.yaml")
        files["/etc/kubernetes/admin.kubeconfig"] = self.path("admin-inside.kubeconfig")
        for user in ("controller-manager", "scheduler", "cloud-controller-manager", "metrics-server"):
            files[f"/etc/kubernetes/{user}.kubeconfig"] = self.path(f"{user}.kubeconfig")
        files["/etc/etcd/ca.pem"] = self.path("etcd-ca.pem")
        for name in ("server", "server-key", "peer", "peer-key"):
            files[f"/etc/etcd/{name}.pem"] = self.path(f"{host}/etcd-{name}.pem")
        return files

    def _worker_files(self, host: str) -> dict[str, Path]:
        return {
            "/etc/kubernetes/pki/ca.pem": self.path("ca.pem"),
            "/etc/kubernetes/pki/kubelet.pem": self.path(f"{host}/kubelet.pem"),
            "/etc/kubernetes/pki/kubelet-key.pem": self.path(f"{host}/kubelet-key.pem"),
            "/etc/kubernetes/kubelet.kubeconfig": self.path(f"{host}/kubelet.kubeconfig"),
            "/etc/kubernetes/kube-proxy.kubeconfig": self.path("kube-proxy.kubeconfig"),
        }


def kubeconfigs(names: ClusterNames) -> Iterator[tuple[str, str, str, str]]:
    """Every kubeconfig: (file, stem of the pair, user's name in the file, server)."""
    yield "admin.kubeconfig", "admin", "admin", names.outside_server
    yield "admin-inside.kubeconfig", "admin", "admin", names.server
    yield (
        "controller-manager.kubeconfig",
        "controller-manager",
        "system:kube-controller-manager",
        names.server,
    )
    yield "scheduler.kubeconfig", "scheduler", "system:kube-scheduler", names.server
    for name in ("cloud-controller-manager", "metrics-server"):
        yield f"{name}.kubeconfig", name, f"system:{name}", names.server
    yield "kube-proxy.kubeconfig", "kube-proxy", "system:kube-proxy", names.server
    for host in names.workers:
        yield f"{host}/kubelet.kubeconfig", f"{host}/kubelet", f"system:node:{host}", names.server


def _write_kubeconfigs(directory: Path, names: ClusterNames) -> Iterator[str]:
    ca_pem = (directory / "ca.pem").read_bytes()
    for file, stem, user, server in kubeconfigs(names):
        cert, key = (directory / f"{stem}.pem").read_bytes(), (directory / f"{stem}-key.pem").read_bytes()
        document = kubeconfig.build(names.name, server, ca_pem, cert, key, user=user)
        if write_if_changed(directory / file, kubeconfig.dump(document), PRIVATE):
            yield f"{file}: written"


def _certificates(directory: Path, names: ClusterNames, now: datetime.datetime) -> Iterator[str]:
    authorities: dict[str, Authority] = {
        stem: ensure_authority(directory, stem, common_name, now=now)
        for stem, common_name in AUTHORITIES.items()
    }
    for leaf in leaves(names):
        done: Ensured = ensure_leaf(directory, leaf.stem, leaf.profile, authorities[leaf.authority], now=now)
        if done.reason is not None:
            yield f"{leaf.stem}.pem: {done.reason}"
    service_account = ensure_key(directory / "service-account-key.pem")
    ensure_public_key(directory / "service-account.pem", service_account)


class Part(enum.Enum):
    """What a PKI is made of, in the order in which it is made."""

    CERTIFICATES = "certificates"
    KUBECONFIGS = "kubeconfigs"
    ENCRYPTION = "encryption"


def generate(
    state_dir: Path,
    names: ClusterNames,
    *,
    now: datetime.datetime | None = None,
    parts: Collection[Part] = tuple(Part),
) -> Inventory:
    """Make the PKI (or `parts` of it) below `<state_dir>/pki/`, or complete and renew the one that is there.

    Keys are never replaced. A certificate is signed anew when it is absent, expired or about to expire, does
    not chain to its authority, or does not say what the cluster's names ask for. Raises PKIError, OSError.
    """
    directory = state_dir / "pki"
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    changed: list[str] = []
    if Part.CERTIFICATES in parts:
        changed += _certificates(directory, names, now or utc_now())
    if Part.KUBECONFIGS in parts:
        changed += _write_kubeconfigs(directory, names)
    if Part.ENCRYPTION in parts and encryption.ensure(directory / "encryption-config.yaml"):
        changed.append("encryption-config.yaml: absent")
    return Inventory(directory, names, tuple(changed))
