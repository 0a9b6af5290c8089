"""The configuration files of each host, rendered from the topology. Pure: path on the host -> text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from componentbase.flags import parse_duration
from deploy.topology import API_PORT, Host, Topology
from deploy.units import (
    CLOUD_CONFIG,
    CONTAINERD_SOCKET,
    ETC,
    OUTSIDE_FD_VARIABLE,
    PKI,
    ROUTER_NETNS,
    store_servers,
)

PAUSE_IMAGE = "registry.k8s.io/pause:3.9"
CNI_BIN = "/usr/lib/cni"
CNI_CONF = "/etc/cni/net.d/10-bridge.conflist"


HOST_ENV = "/etc/hardway/host.env"
# Where programs are looked for on a host, after the folder of its Python.
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Machine:
    """What of the real machine the files depend on.

    `restrict_oom` is true where CAP_SYS_RESOURCE is missing: then runc may not lower a process'
    oom_score_adj. `limits` is false where no control group can be made. `python` is the folder of the
    interpreter that has the daemons installed.
    """

    restrict_oom: bool
    snapshotter: str = "overlayfs"
    limits: bool = True
    python: str = "/opt/hardway/.venv/bin"


def _yaml(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False)


def hosts_file(topology: Topology, host: Host) -> str:
    """/etc/hosts: every host of the lab by name."""
    lines = ["127.0.0.1 localhost", *(f"{other.address} {other.name}" for other in topology.hosts)]
    return "\n".join(lines) + "\n"


def host_environment(topology: Topology, host: Host, machine: Machine, cgroup_root: str) -> str:
    """What the service files of deploy/systemd need to know of the host they run on."""
    values = {
        "HOST": host.name,
        "ADDRESS": host.address,
        "PATH": f"{machine.python}:{SEARCH}",
    }
    if host.role == "controller":
        values["ETCD_SERVERS"] = store_servers(topology, host)
    elif host.role == "worker":
        values["CGROUP_ROOT"] = cgroup_root
    return "".join(f"{name}={value}\n" for name, value in values.items())


def resolv_conf() -> str:
    """/etc/resolv.conf: the lab has no way out, so there is nobody to ask."""
    note = "# Hosts know each other by /etc/hosts; pods ask the cluster's own DNS."
    return f"{note}\noptions timeout:1 attempts:1\n"


def cni_conflist(subnet: str) -> str:
    """The hard way's network for pods: a bridge in each node, addresses from the node's own range
    `subnet`."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            # Leases of containers that a crash took live where a reboot forgets them.
            "dataDir": "/run/cni/networks",
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    document = {"cniVersion": "0.4.0", "name": "bridge", "plugins": [bridge, portmap]}
    return json.dumps(document, indent=2) + "\n"


def containerd_config(machine: Machine) -> str:
    """config.toml of containerd 1.6 (version 2 of the format)."""
    restrict = str(machine.restrict_oom).lower()
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0

[grpc]
  address = "{CONTAINERD_SOCKET.removeprefix("unix://")}"

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = {restrict}
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{machine.snapshotter}"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false

    # The handler `crun` of a RuntimeClass: the same shim, another program.
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
        BinaryName = "crun"
        SystemdCgroup = false

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_BIN}"
    conf_dir = "/etc/cni/net.d"
"""


def haproxy_config(topology: Topology, host: Host) -> str:
    """TCP through to whichever apiservers say they are ready; TLS is theirs, from end to end.

    A server that turns unready loses its connections at once, so that watches move to another instead of
    hanging. One that is merely slow, on a machine with too much to do, keeps them: a refused check is known
    in no time, one without an answer waits for `timeout check`.
    """
    servers = "\n".join(
        f"    server {controller.name} {controller.address}:{API_PORT} check"
        for controller in topology.by_role("controller")
    )
    return f"""\
global
    maxconn 4096

defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    timeout tunnel 24h
    timeout check 5s
    retries 3
    option redispatch
    option clitcpka
    option srvtcpka

frontend kubernetes
    bind {host.address}:{API_PORT}
    bind fd@${{{OUTSIDE_FD_VARIABLE}}}
    default_backend apiservers

backend apiservers
    balance leastconn
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host kubernetes
    http-check expect status 200
    default-server check-ssl verify required verifyhost kubernetes ca-file {PKI}/ca.pem
    default-server inter 1s fastinter 250ms downinter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
{servers}
"""


def kubelet_config(topology: Topology, machine: Machine) -> str:
    """KubeletConfiguration (kubelet.config.k8s.io/v1beta1)."""
    return _yaml(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "0.0.0.0",
            "port": 10250,
            "healthzBindAddress": "127.0.0.1",
            "healthzPort": 10248,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{PKI}/ca.pem"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{PKI}/kubelet.pem",
            "tlsPrivateKeyFile": f"{PKI}/kubelet-key.pem",
            "cgroupDriver": "cgroupfs",
            "clusterDomain": topology.network.cluster_domain,
            "clusterDNS": [topology.network.cluster_dns],
            "resolvConf": "/etc/resolv.conf",
            "failSwapOn": False,
            # The hosts share the machine's disk, whose fullness is none of the lab's business; memory is.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "staticPodPath": f"{ETC}/manifests",
            **({} if machine.limits else {"cgroupsPerQOS": False, "enforceNodeAllocatable": []}),
            **topology.kubelet,
        }
    )


def shutdown_seconds(topology: Topology) -> float:
    """How long a worker waits for its pods before it goes: what the topology tells its kubelet."""
    by_priority = topology.kubelet.get("shutdownGracePeriodByPodPriority") or ()
    total = sum(float(each["shutdownGracePeriodSeconds"]) for each in by_priority)
    return total + parse_duration(str(topology.kubelet.get("shutdownGracePeriod") or "0"))


def kube_proxy_config(topology: Topology) -> str:
    """KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1)."""
    return _yaml(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": f"{ETC}/kube-proxy.kubeconfig"},
            "mode": topology.network.proxy_mode,
            "clusterCIDR": str(topology.network.pods),
            "healthzBindAddress": "0.0.0.0:10256",
            "metricsBindAddress": "127.0.0.1:10249",
        }
    )


def scheduler_config() -> str:
    """KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)."""
    return _yaml(
        {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": f"{ETC}/scheduler.kubeconfig"},
            "leaderElection": {"leaderElect": True},
        }
    )


def cloud_config(topology: Topology) -> str:
    """What the cloud `lab` is to the cloud-controller-manager: its router, its balancers' addresses, its
    machines."""
    pool = topology.network.load_balancers
    workers = topology.by_role("worker")
    document: dict[str, Any] = {"cluster": topology.name, "router": {"netns": ROUTER_NETNS}}
    if pool is not None:
        document["balancers"] = {"pool": str(pool)}
    document["instances"] = [
        {"name": host.name, "address": host.address, "type": "lab.host"} for host in workers
    ]
    return _yaml(document)


def files_for(topology: Topology, host: Host, machine: Machine, *, cgroup_root: str = "/") -> dict[str, str]:
    """Every rendered file of `host`; `cgroup_root` is where its pods belong."""
    files = {
        "/etc/hostname": host.name + "\n",
        "/etc/hosts": hosts_file(topology, host),
        "/etc/resolv.conf": resolv_conf(),
        HOST_ENV: host_environment(topology, host, machine, cgroup_root),
    }
    if host.role == "controller":
        files[f"{ETC}/scheduler-config.yaml"] = scheduler_config()
        files[CLOUD_CONFIG] = cloud_config(topology)
    elif host.role == "worker":
        files[f"{ETC}/kubelet-config.yaml"] = kubelet_config(topology, machine)
        files[f"{ETC}/kube-proxy-config.yaml"] = kube_proxy_config(topology)
        if topology.runtime != "embedded":
            files["/etc/containerd/config.toml"] = containerd_config(machine)
        if host.pod_cidr is not None:
            files[CNI_CONF] = cni_conflist(host.pod_cidr)
    elif host.role == "balancer":
        files["/etc/haproxy/haproxy.cfg"] = haproxy_config(topology, host)
    return files
