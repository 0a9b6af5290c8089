"""The lab's network: one bridge in one outer namespace, one cable to each host.

What is to be done is compiled into the input of `ip -batch` (pure); `run` hands it to the program inside a
namespace. The machine's own namespace is never given anything: both ends of each cable are born inside the
lab.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from deploy import linux
from deploy.topology import Host, Network

BRIDGE = "lab0"
# A router that sees a packet leave by the interface it came in on would tell the sender so; pods' routes
# depend on that detour, so the hint is switched off. Reverse-path filtering would drop what kube-proxy
# rewrites.
ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    # Connections to a load balancer are spread by their ports as well: one client, several nodes.
    "net/ipv4/fib_multipath_hash_policy": "1",
}
HOST_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
    # A pod that reaches its own node's pod through a Service crosses the bridge; the rules must see it come
    # back.
    "net/bridge/bridge-nf-call-iptables": "1",
}
TIMEOUT = 10.0


class NetworkError(Exception):
    """The lab's network could not be laid; carries what `ip` said."""


def router_plan(network: Network) -> list[str]:
    """The bridge with the gateway's address."""
    return [
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"address add {network.router} dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ]


def cable_plan(host: Host, pid: int) -> list[str]:
    """In the outer namespace: a cable from the bridge to `eth0` of the host whose pid 1 is `pid`."""
    return [
        f"link add {host.name} type veth peer name eth0 netns {pid}",
        f"link set {host.name} master {BRIDGE}",
        f"link set {host.name} up",
    ]


def host_plan(host: Host, network: Network) -> list[str]:
    """In the host: its address and the way out."""
    return [
        "link set lo up",
        f"address add {host.address}/{network.router.network.prefixlen} dev eth0",
        "link set eth0 up",
        f"route add default via {network.router.ip}",
    ]


def run(namespace: str | Path, plan: Sequence[str], *, force: bool = False) -> None:
    """Carry out a plan in the namespace at `namespace`; with `force`, go on after a line that fails.

    Raises NetworkError with the message of `ip`, which names the line.
    """
    arguments = ["ip", *(["-force"] if force else []), "-batch", "-"]
    with linux.in_network(namespace):
        done = subprocess.run(
            arguments,
            input="\n".join(plan) + "\n",
            text=True,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
    if done.returncode != 0 and not force:
        raise NetworkError(f"ip: {done.stderr.strip()}")


def set_sysctls(values: dict[str, str]) -> None:
    """Write /proc/sys of the current network namespace; one that this kernel lacks is left out."""
    for name, value in values.items():
        path = Path("/proc/sys") / name
        if path.exists():
            path.write_text(value)


def is_namespace(path: Path) -> bool:
    """Is a namespace mounted on this file?"""
    if not path.exists():
        return False
    try:
        with linux.in_network(path):
            return True
    except OSError:
        return False


def open_router(path: Path, network: Network) -> bool:
    """Make the outer namespace and pin it on `path`, unless it is there; say whether it was made."""
    if is_namespace(path):
        return False
    path.touch(mode=0o600)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.unshare(linux.CLONE_NEWNET)
        try:
            set_sysctls(ROUTER_SYSCTLS)
            # /proc/self is the thread group's leader; a single-threaded caller is that leader.
            linux.mount("/proc/self/ns/net", path, flags=linux.MS_BIND)
        finally:
            linux.setns(home, linux.CLONE_NEWNET)
    finally:
        os.close(home)
    run(path, router_plan(network))
    return True


def close_router(path: Path) -> None:
    """Let go of the outer namespace; the kernel takes the bridge and routes with it."""
    while is_namespace(path):
        linux.unmount(path, linux.MNT_DETACH)
    path.unlink(missing_ok=True)


def connect_host(router: Path, host: Host, network: Network, pid: int) -> None:
    """Plug the host in. The end of a cable to an earlier life of the host is pulled first."""
    run(router, [f"link delete {host.name}"], force=True)
    run(router, cable_plan(host, pid))
    run(f"/proc/{pid}/ns/net", host_plan(host, network))
