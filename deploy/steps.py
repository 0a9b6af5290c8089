"""The steps from bare hosts to a cluster, in the order in which the labs take them one by one. Pure.

`hardway up` takes all of them at once; `hardway lab NN` takes those before lab NN; `hardway lab check NN`
compares the hosts with what step NN puts there. A file or unit that belongs to no step is an error, so
nothing can enter the bring-up that no lab tells of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pki.layout import Part


class StepError(ValueError):
    """Something belongs to no step, or to two."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one lab adds: files on hosts (patterns of paths), units, add-ons, a part of the PKI.

    `lab` is the number of the lab that explains and builds it by hand.
    """

    lab: int
    name: str
    files: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    addons: tuple[str, ...] = ()
    makes: Part | None = None


HOSTS = Step(
    lab=2,
    name="hosts and network",
    files=("/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/hardway/host.env"),
)
CERTIFICATES = Step(
    lab=3,
    name="certificates",
    makes=Part.CERTIFICATES,
    files=("/etc/etcd/*.pem", "/etc/kubernetes/pki/*.pem"),
)
KUBECONFIGS = Step(lab=4, name="kubeconfigs", makes=Part.KUBECONFIGS, files=("/etc/kubernetes/*.kubeconfig",))
ENCRYPTION = Step(
    lab=5,
    name="encryption key",
    makes=Part.ENCRYPTION,
    files=("/etc/kubernetes/encryption-config.yaml",),
)
STORE = Step(lab=6, name="store", units=("etcdlite",))
CONTROL_PLANE = Step(
    lab=7,
    name="control plane",
    files=(
        "/etc/kubernetes/scheduler-config.yaml",
        "/etc/kubernetes/cloud-config.yaml",
        "/etc/haproxy/haproxy.cfg",
    ),
    units=("apiserver", "controllers", "scheduler", "cloudcontroller", "haproxy"),
    addons=("10-apiserver-to-kubelet", "12-cloud-controller-manager", "15-network-policy"),
)
WORKERS = Step(
    lab=8,
    name="workers",
    files=(
        "/etc/containerd/config.toml",
        "/etc/cni/net.d/10-bridge.conflist",
        "/etc/kubernetes/kubelet-config.yaml",
        "/etc/kubernetes/kube-proxy-config.yaml",
    ),
    units=("containerd", "kubelet", "kubeproxy"),
)
CLUSTER_DNS = Step(
    lab=11,
    name="cluster DNS",
    units=("metricsserver",),
    addons=("20-cluster-dns", "30-local-path", "30-metrics-server"),
)
STEPS: tuple[Step, ...] = (
    HOSTS,
    CERTIFICATES,
    KUBECONFIGS,
    ENCRYPTION,
    STORE,
    CONTROL_PLANE,
    WORKERS,
    CLUSTER_DNS,
)


def _only(found: Sequence[Step], what: str) -> Step:
    if len(found) != 1:
        raise StepError(f"{what} belongs to {len(found)} steps of the bring-up, must be one")
    return found[0]


def of_file(path: str) -> Step:
    """The step that puts the file `path` on a host. Raises StepError."""
    return _only([step for step in STEPS if any(fnmatchcase(path, pattern) for pattern in step.files)], path)


def of_unit(name: str) -> Step:
    """The step that starts the unit `name`. Raises StepError."""
    return _only([step for step in STEPS if name in step.units], f"unit {name}")


def before(lab: int) -> tuple[Step, ...]:
    """The steps that the labs before number `lab` take."""
    return tuple(step for step in STEPS if step.lab < lab)


def at(lab: int) -> Step | None:
    """The step of lab number `lab`, if it is one of the bring-up."""
    return next((step for step in STEPS if step.lab == lab), None)
